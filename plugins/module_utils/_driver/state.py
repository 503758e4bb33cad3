# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read from a host what the NVIDIA preflight reasons about: cards, kernels, packages, apt."""

from __future__ import annotations

import fcntl
import re
import struct
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.compatibility import (
    Card,
    describe_card,
    parse_pci_ids,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.packages import (
    OF_INTEREST,
    Package,
    parse_stanzas,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.nvidia_smi import (
    parse_kernel_module,
    read_pci,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import LocalHost

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

_DPKG_LOCKS: t.Final = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")


class SysrootHost(LocalHost):
    """The host that the module runs on, with the kernel's view of it read from somewhere else.

    Only /proc and /sys move. It lets a test give a machine without a card a stand-in one.
    """

    def __init__(self, sysroot: str) -> None:
        self._sysroot = sysroot.rstrip("/")

    def _moved(self, path: str) -> str:
        return f"{self._sysroot}{path}" if path.startswith(("/proc/", "/sys/")) else path

    def read_bytes(self, path: str) -> bytes | None:
        """Return a file's bytes; None when it is not there or not ours to read."""
        return super().read_bytes(self._moved(path))

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none when it is not there."""
        return super().names(self._moved(path))

    def resolve(self, path: str) -> str:
        """Follow symbolic links to the end."""
        return super().resolve(self._moved(path))


def read_cards(host: Host) -> list[Card]:
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
        return bool(self.nvidia and self.library and self.nvidia != self.library)


def read_loaded(host: Host) -> LoadedDriver:
    """Read what is loaded from /proc and the library's own name."""
    version, _open = parse_kernel_module(host.read("/proc/driver/nvidia/version") or "")
    modules = host.read("/proc/modules") or ""
    library = host.resolve("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")
    match = re.search(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)$", library)
    return LoadedDriver(
        nvidia=version,
        nouveau=bool(re.search(r"^nouveau ", modules, re.MULTILINE)),
        library=match[1] if match else "",
    )


def read_running_kernel(host: Host) -> str:
    """Return the release of the running kernel: 6.8.0-149-generic."""
    return (host.read("/proc/sys/kernel/osrelease") or "").strip()


def read_system(host: Host) -> str:
    """Name the system as /etc/os-release does: ubuntu 22.04."""
    pairs = (line.partition("=") for line in (host.read("/etc/os-release") or "").splitlines())
    values = {key: value.strip("\"'") for key, _unused, value in pairs}
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


def dpkg_interrupted(host: Host) -> bool:
    """Whether an installation was cut off half-way, by a power cut for instance.

    Whatever it was of: dpkg does nothing else before that is finished.
    """
    status = host.read("/var/lib/dpkg/status") or ""
    unfinished = re.search(r"^Status: \S+ \S+ (unpacked|half-|triggers-)", status, re.MULTILINE)
    journal = any(name.isdigit() for name in host.names("/var/lib/dpkg/updates"))
    return bool(unfinished) or journal


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


_NVIDIA_REPOSITORIES: t.Final = re.compile(r"nvidia\.github\.io|developer\.download\.nvidia\.com")


@dataclass(frozen=True)
class AptSource:
    """A repository, as one file under /etc/apt names it."""

    file: str
    uri: str
    signed_by: str


def read_apt_sources(host: Host) -> list[AptSource]:
    """Read the repositories of NVIDIA that apt's files name, in both of apt's formats."""
    folder = "/etc/apt/sources.list.d"
    files = ["/etc/apt/sources.list", *(f"{folder}/{name}" for name in host.names(folder))]
    sources: list[AptSource] = []
    for file in files:
        text = host.read(file) or ""
        if file.endswith(".sources"):
            sources += _deb822_sources(file, text)
        elif file.endswith(".list"):
            sources += _one_line_sources(file, text)
    return sources


def _one_line_sources(file: str, text: str) -> Iterable[AptSource]:
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[([^]]*)\]\s+)?(\S+)", line)
        if match:
            key = re.search(r"signed-by=(\S+)", match[1] or "")
            yield AptSource(file, match[2].rstrip("/"), key[1] if key else "")


def _deb822_sources(file: str, text: str) -> Iterable[AptSource]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.strip()
            for key, value in re.findall(r"^([A-Za-z-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            yield AptSource(file, uri.rstrip("/"), fields.get("signed-by", ""))


def conflicting_sources(sources: Sequence[AptSource]) -> list[tuple[AptSource, AptSource]]:
    """Find pairs that give one of NVIDIA's repositories two keys: apt refuses all lists then."""
    ours = [s for s in sources if _NVIDIA_REPOSITORIES.search(s.uri)]
    return [
        (first, second)
        for number, first in enumerate(ours)
        for second in ours[number + 1 :]
        if same_repository(first.uri, second.uri) and first.signed_by != second.signed_by
    ]


def same_repository(first: str, second: str) -> bool:
    """Whether two URIs name one repository; $(ARCH) is apt's own way to write the architecture."""
    return _spelt_out(first) == _spelt_out(second)


def _spelt_out(uri: str) -> str:
    return uri.replace("$(ARCH)", "amd64").rstrip("/")


def apt_lock_holder() -> str:
    """Name the program that holds dpkg's lock; empty when nobody does."""
    for lock in _DPKG_LOCKS:
        try:
            with Path(lock).open("rb") as file:
                asked = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
                kind, *_unused, pid = struct.unpack(
                    "hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked)
                )
        except OSError:
            continue
        if kind != fcntl.F_UNLCK:
            name = (LocalHost().read(f"/proc/{pid}/comm") or "a program").strip()
            return f"{name} (process {pid})"
    return ""
