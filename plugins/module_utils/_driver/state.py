# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read from a host what the NVIDIA preflight reasons about: cards, kernels, driver packages."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.packages import OF_INTEREST
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import (
    PciCard,
    describe_card,
    parse_pci_ids,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.nvidia_smi import (
    Driver,
    parse_kernel_module,
    read_library,
    read_pci,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import (
    Package,
    parse_stanzas,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.requirements import (
    parse_os_release,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host


def read_cards(host: Host) -> list[PciCard]:
    """Find and name the NVIDIA cards on the PCI bus; needs no driver."""
    devices = read_pci(host)
    listed = parse_pci_ids(host.read("/usr/share/misc/pci.ids") or "") if devices else {}
    return [describe_card(device.address, device.pci_id, listed) for device in devices]


@dataclass(frozen=True)
class LoadedDriver:
    """What of drivers the kernel has loaded, and what programs would load."""

    nvidia: str  # version; empty: not loaded
    nouveau: bool
    library: str  # version of libnvidia-ml, as a program started now would get it

    @property
    def mismatched(self) -> bool:
        """Whether the loaded module and the libraries come from two versions."""
        return Driver(self.nvidia, self.library).mismatched


def read_loaded(host: Host) -> LoadedDriver:
    """Read what is loaded from /proc and the library's own name."""
    version, _open = parse_kernel_module(host.read("/proc/driver/nvidia/version") or "")
    modules = host.read("/proc/modules") or ""
    return LoadedDriver(
        nvidia=version,
        nouveau=bool(re.search(r"^nouveau ", modules, re.MULTILINE)),
        library=read_library(host),
    )


def read_running_kernel(host: Host) -> str:
    """Return the release of the running kernel: 6.8.0-149-generic."""
    return (host.read("/proc/sys/kernel/osrelease") or "").strip()


def read_system(host: Host) -> str:
    """Name the system as /etc/os-release does: ubuntu 22.04."""
    values = parse_os_release(host.read("/etc/os-release") or "")
    return f"{values.get('ID', 'unknown')} {values.get('VERSION_ID', '')}".strip()


def module_on_disk(host: Host, kernel: str) -> bool:
    """Whether a kernel has an NVIDIA module that it could load."""
    answer = host.run(["modinfo", "-k", kernel, "-F", "version", "nvidia"], timeout=10.0)
    return answer is not None and answer.ok


def key_enrolled(host: Host, key: str) -> bool | None:
    """Whether the firmware knows the key that this host signs modules with; None: can't be told."""
    answer = host.run(["mokutil", "--test-key", key], timeout=10.0)
    return None if answer is None else "is already enrolled" in answer.stdout


def check_ram(host: Host, needed_gib: float) -> Check:
    """Compare the main memory with what is needed."""
    match = re.search(r"MemTotal:\s+(\d+) kB", host.read("/proc/meminfo") or "")
    has = int(match[1]) / 2**20 if match else 0.0
    expected, seen = f"{needed_gib:g} GiB", f"{has:.1f} GiB"
    if not match:
        return Check.unknown("ram", expected=expected, seen="/proc/meminfo does not say")
    # A stick of 16 GiB shows a little less: the firmware and the kernel keep some.
    if has >= needed_gib * 0.94:
        return Check.passed("ram", expected=expected, seen=seen)
    cause = f"{needed_gib:g} GiB of main memory are needed and the PC has {has:.1f} GiB."
    failure = describe("ram-too-small", cause=cause)
    return Check.failed("ram", failure, expected=expected, seen=seen)


def read_slept(host: Host) -> int:
    """Return how often the PC slept and woke since its boot."""
    return int((host.read("/sys/power/suspend_stats/success") or "0").strip() or 0)


def read_packages(host: Host) -> dict[str, Package]:
    """Read the driver and kernel packages that dpkg knows."""
    return parse_stanzas(host.read("/var/lib/dpkg/status") or "", OF_INTEREST)


@dataclass(frozen=True)
class Foreign:
    """A driver that does not come from the distribution's archive."""

    origin: str
    what: str
    remedy: str


_NVIDIA_ARCHIVE: t.Final = "NVIDIA's own apt repository"
_NVIDIA_ARCHIVE_FROM: t.Final = 520  # Ubuntu 22.04 was released with branches up to 510


def find_foreign(host: Host, packages: Mapping[str, Package]) -> list[Foreign]:
    """Find drivers that did not come from Ubuntu's archive, by the marks that they leave."""
    found = []
    if "nvidia-uninstall" in host.names("/usr/bin"):
        found.append(
            Foreign(
                "NVIDIA's .run installer",
                "/usr/bin/nvidia-uninstall",
                "`sudo nvidia-uninstall --silent`, then reboot",
            )
        )
    strange: dict[str, list[str]] = {}
    for package in packages.values():
        origin = _origin(package) if package.state == "installed" else ""
        if origin:
            strange.setdefault(origin, []).append(package.name)
    for origin, names in strange.items():
        found.append(
            Foreign(
                origin, " ".join(sorted(names)), f"`sudo apt-get purge {' '.join(sorted(names))}`"
            )
        )
    return found


def _origin(package: Package) -> str:
    """Tell from name and version where a driver package came from; empty: Ubuntu's archive.

    NVIDIA's own packages end in -0ubuntu1 or -1ubuntu1; those of Ubuntu with these endings are of
    branches older than any that matters here.
    """
    if re.match(r"cuda-drivers|nvidia-open(-\d|$)|nvidia-driver-pinning", package.name):
        return _NVIDIA_ARCHIVE
    versioned = re.match(r"(?:lib)?nvidia-\S*?(\d{3})", package.name)
    if versioned and "~gpu" in package.version:
        return "the graphics-drivers PPA"
    if (
        versioned
        and int(versioned[1]) >= _NVIDIA_ARCHIVE_FROM
        and re.search(r"-[01]ubuntu1$", package.version)
    ):
        return _NVIDIA_ARCHIVE
    return ""
