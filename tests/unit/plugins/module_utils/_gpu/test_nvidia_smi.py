# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_gpu: what is understood of the driver's answers, and of its silence."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer
from stand_ins import HANGS, FakeHost

if t.TYPE_CHECKING:
    from pathlib import Path

CONTAINER = "4f" * 32
QUERY = "nvidia-smi --query-gpu="
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.178.04  Thu Jul 30 00:00:00 UTC 2026\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    "  (dvs-builder@U22)  Tue Sep 23 09:55:41 UTC 2025\nGCC version:  gcc version 12.3.0\n"
)
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def pci(address: str, vendor: str, device: str, kind: str) -> dict[str, str | bytes]:
    at = f"/sys/bus/pci/devices/{address}"
    return {
        f"{at}/vendor": f"{vendor}\n",
        f"{at}/device": f"{device}\n",
        f"{at}/class": f"{kind}\n",
    }


@pytest.fixture
def gaming_pc(fixtures: Path) -> FakeHost:
    nvidia = fixtures / "nvidia"
    return FakeHost(
        commands={
            QUERY: (nvidia / "query-rtx3060.csv").read_text(),
            "nvidia-smi -q -d PIDS": (nvidia / "pids-rtx3060.txt").read_text(),
            "ldconfig -p": f"\tlibnvidia-ml.so.1 (libc6,x86-64) => {LIBRARY}\n",
            "journalctl -k": (nvidia / "kernel.log").read_text(),
        },
        files={
            "/proc/driver/nvidia/version": PROPRIETARY,
            "/proc/1201/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
            "/proc/5151/cgroup": f"0::/system.slice/docker-{CONTAINER}.scope\n",
            SECURE_BOOT: b"\x06\x00\x00\x00\x01",
            **pci("0000:00:02.0", "0x8086", "0x4680", "0x030000"),
            **pci("0000:01:00.0", "0x10de", "0x2503", "0x030000"),
            **pci("0000:01:00.1", "0x10de", "0x228e", "0x040300"),
        },
        links={
            LIBRARY: f"{LIBRARY[:-1]}580.178.04",
            "/sys/bus/pci/devices/0000:01:00.0/driver": "/sys/bus/pci/drivers/nvidia",
        },
    )


def test_gaming_pc(gaming_pc: FakeHost) -> None:
    report = nvidia_smi.read(gaming_pc)

    card, old = report.gpus
    assert (card.label, card.pci_address, card.pci_id) == (
        "GPU 0 (NVIDIA GeForce RTX 3060)",
        "0000:01:00.0",
        "10de:2503",
    )
    assert (card.memory_total_mib, card.memory_used_mib, card.memory_free_mib) == (
        12288,
        11180,
        843,
    )
    assert (card.compute_capability, card.power_limit_w, card.power_draw_w) == ("8.6", 170.0, 38.21)
    assert (card.persistence, old.persistence) == (True, False)
    assert (old.memory_used_mib, old.compute_capability, old.power_limit_w) == (None, "", None)
    assert old.processes == ()
    assert card.processes is not None
    assert [(p.name, p.kind, p.used_mib, p.unit, p.container) for p in card.processes] == [
        ("/usr/lib/xorg/Xorg", "G", 310, "session-2.scope", ""),
        ("/opt/games/odd : name", "C+G", 470, "", ""),
        ("VLLM::EngineCore", "C", 10400, "", CONTAINER),
    ]
    assert report.driver == nvidia_smi.Driver("580.178.04", "580.178.04", "13.0", open_module=False)
    assert not report.driver.mismatched
    assert report.pci_devices == (nvidia_smi.PciDevice("0000:01:00.0", "10de:2503", "nvidia"),)
    assert report.secure_boot is True
    assert report.xids is not None
    assert [(xid.code, xid.hardware) for xid in report.xids] == [(31, False), (79, True)]
    assert report.xids[1].pci_address == card.pci_address


def test_no_gpu_is_an_answer() -> None:
    report = nvidia_smi.read(FakeHost())

    assert not report.present
    assert (report.gpus, report.smi_missing, report.smi_error) == ((), True, "")
    assert report.driver == nvidia_smi.Driver()
    assert (report.secure_boot, report.xids) == (None, None)


@pytest.mark.parametrize("bound", ["", "nouveau", "vfio-pci"])
def test_card_without_a_driver(bound: str) -> None:
    link = "/sys/bus/pci/devices/0000:01:00.0/driver"
    host = FakeHost(
        files=pci("0000:01:00.0", "0x10de", "0x2503", "0x030200"),
        links={link: f"/sys/bus/pci/drivers/{bound}"} if bound else {},
    )

    report = nvidia_smi.read(host)

    assert report.pci_devices == (nvidia_smi.PciDevice("0000:01:00.0", "10de:2503", bound),)
    assert report.present


def test_field_unknown_to_a_driver_as_it_says_so(gaming_pc: FakeHost, fixtures: Path) -> None:
    complaint = (fixtures / "nvidia" / "h100" / "query-unknown-field.txt").read_text()
    row = "0, NVIDIA H100, GPU-1, 00000000:00:06.0, 0x233010DE, 81559, 0, 81079, 700, 69, Enabled"
    fields = ",".join(field for field in nvidia_smi._FIELDS if field != "compute_cap")  # noqa: SLF001
    gaming_pc.commands = {
        f"{QUERY}{fields} ": row,
        QUERY: Answer(2, complaint.replace("no_such_field", "compute_cap"), ""),
    }

    (gpu,) = nvidia_smi.read(gaming_pc).gpus

    assert (gpu.memory_total_mib, gpu.compute_capability) == (81559, "")


def test_field_unknown_to_an_old_driver(gaming_pc: FakeHost) -> None:
    row = (
        "0, Tesla K80, GPU-1, 00000000:05:00.0, 0x102D10DE, 11441, 0, 11441, 149.00, 26.0, Disabled"
    )
    fields = ",".join(field for field in nvidia_smi._FIELDS if field != "compute_cap")  # noqa: SLF001
    complaint = Answer(2, 'Field "compute_cap" is not a valid field to query.\n\n', "")
    gaming_pc.commands = {f"{QUERY}{fields} ": row, QUERY: complaint}

    (gpu,) = nvidia_smi.read(gaming_pc).gpus

    assert (gpu.compute_capability, gpu.power_limit_w) == ("", 149.0)
    assert gpu.processes is None


def test_figure_that_is_none(gaming_pc: FakeHost) -> None:
    row = "0, Tesla K80, GPU-1, 00000000:05:00.0, 0x102D10DE, plenty, 0, 9, 3.7, 149, 26, Disabled"
    gaming_pc.commands[QUERY] = row

    assert nvidia_smi.read(gaming_pc).gpus[0].memory_total_mib is None


def test_mismatch_told_by_nvidia_smi(gaming_pc: FakeHost) -> None:
    complaint = (
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
    )
    gaming_pc.commands[QUERY] = Answer(18, complaint, "")

    report = nvidia_smi.read(gaming_pc)

    assert report.driver.mismatched
    assert report.driver.library == "580.95"
    assert report.smi_error == complaint.strip()


def test_mismatch_while_nvidia_smi_still_answers(gaming_pc: FakeHost) -> None:
    gaming_pc.links[LIBRARY] = f"{LIBRARY[:-1]}595.71.05"

    report = nvidia_smi.read(gaming_pc)

    assert report.gpus
    assert report.driver.mismatched


@pytest.mark.parametrize(
    ("kernel_module", "library", "mismatched"),
    [
        ("580.159.04", "580.159.04", False),
        ("580.159.04", "580.159", False),
        ("580.15.04", "580.159", True),
        ("580.159.04", "580.15", True),
        ("", "580.159", False),
        ("580.159.04", "", False),
    ],
)
def test_mismatch(kernel_module: str, library: str, *, mismatched: bool) -> None:
    assert nvidia_smi.Driver(kernel_module, library).mismatched == mismatched


def test_hung_driver(gaming_pc: FakeHost) -> None:
    gaming_pc.commands[QUERY] = HANGS

    report = nvidia_smi.read(gaming_pc, timeout=5)

    assert report.smi_hung
    assert report.gpus == ()
    assert "within 5 s" in report.smi_error
    assert report.present


@pytest.mark.parametrize(
    "answer", [Answer(6, "No devices were found\n", ""), "No devices were found"]
)
def test_no_devices(gaming_pc: FakeHost, answer: Answer | str) -> None:
    gaming_pc.commands[QUERY] = answer

    report = nvidia_smi.read(gaming_pc)

    assert (report.gpus, report.smi_error, report.smi_missing) == ((), "", False)


def test_silent_complaint(gaming_pc: FakeHost) -> None:
    gaming_pc.commands[QUERY] = Answer(255, "", "")

    assert nvidia_smi.read(gaming_pc).smi_error == "nvidia-smi ended with 255 and said nothing"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("surprise", "1 values where 12"),
        ("zero, n, u, b, 0x0, 1, 1, 1, 8.6, 1, 1, Enabled", "calls a GPU 'zero'"),
    ],
)
def test_answer_not_understood(gaming_pc: FakeHost, text: str, says: str) -> None:
    gaming_pc.commands[QUERY] = text

    with pytest.raises(nvidia_smi.GpuOutputError, match=says):
        nvidia_smi.read(gaming_pc)


@pytest.mark.parametrize(
    ("text", "unit", "container"),
    [
        ("", "", ""),
        ("0::/init.scope\n", "init.scope", ""),
        ("0::/system.slice/sparerig-vllm.service\n", "sparerig-vllm.service", ""),
        (f"0::/system.slice/docker-{CONTAINER}.scope\n", "", CONTAINER),
        (f"0::/docker/{CONTAINER}\n", "", CONTAINER),
        (f"0::/system.slice/engine.service/docker/{CONTAINER}\n", "engine.service", CONTAINER),
        (f"12:pids:/docker/{CONTAINER}\n1:name=systemd:/docker/{CONTAINER}\n0::/\n", "", CONTAINER),
        (
            "5:memory:/\n1:name=systemd:/system.slice/gdm.service\n0::/odd.scope\n",
            "gdm.service",
            "",
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-a\\x2db.scope\n",
            "app-a-b.scope",
            "",
        ),
    ],
)
def test_cgroup(text: str, unit: str, container: str) -> None:
    assert nvidia_smi.parse_cgroup(text) == (unit, container)


@pytest.mark.parametrize(
    ("text", "version", "open_module"),
    [
        (PROPRIETARY, "580.178.04", False),
        (OPEN, "580.95.05", True),
        ("", "", None),
        ("x", "", None),
    ],
)
def test_kernel_module(text: str, version: str, *, open_module: bool | None) -> None:
    assert nvidia_smi.parse_kernel_module(text) == (version, open_module)


@pytest.mark.parametrize(
    ("host", "state"),
    [
        (FakeHost(files={SECURE_BOOT: b"\x06\x00\x00\x00\x00"}), False),
        (FakeHost({"mokutil --sb-state": "SecureBoot enabled\n"}), True),
        (FakeHost({"mokutil --sb-state": "SecureBoot disabled\n"}), False),
        (FakeHost({"mokutil --sb-state": "EFI variables are not supported"}), None),
        (FakeHost({"mokutil --sb-state": HANGS}), None),
        (FakeHost(files={"/sys/firmware/acpi/tables": ""}), False),
        (FakeHost(files={"/sys/firmware/efi/runtime": "", "/sys/firmware/acpi/x": ""}), None),
    ],
)
def test_secure_boot(host: FakeHost, *, state: bool | None) -> None:
    assert nvidia_smi.read_secure_boot(host) is state


@pytest.mark.parametrize(
    ("commands", "codes"),
    [
        ({"journalctl": "NVRM: Xid (PCI:0000:01:00): 43, pid=1\n"}, [43]),
        ({"journalctl": "", "dmesg": "NVRM: Xid (PCI:0000:01:00): 79, pid=1\n"}, [79]),
        ({"journalctl": HANGS, "dmesg": "all is well\n"}, []),
        (
            {"dmesg": Answer(1, "", "dmesg: read kernel buffer failed: Operation not permitted")},
            None,
        ),
        ({}, None),
    ],
)
def test_xids(commands: dict[str, Answer | str], codes: list[int] | None) -> None:
    xids = nvidia_smi.read_xids(FakeHost(commands))

    assert (None if xids is None else [xid.code for xid in xids]) == codes


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("00000000:0A:00.0", "0000:0a:00.0"),
        ("0000:01:00", "0000:01:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("odd", "odd"),
    ],
)
def test_pci_address(address: str, normal: str) -> None:
    assert nvidia_smi.normal_pci_address(address) == normal
