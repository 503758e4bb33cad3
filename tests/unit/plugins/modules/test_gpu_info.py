# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_info through main(): what it makes of a host's cards, or of their absence."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer
from ansible_collections.sparerig.llm.plugins.modules import gpu_info
from stand_ins import HANGS, FakeHost

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]

QUERY = "nvidia-smi --query-gpu="


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    host = FakeHost()
    monkeypatch.setattr(gpu_info, "LocalHost", lambda: host)
    return host


@pytest.mark.parametrize("check", [False, True])
def test_cards(run_module: RunModule, host: FakeHost, fixtures: Path, *, check: bool) -> None:
    nvidia = fixtures / "nvidia"
    host.commands = {
        QUERY: (nvidia / "query-rtx3060.csv").read_text(),
        "nvidia-smi -q": (nvidia / "pids-rtx3060.txt").read_text(),
        "dmesg": (nvidia / "kernel.log").read_text(),
    }

    answer = run_module(gpu_info, check=check)

    assert not answer["changed"]
    assert [gpu["name"] for gpu in answer["gpus"]] == [
        "NVIDIA GeForce RTX 3060",
        "NVIDIA GeForce GT 710",
    ]
    assert answer["gpus"][0]["processes"][2] == {
        "pid": 5151,
        "name": "VLLM::EngineCore",
        "kind": "C",
        "used_mib": 10400,
        "unit": "",
        "container": "",
    }
    assert answer["driver"]["cuda"] == "13.0"
    assert answer["driver"]["installed"]
    assert [(xid["code"], xid["hardware"]) for xid in answer["xids"]] == [(31, False), (79, True)]


@pytest.mark.parametrize("state", ["idle", "serving"])
def test_a_real_card(run_module: RunModule, host: FakeHost, fixtures: Path, state: str) -> None:
    """What an H100's machine said, and what this module made of it there and then."""
    recorded = fixtures / "nvidia" / "h100"
    libraries = "/usr/local/nvidia/lib64/libnvidia-ml.so"
    host.commands = {
        QUERY: (recorded / f"query-{state}.csv").read_text(),
        "nvidia-smi -q": (recorded / f"pids-{state}.txt").read_text(),
        "ldconfig -p": (recorded / "ldconfig.txt").read_text(),
        "dmesg": (recorded / "dmesg-nvrm.txt").read_text(),
    }
    host.links = {f"{libraries}.1": f"{libraries}.580.159.04"}
    host.files = {
        "/proc/driver/nvidia/version": (recorded / "proc-driver-nvidia-version.txt").read_text(),
        "/sys/firmware/acpi/pm_profile": "0\n",  # and no efi
    }
    for line in (recorded / "pci.txt").read_text().splitlines():
        device, *values = line.split(" ")
        for name, value in zip(("vendor", "device", "class", "driver"), values, strict=False):
            host.files[f"{device}/{name}"] = value
        if "drivers" in line:
            host.links[f"{device}/driver"] = values[-1]

    answer = run_module(gpu_info)

    there = json.loads((recorded / f"gpu_info-{state}.json").read_text())
    assert still({name: answer[name] for name in there}) == still(there)
    assert answer["gpus"][0]["memory_used_mib"] == {"idle": 0, "serving": 10639}[state]
    assert [p["used_mib"] for p in answer["gpus"][0]["processes"]] == {
        "idle": [],
        "serving": [10630],
    }[state]


def still(value: t.Any, name: str = "") -> t.Any:
    """Leave out of an answer what changes from one moment to the next."""
    if isinstance(value, dict):
        return {key: still(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [still(inner) for inner in value]
    moving = ("memory_used_mib", "memory_free_mib", "power_draw_w", "used_mib")
    return type(value) if name in moving else value


def test_nothing_at_all(run_module: RunModule, host: FakeHost) -> None:
    assert host.commands == {}

    answer = run_module(gpu_info)

    assert "failed" not in answer
    assert (answer["gpus"], answer["pci_devices"]) == ([], [])
    assert (answer["secure_boot"], answer["xids"]) == (None, None)
    assert answer["driver"] == {
        "kernel_module": "",
        "library": "",
        "cuda": "",
        "open_module": None,
        "mismatched": False,
        "installed": False,
        "hung": False,
        "error": "",
    }


@pytest.mark.parametrize(
    ("complaint", "state", "error"),
    [
        (
            Answer(18, "Driver/library version mismatch\nNVML library version: 580.95\n", ""),
            {"mismatched": True, "hung": False},
            "Driver/library version mismatch\nNVML library version: 580.95",
        ),
        (HANGS, {"mismatched": False, "hung": True}, "gave no answer within 3 s"),
    ],
)
def test_broken_driver_is_an_answer(
    run_module: RunModule,
    host: FakeHost,
    complaint: Answer | str,
    state: dict[str, bool],
    error: str,
) -> None:
    host.commands[QUERY] = complaint
    host.files["/proc/driver/nvidia/version"] = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.178.04  Thu\n"
    )

    driver = run_module(gpu_info, timeout=3)["driver"]

    assert {name: driver[name] for name in state} == state
    assert error in driver["error"]


@pytest.mark.parametrize(
    ("answer", "options", "says"),
    [
        ("surprise", {}, "(driver-answer-not-understood): "),
        ("", {"timeout": 0}, "timeout is 0.0: it must be above 0"),
    ],
)
def test_failures(
    run_module: RunModule, host: FakeHost, answer: str, options: dict[str, t.Any], says: str
) -> None:
    host.commands[QUERY] = answer

    result = run_module(gpu_info, **options)

    assert result["failed"]
    assert says in result["msg"]
