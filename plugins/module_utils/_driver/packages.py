# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages a wanted driver is made of, and what has to happen to get from here to there.

The rule that everything follows from: the kernel that boots next has its NVIDIA module.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._driver.compatibility import (
    parse_version,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import OPEN
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import (
    INSTALLED,
    Package,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Everything that belongs to a driver, of whatever branch, or to a kernel.
OF_INTEREST: t.Final = re.compile(r"nvidia|cuda|^linux-(image|headers|generic|lowlatency|virtual)")

_DRIVER_PACKAGE: t.Final = re.compile(
    r"""^(?:
        (?:lib|xserver-xorg-video-|)nvidia-(?:[a-z][a-z0-9]*-)*?(?P<userland>\d{3})
      | linux-(?:modules|objects)-nvidia-(?P<kernel>\d{3})
    )(?P<server>-server)?(?P<open>-open)?(?=$|[-:])""",
    re.VERBOSE,
)
_RELEASE: t.Final = re.compile(r"(\d+\.\d+\.\d+-\d+-[a-z0-9-]+)$")
_KERNEL_META: t.Final = re.compile(
    r"^linux-image-((?:generic|lowlatency|virtual)(?:-hwe-\d\d\.\d\d(?:-edge)?|-\d+\.\d+)?)$"
)


@dataclass(frozen=True)
class Wish:
    """The driver that is wanted."""

    branch: str
    modules: str = OPEN
    dkms: bool = False
    desktop: bool = False
    flavour: str = ""  # of the kernel; empty: the one that the host follows already

    @property
    def suffix(self) -> str:
        """How package names end: 580-server or 580-server-open."""
        return f"{self.branch}-server" + ("-open" if self.modules == OPEN else "")

    @property
    def userland(self) -> list[str]:
        """Everything but the kernel modules."""
        names = [
            f"nvidia-headless-no-dkms-{self.suffix}",
            f"nvidia-utils-{self.branch}-server",
        ]
        if self.desktop:
            names.append(f"nvidia-driver-{self.suffix}")
        return names

    def modules_for(self, kernel: str) -> str:
        """Name the package with the modules for a kernel release or for a kernel flavour."""
        return f"linux-modules-nvidia-{self.suffix}-{kernel}"

    @property
    def dkms_packages(self) -> list[str]:
        """What builds the modules on the host, in place of Canonical's signed ones."""
        return [f"nvidia-dkms-{self.suffix}", "dkms", "mokutil"]


def installed(packages: Mapping[str, Package], name: str) -> bool:
    """Whether a package is installed, all of it."""
    return name in packages and packages[name].state == INSTALLED


def kernels(packages: Mapping[str, Package]) -> list[str]:
    """List the installed kernel releases, the one that boots by default last."""
    found = {
        match[1]
        for package in packages.values()
        if package.state == INSTALLED
        and re.match(r"linux-image-(unsigned-)?\d", package.name)
        and (match := _RELEASE.search(package.name))
    }
    return sorted(found, key=parse_version)


def kernel_metas(packages: Mapping[str, Package]) -> list[str]:
    """List the installed packages that pull in new kernels."""
    pattern = r"linux(-image|-headers)?-(generic|lowlatency|virtual)(-hwe-[\d.]+(-edge)?|-[\d.]+)?$"
    return sorted(
        name for name in packages if re.match(pattern, name) and installed(packages, name)
    )


def follow_flavour(
    packages: Mapping[str, Package], running: str, ubuntu: str, first_series: str
) -> str:
    """Say which kernel flavour a host follows: that of its newest kernel, or of the running one."""
    newest = ([running] if not kernels(packages) else kernels(packages))[-1]
    for name, package in packages.items():
        match = _KERNEL_META.match(name)
        if match and installed(packages, name) and newest in package.depends:
            # A virtual machine's kernel is the generic one with fewer modules.
            return match[1].replace("virtual", "generic")
    kind = "lowlatency" if newest.endswith("-lowlatency") else "generic"
    return kind if newest.startswith(f"{first_series}.") else f"{kind}-hwe-{ubuntu}"


def leftovers(packages: Mapping[str, Package], wish: Wish | None) -> list[str]:
    """List the driver packages that are not of the wanted driver, removed ones' settings included.

    Without a wish: all driver packages.
    """
    found = []
    for name in packages:
        match = _DRIVER_PACKAGE.match(name)
        if match is None:
            if wish is None and re.match(r"linux-signatures-nvidia-", name):
                found.append(name)
            continue
        branch = match["userland"] or match["kernel"]
        if wish is None or branch != wish.branch or not match["server"] or _other(name, wish):
            found.append(name)
    return sorted(found)


def _other(name: str, wish: Wish) -> bool:
    """Whether a package of the wanted branch brings kernel modules in another way."""
    if name.startswith("nvidia-dkms-") and not wish.dkms:
        return True
    if name.startswith("linux-") and wish.dkms:
        return True
    if name.startswith("linux-objects-"):  # the proprietary modules' parts
        return wish.modules == OPEN
    is_modules = re.match(r"(linux-modules|nvidia-(headless|dkms|kernel-source|driver))-", name)
    return bool(is_modules) and ("-server-open" in name) != (wish.modules == OPEN)


@dataclass(frozen=True)
class Offer:
    """What the archive has of a wanted driver."""

    packages: Mapping[str, Package]  # by name, the newest version
    names: frozenset[str]  # of every package that could be a kernel module


@dataclass(frozen=True)
class Candidate:
    """One way of getting the wanted driver: the packages, and the kernel that boots then."""

    install: tuple[str, ...]
    boots: str


@dataclass(frozen=True)
class Plan:
    """What has to happen on the host."""

    install: Sequence[str] = ()
    purge: Sequence[str] = ()
    boots: str = ""


class NoModuleError(Exception):
    """The kernel that would boot next could not have its module."""

    def __init__(self, kernel: str, package: str) -> None:
        super().__init__(f"kernel {kernel} would boot next, and there is no package {package}")
        self.kernel = kernel
        self.package = package


def candidates(
    wish: Wish, packages: Mapping[str, Package], offer: Offer, running: str
) -> list[Candidate]:
    """List the ways to get the wanted driver, the best first.

    Best: the package that follows the kernel flavour, so that kernel and module always come
    together, with modules for the running and the newest kernel besides. Each next way leaves out
    something that the archive might not be able to send just now.
    """
    present = kernels(packages)
    newest = present[-1] if present else running
    if wish.dkms:
        headers = [f"linux-headers-{kernel}" for kernel in dict.fromkeys([running, newest])]
        return [Candidate((*wish.userland, *wish.dkms_packages, *headers), newest)]
    exact = {kernel: wish.modules_for(kernel) for kernel in (running, newest)}
    meta = wish.modules_for(wish.flavour)
    followed = _followed_kernel(offer.packages.get(meta))
    found = []
    for with_meta, with_running in ((True, True), (True, False), (False, True), (False, False)):
        if with_meta and not followed:
            continue
        brings = followed if with_meta else ""
        boots = max(newest, brings, key=parse_version)
        wanted = {newest} if boots == newest else set()
        if with_running and exact[running] in offer.names:
            wanted.add(running)
        names = [exact[kernel] for kernel in sorted(wanted - {brings}, reverse=True)]
        if offer.names.issuperset(names):
            found.append(Candidate((*wish.userland, *([meta] if with_meta else []), *names), boots))
    if not found:
        raise NoModuleError(newest, exact[newest])
    return list(dict.fromkeys(found))


def _followed_kernel(meta: Package | None) -> str:
    """Find the kernel release that a module metapackage brings modules for."""
    match = meta and re.search(
        r"linux-modules-nvidia-\d+(?:-server)?(?:-open)?-(\d+\.\d+\.\d+-\d+-[a-z0-9-]+)",
        meta.depends,
    )
    return match[1] if match else ""


def transitional(headless: Package, branch: str) -> str:
    """Name the branch that a package really installs, when it is only a name for another one."""
    found = re.findall(r"\bnvidia-(?:headless-no-dkms|kernel-common)-(\d{3})\b", headless.depends)
    return "" if not found or branch in found else str(found[0])


def missing(wish: Wish, packages: Mapping[str, Package], running: str) -> list[str]:
    """List what the host lacks of the wanted driver, without asking the archive.

    The newest kernel has to have its module, or be built one; the running one needs none if it is
    not the one that boots next.
    """
    present = kernels(packages)
    wanted = list(wish.userland)
    if wish.dkms:
        wanted += wish.dkms_packages
    else:
        wanted.append(wish.modules_for(present[-1] if present else running))
    return [name for name in wanted if not installed(packages, name)]


def holds(wish: Wish, packages: Mapping[str, Package]) -> list[str]:
    """List what only this role may change: the driver's packages, and those that bring kernels."""
    driver = [
        name
        for name in packages
        if installed(packages, name) and _DRIVER_PACKAGE.match(name) and ":" not in name
    ]
    others = leftovers(packages, wish)
    return sorted([*(name for name in driver if name not in others), *kernel_metas(packages)])


@dataclass(frozen=True, kw_only=True)
class KernelState:
    """What the kernel has loaded, and which kernel boots next."""

    running: str
    boots: str
    running_has_module: bool
    loaded: str  # the version of the loaded NVIDIA module; empty: none
    nouveau: bool


def reboot_reasons(state: KernelState, wanted: str) -> list[str]:
    """Say why only a reboot brings the wanted driver version; nothing when it is not needed."""
    reasons = []
    if state.nouveau:
        reasons.append("nouveau drives the card, and has to stay out from the boot on")
    if state.loaded and wanted and state.loaded != wanted:
        reasons.append(f"driver {state.loaded} is loaded while the libraries are {wanted}")
    if not state.loaded and not state.running_has_module and state.boots != state.running:
        reasons.append(
            f"the running kernel {state.running} has no NVIDIA module, {state.boots} has"
        )
    return reasons
