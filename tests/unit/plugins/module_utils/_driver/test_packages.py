# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel that boots next has its module: which packages that takes."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver import packages as pkg
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import (
    Package,
    parse_stanzas,
)

if t.TYPE_CHECKING:
    from pathlib import Path

K138, K149, GA = "6.8.0-138-generic", "6.8.0-149-generic", "5.15.0-204-generic"
WISH = pkg.Wish("580", flavour="generic-hwe-22.04")
META = "linux-modules-nvidia-580-server-open-generic-hwe-22.04"
USERLAND = ["nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"]


def packages(*names: str, **more: Package) -> dict[str, Package]:
    found = {name: Package(name, "1") for name in names}
    return found | {package.name: package for package in more.values()}


def modules(kernel: str) -> str:
    return f"linux-modules-nvidia-580-server-open-{kernel}"


def offer(*kernels: str, followed: str = K149) -> pkg.Offer:
    meta = Package(META, "6.8.0", f"{modules(followed)} (= 1), nvidia-kernel-common (>= 580)")
    return pkg.Offer({META: meta}, frozenset([META, *(modules(k) for k in kernels)]))


@pytest.mark.parametrize(
    ("names", "kernels"),
    [
        ((), []),
        ((f"linux-image-{K149}", f"linux-image-{K138}"), [K138, K149]),
        ((f"linux-image-{K138}", f"linux-image-{GA}", "linux-image-generic"), [GA, K138]),
        (("linux-image-unsigned-6.8.0-99-lowlatency",), ["6.8.0-99-lowlatency"]),
        ((f"linux-image-{K149}", "linux-image-6.8.0-1070-aws"), [K149, "6.8.0-1070-aws"]),
    ],
)
def test_kernels_are_sorted_as_a_boot_loader_does(
    names: tuple[str, ...], kernels: list[str]
) -> None:
    assert pkg.kernels(packages(*names)) == kernels


def test_a_removed_kernel_does_not_boot() -> None:
    gone = Package(f"linux-image-{K149}", "1", state="config-files")
    assert pkg.kernels(packages(f"linux-image-{K138}", gone=gone)) == [K138]


@pytest.mark.parametrize(
    ("meta", "kernel", "flavour"),
    [
        ("linux-image-generic-hwe-22.04", K149, "generic-hwe-22.04"),
        ("linux-image-generic", GA, "generic"),
        ("linux-image-virtual", GA, "generic"),
        ("linux-image-virtual-hwe-22.04", K149, "generic-hwe-22.04"),
        ("linux-image-lowlatency-hwe-22.04", "6.8.0-149-lowlatency", "lowlatency-hwe-22.04"),
        ("linux-image-generic-6.8", K149, "generic-6.8"),
        ("", K149, "generic-hwe-22.04"),
        ("", GA, "generic"),
        ("", "5.15.0-204-lowlatency", "lowlatency"),
    ],
)
def test_follow_flavour(meta: str, kernel: str, flavour: str) -> None:
    found = packages(f"linux-image-{kernel}")
    if meta:
        found[meta] = Package(meta, "1", f"linux-image-{kernel}, linux-firmware")
    assert pkg.follow_flavour(found, kernel, "22.04", "5.15") == flavour


def test_without_any_kernel_package_the_running_one_says_the_flavour() -> None:
    assert pkg.follow_flavour({}, GA, "22.04", "5.15") == "generic"


@pytest.mark.parametrize(
    ("installed", "running", "offered", "first"),
    [
        # Nothing there yet: kernel and module come together.
        ((), K149, (K149,), ([META], K149)),
        # The newest kernel is the archive's newest.
        ((K149,), K149, (K149,), ([META], K149)),
        # An older kernel runs: it gets its module too, and the newer one boots next.
        ((K138,), K138, (K138, K149), ([META, modules(K138)], K149)),
        # The running kernel is too old for the archive: the newer one boots next.
        ((K138,), K138, (K149,), ([META], K149)),
        # A newer kernel than the flavour's waits for its boot.
        ((K149, "6.8.0-150-generic"), K149, (K149, "6.8.0-150-generic"),
         ([META, modules("6.8.0-150-generic")], "6.8.0-150-generic")),
    ],
)  # fmt: skip
def test_the_best_way(
    installed: tuple[str, ...],
    running: str,
    offered: tuple[str, ...],
    first: tuple[list[str], str],
) -> None:
    present = packages(*(f"linux-image-{kernel}" for kernel in installed))
    best = pkg.candidates(WISH, present, offer(*offered), running)[0]
    names, boots = first
    assert list(best.install) == [*USERLAND, *names]
    assert best.boots == boots


def test_every_way_leaves_a_module_for_the_kernel_that_boots() -> None:
    ways = pkg.candidates(WISH, packages(f"linux-image-{K138}"), offer(K138, K149), K138)
    assert [(way.install[2:], way.boots) for way in ways] == [
        ((META, modules(K138)), K149),
        ((META,), K149),
        ((modules(K138),), K138),
    ]


def test_no_way_where_the_newest_kernel_has_no_module() -> None:
    mainline = "6.18.0-1-mainline"
    with pytest.raises(pkg.NoModuleError) as error:
        pkg.candidates(WISH, packages(f"linux-image-{mainline}"), offer(K149), K149)
    assert error.value.kernel == mainline
    assert error.value.package == modules(mainline)


def test_dkms_needs_the_headers_of_both_kernels() -> None:
    wish = pkg.Wish("580", dkms=True)
    ways = pkg.candidates(wish, packages(f"linux-image-{K149}"), offer(), K138)
    assert list(ways[0].install) == [
        *USERLAND, "nvidia-dkms-580-server-open", "dkms", "mokutil",
        f"linux-headers-{K138}", f"linux-headers-{K149}",
    ]  # fmt: skip


KEPT = [
    "nvidia-headless-no-dkms-580-server-open",
    "nvidia-utils-580-server",
    "nvidia-kernel-common-580-server",
    "nvidia-kernel-source-580-server-open",
    "nvidia-compute-utils-580-server",
    "nvidia-firmware-580-server-580.178.04",
    "libnvidia-compute-580-server",
    "libnvidia-cfg1-580-server",
    META,
    modules(K149),
]
GONE = [
    "nvidia-driver-535",
    "libnvidia-gl-535",
    "libnvidia-gl-535:i386",
    "xserver-xorg-video-nvidia-535",
    "nvidia-headless-no-dkms-580-server",  # proprietary, where the open ones are wanted
    "nvidia-kernel-source-580-server",
    "linux-objects-nvidia-580-server-6.8.0-149-generic",
    "linux-modules-nvidia-580-server-generic-hwe-22.04",
    "linux-modules-nvidia-595-server-open-6.8.0-149-generic",
    "nvidia-utils-580",  # the desktop's flavour of the same branch
    "nvidia-firmware-595-server-595.91.07",
    "nvidia-dkms-580-server-open",
]
NEITHER = [
    "nvidia-settings",
    "nvidia-container-toolkit",
    "libnvidia-container1",
    "cuda-toolkit-12-1",
]


def test_leftovers() -> None:
    found = pkg.leftovers(packages(*KEPT, *GONE, *NEITHER), WISH)
    assert found == sorted(GONE)


def test_leftovers_of_the_proprietary_modules() -> None:
    wish = pkg.Wish("580", modules="proprietary")
    names = [
        "nvidia-headless-no-dkms-580-server",
        "linux-objects-nvidia-580-server-6.8.0-149-generic",
        "linux-modules-nvidia-580-server-6.8.0-149-generic",
        "linux-signatures-nvidia-6.8.0-149-generic",
    ]
    assert pkg.leftovers(packages(*names, META), wish) == [META]


def test_all_goes_when_the_driver_is_not_wanted() -> None:
    names = [*KEPT, *GONE, "linux-signatures-nvidia-6.8.0-149-generic"]
    assert pkg.leftovers(packages(*names, *NEITHER), None) == sorted(names)


def test_holds() -> None:
    kernel = "linux-image-generic-hwe-22.04"
    removed = Package("nvidia-driver-580-server-open", "1", state="config-files")
    found = pkg.holds(WISH, packages(*KEPT, *GONE, *NEITHER, kernel, removed=removed))
    assert found == sorted([*KEPT, kernel])


@pytest.mark.parametrize(
    ("installed", "missing"),
    [
        ((), [*USERLAND, modules(K149)]),
        ((*USERLAND, modules(K149)), []),
        ((*USERLAND, modules(K138), f"linux-image-{K138}"), []),
        ((*USERLAND, modules(K138), f"linux-image-{K149}"), [modules(K149)]),
    ],
)
def test_missing(installed: tuple[str, ...], missing: list[str]) -> None:
    assert pkg.missing(WISH, packages(*installed), K149) == missing


@pytest.mark.parametrize(
    ("package", "branch", "real"),
    [
        ("nvidia-headless-no-dkms-580-server-open", "580", ""),
        ("nvidia-headless-no-dkms-580-server", "580", ""),
        ("nvidia-headless-no-dkms-535-server", "535", "580"),
        ("nvidia-headless-no-dkms-550-server", "550", "570"),
    ],
)
def test_a_branch_that_is_only_a_name(fixtures: Path, package: str, branch: str, real: str) -> None:
    text = (fixtures / "nvidia_host" / "apt-cache-show.txt").read_text()
    assert pkg.transitional(parse_stanzas(text, pkg.OF_INTEREST)[package], branch) == real


def kernel(running: str, boots: str, *, has: bool, loaded: str, nouveau: bool) -> pkg.KernelState:
    return pkg.KernelState(
        running=running, boots=boots, running_has_module=has, loaded=loaded, nouveau=nouveau
    )


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        (kernel(K149, K149, has=True, loaded="580.178.04", nouveau=False), []),
        (kernel(K149, K149, has=True, loaded="", nouveau=False), []),
        (kernel(K149, K149, has=True, loaded="", nouveau=True), ["nouveau drives the card"]),
        (
            kernel(K149, K149, has=True, loaded="580.95.05", nouveau=False),
            ["driver 580.95.05 is loaded"],
        ),
        (
            kernel(K138, K149, has=False, loaded="", nouveau=False),
            [f"the running kernel {K138} has no"],
        ),
        (kernel(K138, K149, has=True, loaded="580.178.04", nouveau=False), []),
        (kernel(K149, K149, has=False, loaded="", nouveau=False), []),
    ],
)
def test_reboot_reasons(state: pkg.KernelState, reasons: list[str]) -> None:
    found = pkg.reboot_reasons(state, "580.178.04")
    assert len(found) == len(reasons)
    for text, start in zip(found, reasons, strict=True):
        assert text.startswith(start)
