# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of NVIDIA GPUs: the driver, their memory and who holds it, errors of the hardware."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import StopSectionError
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._gpu.nvidia_smi import (
        Gpu,
        GpuReport,
        Xid,
    )
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

_FELL_OFF_THE_BUS = 79  # the Xid


@dataclass(frozen=True)
class GpuExpectations:
    """What is expected of the GPUs. None: whatever it is."""

    policy: str = "optional"  # required, optional, absent
    gpus: Sequence[str] = ()  # numbers or UUIDs; none means all
    min_free_mib: int | None = None
    max_used_mib: int | None = None
    max_process_mib: int | None = None
    max_other_mib: int | None = None


def read_gpus(host: Host, timeout: float, evidence: Evidence) -> GpuReport | None:
    """Read the GPUs; an answer that is not understood is a failure of its own."""
    try:
        return nvidia_smi.read(host, timeout=timeout)
    except nvidia_smi.GpuOutputError as exc:
        expected = "an answer from nvidia-smi that is understood"
        evidence.failed(
            "gpu_driver", "driver-answer-not-understood", expected=expected, seen=str(exc)
        )
        return None


def check_gpus(
    report: GpuReport,
    expectations: GpuExpectations,
    evidence: Evidence,
    container_id: str | None = None,
) -> list[Gpu]:
    """Check the driver and the memory of its GPUs; return the GPUs that were looked at.

    ``container_id``: the container that the engine runs in; None where that is not known.
    """
    gpus: list[Gpu] = []
    with evidence.section(["gpu_memory"]):
        _check_driver(report, expectations, evidence)
        gpus = _selected(report, expectations, evidence)
        for gpu in gpus:
            _check_memory(gpu, expectations, evidence)
            _check_processes(gpu, expectations, evidence, container_id)
        _check_xids(report, gpus, evidence)
        if container_id and gpus and expectations.policy == "required":
            _check_engine_on_gpu(gpus, container_id, evidence)
    return gpus


def _check_driver(report: GpuReport, expectations: GpuExpectations, evidence: Evidence) -> None:
    """Check that the driver works, or that there is rightly nothing for it to do."""
    if expectations.policy == "absent":
        evidence.verdict(
            "gpu_driver",
            "gpu-unexpected",
            good=not report.gpus,
            expected="no usable NVIDIA GPU",
            seen=", ".join(gpu.label for gpu in report.gpus) or "none",
        )
        raise StopSectionError("no GPU is wanted")
    if report.gpus and not report.driver.mismatched:
        evidence.passed(
            "gpu_driver",
            expected="a driver that answers",
            seen=f"driver {report.driver.kernel_module or 'of unknown version'},"
            f" {len(report.gpus)} GPU(s)",
        )
        return
    failure, seen = _driver_failure(report)
    if expectations.policy == "required":
        evidence.stop("gpu_driver", failure, expected="a GPU with a driver that answers", seen=seen)
    if report.present:
        evidence.unknown(
            "gpu_driver",
            expected="a GPU with a driver that answers, if there is a GPU",
            seen=seen,
            cause=f"{failure}, which gpu=optional lets pass",
        )
    else:
        evidence.passed("gpu_driver", expected="a GPU, if there is one", seen=seen)
    raise StopSectionError("there is no usable GPU")


def _driver_failure(report: GpuReport) -> tuple[str, str]:
    """Name what is wrong with the driver."""
    error, driver = report.smi_error, report.driver
    if driver.mismatched or "version mismatch" in error:
        versions = f"kernel module {driver.kernel_module or '?'}, library {driver.library or '?'}"
        return "driver-library-mismatch", versions
    if report.smi_hung:
        return "driver-hung", error
    cards = ", ".join(f"{d.pci_id} at {d.address}" for d in report.pci_devices)
    holders = ", ".join(sorted({d.driver or "no kernel module" for d in report.pci_devices}))
    if not report.present and (report.smi_missing or not driver.kernel_module):
        return "gpu-missing", "no NVIDIA display controller on the PCI bus"
    if report.smi_missing:
        return "driver-missing", f"no nvidia-smi; {cards} held by {holders}"
    if re.search(r"communicate with the NVIDIA driver|Driver Not Loaded", error):
        return "driver-not-loaded", f"nvidia-smi says: {' '.join(error.split())}"
    failure = "gpu-fell-off-the-bus" if _fell_off(report.xids or ()) else "gpu-lost"
    return failure, f"nvidia-smi says: {' '.join(error.split()) or 'No devices were found'}"


def _fell_off(xids: Iterable[Xid]) -> bool:
    """Whether one of the errors is that of a card that is gone."""
    return any(xid.code == _FELL_OFF_THE_BUS for xid in xids)


def _selected(report: GpuReport, expectations: GpuExpectations, evidence: Evidence) -> list[Gpu]:
    """Pick the listed GPUs, all when none is listed."""
    if not expectations.gpus:
        return list(report.gpus)
    chosen = {
        wanted: next((g for g in report.gpus if wanted in {str(g.index), g.uuid}), None)
        for wanted in expectations.gpus
    }
    missing = [wanted for wanted, gpu in chosen.items() if gpu is None]
    there = ", ".join(f"{gpu.index} = {gpu.uuid}" for gpu in report.gpus)
    if missing:
        evidence.stop(
            "gpu_list", "gpu-not-found", expected=f"GPU {', '.join(missing)}", seen=f"GPUs {there}"
        )
    evidence.passed(
        "gpu_list", expected=f"GPU {', '.join(expectations.gpus)}", seen=f"GPUs {there}"
    )
    return [gpu for gpu in chosen.values() if gpu is not None]


def _check_memory(gpu: Gpu, expectations: GpuExpectations, evidence: Evidence) -> None:
    """Check one GPU's free and used memory."""
    free, used = gpu.memory_free_mib, gpu.memory_used_mib
    if free is None or used is None:
        evidence.unknown(
            "gpu_memory",
            expected=f"memory of {gpu.label} in MiB",
            seen="not available",
            cause="the driver does not tell it for this GPU",
        )
        return
    evidence.passed(
        "gpu_memory",
        expected=f"memory of {gpu.label} as its driver tells it",
        seen=f"{used} of {gpu.memory_total_mib} MiB used, {free} MiB free",
    )
    if expectations.min_free_mib is not None:
        evidence.verdict(
            "gpu_memory_free",
            "gpu-memory-low",
            good=free >= expectations.min_free_mib,
            expected=f"at least {expectations.min_free_mib} MiB free on {gpu.label}",
            seen=f"{free} MiB free{_holders(gpu)}",
        )
    if expectations.max_used_mib is not None:
        evidence.verdict(
            "gpu_memory_used",
            "gpu-memory-high",
            good=used <= expectations.max_used_mib,
            expected=f"at most {expectations.max_used_mib} MiB used on {gpu.label}",
            seen=f"{used} MiB used{_holders(gpu)}",
        )


def _holders(gpu: Gpu) -> str:
    """List who holds the memory, largest first, to go behind a figure."""
    held = sorted(gpu.processes or (), key=lambda p: p.used_mib or 0, reverse=True)
    if not held:
        return ""
    return ", held by " + ", ".join(
        f"{p.name} (PID {p.pid}{f', {p.unit}' if p.unit else ''}): {_mib(p.used_mib)}" for p in held
    )


def _mib(value: int | None) -> str:
    return "an unknown amount" if value is None else f"{value} MiB"


def _check_processes(
    gpu: Gpu, expectations: GpuExpectations, evidence: Evidence, container_id: str | None
) -> None:
    """Check what single processes hold, and what those outside the container hold together."""
    limits = (expectations.max_process_mib, expectations.max_other_mib)
    if limits == (None, None):
        return
    if gpu.processes is None or any(process.used_mib is None for process in gpu.processes):
        evidence.unknown(
            "gpu_processes",
            expected=f"the memory that each process holds on {gpu.label}",
            seen=_holders(gpu).removeprefix(", ") or "not available",
            cause="the driver does not tell it here (a virtual machine, or another user's process)",
        )
        return
    if expectations.max_process_mib is not None:
        most = max((process.used_mib or 0 for process in gpu.processes), default=0)
        evidence.verdict(
            "gpu_process_memory",
            "gpu-process-memory",
            good=most <= expectations.max_process_mib,
            expected=f"at most {expectations.max_process_mib} MiB in each process on {gpu.label}",
            seen=f"at most {most} MiB{_holders(gpu)}",
        )
    if expectations.max_other_mib is not None:
        others = sum(
            p.used_mib or 0
            for p in gpu.processes
            if not container_id or p.container != container_id
        )
        evidence.verdict(
            "gpu_other_processes",
            "gpu-other-processes",
            good=others <= expectations.max_other_mib,
            expected=f"at most {expectations.max_other_mib} MiB held outside the container"
            f" on {gpu.label}",
            seen=f"{others} MiB{_holders(gpu)}",
        )


def _check_xids(report: GpuReport, gpus: Sequence[Gpu], evidence: Evidence) -> None:
    """Check the kernel log for errors of the hardware since boot."""
    expected = "no hardware error (Xid) in the kernel log since boot"
    if report.xids is None:
        evidence.unknown(
            "gpu_xid", expected=expected, seen="", cause="the kernel log is for root to read"
        )
        return
    addresses = {gpu.pci_address for gpu in gpus}
    ours = [xid for xid in report.xids if xid.pci_address in addresses]
    broken = [xid for xid in ours if xid.hardware]
    evidence.verdict(
        "gpu_xid",
        "gpu-fell-off-the-bus" if _fell_off(broken) else "gpu-xid",
        good=not broken,
        expected=expected,
        seen=", ".join(f"Xid {x.code} at {x.pci_address}: {x.message}" for x in broken or ours)
        or "none",
    )


def _check_engine_on_gpu(gpus: Sequence[Gpu], container_id: str, evidence: Evidence) -> None:
    """Check that the container itself computes on a GPU."""
    expected = "a process of the container that holds GPU memory"
    processes = [process for gpu in gpus for process in gpu.processes or ()]
    own = [process for process in processes if process.container == container_id]
    if not processes:
        evidence.unknown(
            "engine_on_gpu", expected=expected, seen="", cause="the driver lists no processes"
        )
        return
    evidence.verdict(
        "engine_on_gpu",
        "container-without-gpu",
        good=bool(own),
        expected=expected,
        seen=", ".join(f"{p.name} (PID {p.pid}) {_mib(p.used_mib)}" for p in own or processes),
    )
