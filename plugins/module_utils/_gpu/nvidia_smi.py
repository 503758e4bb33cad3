# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVIDIA GPUs a host has, what they hold in memory and who holds it, and how their driver is.

Everything is read: from nvidia-smi, /proc, /sys and the kernel log. A host without a GPU, without
a driver or with a broken one is described, not refused.
"""

from __future__ import annotations

import csv
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.sparerig.llm.plugins.module_utils._host.command import CommandTimedOutError

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # 0x0300 VGA, 0x0302 3D controller: what a GPU calls itself on the bus
_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_FIELDS = (
    "index",
    "name",
    "uuid",
    "pci.bus_id",
    "pci.device_id",
    "memory.total",
    "memory.used",
    "memory.free",
    "compute_cap",
    "power.limit",
    "power.draw",
    "persistence_mode",
)


@dataclass(frozen=True)
class PciDevice:
    """An NVIDIA display controller on the PCI bus, whether or not a driver has it."""

    address: str
    pci_id: str
    driver: str  # the kernel module bound to it: nvidia, nouveau, vfio-pci, or none ("")


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory."""

    pid: int
    name: str
    kind: str  # C computes, G draws, C+G does both
    used_mib: int | None
    unit: str = ""
    container: str = ""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its driver describes it. None: the driver does not say."""

    index: int
    name: str
    uuid: str
    pci_address: str
    pci_id: str
    memory_total_mib: int | None
    memory_used_mib: int | None
    memory_free_mib: int | None
    compute_capability: str
    power_limit_w: float | None
    power_draw_w: float | None
    persistence: bool | None
    processes: tuple[GpuProcess, ...] | None = None

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"GPU {self.index} ({self.name})"


@dataclass(frozen=True)
class Driver:
    """The driver's two halves and what it offers. Empty: not there, or not to be learnt."""

    kernel_module: str = ""
    library: str = ""
    cuda: str = ""
    open_module: bool | None = None

    @property
    def mismatched(self) -> bool:
        """Whether libraries and loaded kernel module come from two versions."""
        if not (self.kernel_module and self.library):
            return False
        # NVML shortens its own version: 580.159 stands for 580.159.04.
        return not f"{self.kernel_module}.".startswith(f"{self.library}.")


@dataclass(frozen=True)
class Xid:
    """An error report of the driver in the kernel log."""

    code: int
    pci_address: str
    message: str

    @property
    def hardware(self) -> bool:
        """Whether the GPU itself failed, not a program that uses it."""
        return self.code in HARDWARE_XIDS


HARDWARE_XIDS: t.Final[Mapping[int, str]] = {
    48: "uncorrectable memory error",
    61: "internal microcontroller fault",
    62: "internal microcontroller halted",
    64: "failed to retire or remap faulty memory",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of memory errors",
    94: "memory error, contained",
    95: "memory error, not contained",
    119: "the GPU's system processor does not answer",
    120: "the GPU's system processor failed",
    154: "the GPU needs a reset or a reboot",
}


@dataclass(frozen=True)
class GpuReport:
    """Everything there is to know about a host's GPUs and their driver."""

    gpus: tuple[Gpu, ...]
    pci_devices: tuple[PciDevice, ...]
    driver: Driver
    smi_error: str  # what nvidia-smi complained of; empty when it answered
    smi_missing: bool
    smi_hung: bool
    secure_boot: bool | None
    xids: tuple[Xid, ...] | None

    @property
    def present(self) -> bool:
        """Whether there is an NVIDIA GPU at all, usable or not."""
        return bool(self.gpus or self.pci_devices)


class GpuOutputError(Exception):
    """nvidia-smi answered something that is not understood."""


def read(host: Host, *, timeout: float = 30.0, kernel_log: bool = True) -> GpuReport:
    """Describe the host's GPUs; no step waits longer than the timeout, in seconds."""
    driver = _read_driver(host, timeout)
    gpus: tuple[Gpu, ...] = ()
    error, missing, hung = "", False, False
    try:
        answer = _query_gpus(host, timeout)
        if answer is None:
            missing = True
        elif isinstance(answer, str):
            error = answer
            driver = replace(driver, library=parse_library_version(error) or driver.library)
        else:
            gpus = answer
            details = host.run(["nvidia-smi", "-q", "-d", "PIDS"], timeout=timeout)
            if details is not None and details.ok:
                driver = replace(driver, cuda=parse_cuda_version(details.stdout))
                gpus = _with_processes(host, gpus, parse_processes(details.stdout))
    except CommandTimedOutError as exc:
        error, hung = str(exc), True
    return GpuReport(
        gpus=gpus,
        pci_devices=read_pci(host),
        driver=driver,
        smi_error=error,
        smi_missing=missing,
        smi_hung=hung,
        secure_boot=read_secure_boot(host, timeout=timeout),
        xids=read_xids(host, timeout=timeout) if kernel_log else None,
    )


def _query_gpus(host: Host, timeout: float) -> tuple[Gpu, ...] | str | None:
    """Ask nvidia-smi; its complaint as a string, None when there is no nvidia-smi."""
    fields = list(_FIELDS)
    while True:
        answer = host.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
            timeout=timeout,
        )
        if answer is None:
            return None
        if answer.ok:
            return parse_gpus(answer.stdout, fields)
        complaint = (answer.stdout + answer.stderr).strip()
        if complaint.startswith("No devices were found"):
            return ()
        # An older driver does not know every field: leave out what it names and ask again.
        unknown = re.search(r'Field "([^"]+)" is not a valid field', complaint)
        if unknown is None or unknown[1] not in fields:
            return complaint or f"nvidia-smi ended with {answer.rc} and said nothing"
        fields.remove(unknown[1])


def parse_gpus(text: str, fields: Iterable[str] = _FIELDS) -> tuple[Gpu, ...]:
    """Parse the CSV that nvidia-smi --query-gpu prints without header and units."""
    names = list(fields)
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if not row or row[0].startswith("No devices were found"):
            continue
        if len(row) != len(names):
            raise GpuOutputError(
                f"nvidia-smi answered {len(row)} values where {len(names)} were asked: {row!r}"
            )
        value = dict(zip(names, map(_known, row), strict=True))
        if not value["index"].isdigit():
            raise GpuOutputError(f"nvidia-smi calls a GPU {row[0]!r} where a number was asked")
        gpus.append(
            Gpu(
                index=int(value["index"]),
                name=value["name"],
                uuid=value["uuid"],
                pci_address=normal_pci_address(value["pci.bus_id"]),
                pci_id=_smi_pci_id(value["pci.device_id"]),
                memory_total_mib=_whole(value["memory.total"]),
                memory_used_mib=_whole(value["memory.used"]),
                memory_free_mib=_whole(value["memory.free"]),
                compute_capability=value.get("compute_cap", ""),
                power_limit_w=_number(value["power.limit"]),
                power_draw_w=_number(value["power.draw"]),
                persistence={"Enabled": True, "Disabled": False}.get(value["persistence_mode"]),
            )
        )
    return tuple(gpus)


def _known(value: str) -> str:
    """Drop the ways in which nvidia-smi says that it cannot say."""
    value = value.strip()
    if value.startswith("[") or value in {"N/A", "Not Supported", "Unknown Error"}:
        return ""
    return value


def _number(value: str) -> float | None:
    try:
        return float(value.split(maxsplit=1)[0]) if value else None
    except ValueError:
        return None


def _whole(value: str) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def normal_pci_address(address: str) -> str:
    """Write a PCI address the kernel's way: 0000:01:00.0."""
    match = re.fullmatch(r"([0-9A-Fa-f]+):([0-9A-Fa-f]{2}:[0-9A-Fa-f]{2})(\.[0-7])?", address)
    if match is None:
        return address
    return f"{int(match[1], 16):04x}:{match[2].lower()}{match[3] or '.0'}"


def _smi_pci_id(value: str) -> str:
    """Turn nvidia-smi's 0x250310DE, device before vendor, into 10de:2503."""
    match = re.fullmatch(r"0x([0-9A-Fa-f]{4})([0-9A-Fa-f]{4})", value)
    return f"{match[2]}:{match[1]}".lower() if match else ""


def parse_processes(text: str) -> dict[str, tuple[GpuProcess, ...]]:
    """Parse nvidia-smi -q -d PIDS: processes by PCI address, those that draw included.

    A GPU whose driver keeps its processes to itself is left out.
    """
    found: dict[str, list[dict[str, str]]] = {}
    address = ""
    for line in text.splitlines():
        heading = re.match(r"GPU ([0-9A-Fa-f:.]+)\s*$", line)
        if heading:
            address = normal_pci_address(heading[1])
            continue
        key, colon, value = (part.strip() for part in line.partition(" : "))
        if not address:
            continue
        if key == "Processes" and (not colon or value == "None"):
            found[address] = []
        elif address in found and key == "Process ID":
            found[address].append({"pid": value})
        elif found.get(address):
            found[address][-1][key] = value
    return {
        address: tuple(
            GpuProcess(
                pid=int(process["pid"]),
                name=_known(process.get("Name", "")),
                kind=_known(process.get("Type", "")),
                used_mib=_whole(_known(process.get("Used GPU Memory", ""))),
            )
            for process in processes
            if process["pid"].isdigit()
        )
        for address, processes in found.items()
    }


def _with_processes(
    host: Host, gpus: tuple[Gpu, ...], processes: Mapping[str, tuple[GpuProcess, ...]]
) -> tuple[Gpu, ...]:
    return tuple(
        replace(gpu, processes=tuple(_placed(host, p) for p in processes[gpu.pci_address]))
        if gpu.pci_address in processes
        else gpu
        for gpu in gpus
    )


def _placed(host: Host, process: GpuProcess) -> GpuProcess:
    """Say which unit or container a process belongs to."""
    unit, container = parse_cgroup(host.read(f"/proc/{process.pid}/cgroup") or "")
    return replace(process, unit=unit, container=container)


def parse_cgroup(text: str) -> tuple[str, str]:
    """Find the systemd unit and the container id in /proc/PID/cgroup, version 1 or 2.

    The unit is the innermost service or scope that is not the container's own.
    """
    paths = {}
    for line in text.splitlines():
        hierarchy, _colon, rest = line.partition(":")
        controllers, _colon, path = rest.partition(":")
        paths[controllers or hierarchy] = path
    container = next(
        (match[1] for path in paths.values() if (match := re.search(r"([0-9a-f]{64})", path))), ""
    )
    # The unified hierarchy is number 0 and has no controllers; version 1 keeps units in its own.
    path = paths.get("name=systemd", paths.get("0", ""))
    unit = next(
        (
            part
            for part in reversed(path.split("/"))
            if part.endswith((".service", ".scope")) and not (container and container in part)
        ),
        "",
    )
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), unit), container


def _read_driver(host: Host, timeout: float) -> Driver:
    version = host.read("/proc/driver/nvidia/version") or ""
    kernel_module, open_module = parse_kernel_module(version)
    return Driver(
        kernel_module=kernel_module,
        open_module=open_module,
        library=read_library(host, timeout),
    )


def parse_kernel_module(text: str) -> tuple[str, bool | None]:
    """Find version and flavour (open or proprietary) in /proc/driver/nvidia/version."""
    match = re.search(
        r"^NVRM version:.*?\bKernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE
    )
    if match is None:
        return "", None
    return match[1], "Open Kernel Module" in match[0]


_DEFAULT_LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"


def read_library(host: Host, timeout: float = 10.0) -> str:
    """Read the version that programs started now would load, without loading it.

    As the loader does: by its cache, then where the distribution puts libraries.
    """
    try:
        answer = host.run(["ldconfig", "-p"], timeout=timeout)
    except CommandTimedOutError:
        answer = None
    match = answer and re.search(r"libnvidia-ml\.so\.1 .*=> (\S+)", answer.stdout)
    library = host.resolve(match[1] if match else _DEFAULT_LIBRARY)
    version = re.search(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)$", library)
    return version[1] if version else ""


def parse_library_version(complaint: str) -> str:
    """Find the library version that nvidia-smi names when it does not fit the kernel module."""
    match = re.search(r"NVML library version: (\d+(?:\.\d+)+)", complaint)
    return match[1] if match else ""


def parse_cuda_version(text: str) -> str:
    """Find the CUDA version that the driver offers in the head of nvidia-smi -q."""
    match = re.search(r"^CUDA Version\s*: (\d+\.\d+)", text, re.MULTILINE)
    return match[1] if match else ""


def read_pci(host: Host) -> tuple[PciDevice, ...]:
    """Scan the PCI bus for NVIDIA display controllers; needs no driver and no lspci."""
    bus = "/sys/bus/pci/devices"
    devices = []
    for address in host.names(bus):
        vendor, device, kind = (
            (host.read(f"{bus}/{address}/{name}") or "").strip()
            for name in ("vendor", "device", "class")
        )
        if vendor != _NVIDIA_VENDOR or not kind.startswith(_DISPLAY_CLASS):
            continue
        link = f"{bus}/{address}/driver"
        target = host.resolve(link)
        devices.append(
            PciDevice(
                address=address,
                pci_id=f"{vendor[2:]}:{device[2:]}",
                driver="" if target.endswith("/driver") else target.rpartition("/")[2],
            )
        )
    return tuple(devices)


def read_secure_boot(host: Host, *, timeout: float = 30.0) -> bool | None:
    """Say whether Secure Boot is on; None when the firmware does not tell."""
    variable = host.read_bytes(_SECURE_BOOT)
    if variable:
        return variable[-1] == 1  # four bytes of attributes, then the value
    try:
        answer = host.run(["mokutil", "--sb-state"], timeout=timeout)
    except CommandTimedOutError:
        answer = None
    if answer is not None:
        match = re.search(r"SecureBoot (enabled|disabled)", answer.stdout)
        if match:
            return match[1] == "enabled"
    firmware = host.names("/sys/firmware")
    # A container hides the folder's content; a PC that has it but no EFI in it booted by BIOS.
    return False if firmware and "efi" not in firmware else None


def read_xids(host: Host, *, timeout: float = 30.0) -> tuple[Xid, ...] | None:
    """Read the driver's error reports since boot; None when the kernel log is not ours to read."""
    for argv in (["journalctl", "-k", "-b", "-q", "--no-pager", "-o", "cat"], ["dmesg"]):
        try:
            answer = host.run(argv, timeout=timeout)
        except CommandTimedOutError:
            continue
        # The log of a booted kernel is never empty: an empty one is one that is withheld.
        if answer is not None and answer.ok and answer.stdout.strip():
            return parse_xids(answer.stdout)
    return None


def parse_xids(text: str) -> tuple[Xid, ...]:
    """Find the driver's error reports in a kernel log, each once."""
    found = re.finditer(r"NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)(?:, )?(.*)", text)
    return tuple(
        dict.fromkeys(
            Xid(int(match[2]), normal_pci_address(match[1]), match[3].strip()) for match in found
        )
    )
