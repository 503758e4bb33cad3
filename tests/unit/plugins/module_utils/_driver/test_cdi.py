# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of the cards: right, of another driver, or with files that are gone."""

from __future__ import annotations

import json

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver import cdi
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer

LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.178.04"
TEXT = f"""---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/nvidia0
containerEdits:
  mounts:
  - hostPath: {LIBRARY}
    containerPath: {LIBRARY}
  - hostPath: "/usr/bin/nvidia-smi"
    containerPath: /usr/bin/nvidia-smi
"""
FILES = ["/dev/nvidia0", LIBRARY, "/usr/bin/nvidia-smi"]


def test_parse_specification() -> None:
    found = cdi.parse_specification("/etc/cdi/nvidia.yaml", TEXT)
    assert found.driver == "580.178.04"
    assert list(found.files) == FILES


@pytest.mark.parametrize(
    ("text", "library", "there", "reason"),
    [
        (TEXT, "580.178.04", FILES, ""),
        (TEXT, "", FILES, ""),
        (None, "580.178.04", [], "there is no CDI specification"),
        (TEXT, "595.91.07", FILES, "it is for driver 580.178.04, and 595.91.07 is installed"),
        (TEXT, "580.178.04", FILES[:2], "it names /usr/bin/nvidia-smi, which is not there"),
    ],
)
def test_staleness(text: str | None, library: str, there: list[str], reason: str) -> None:
    found = None if text is None else cdi.parse_specification("x", text)
    assert cdi.staleness(found, library, there) == reason


@pytest.mark.parametrize(
    ("answer", "reads"),
    [
        (Answer(0, json.dumps({"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}), ""), True),
        (Answer(0, json.dumps({"CDISpecDirs": []}), ""), False),
        (Answer(0, json.dumps({}), ""), False),
        (Answer(0, "not json", ""), None),
        (Answer(1, "", "Cannot connect to the Docker daemon"), None),
        (None, None),
    ],
)
def test_docker_reads_cdi(answer: Answer | None, *, reads: bool | None) -> None:
    assert cdi.docker_reads_cdi(answer) is reads
    status = {True: "pass", False: "fail", None: "unknown"}[reads]
    assert cdi.judge_docker(reads).status == status


@pytest.mark.parametrize(
    ("answer", "status", "failure"),
    [
        (Answer(0, "GPU 0: NVIDIA GeForce RTX 3060 (UUID: GPU-1)\n", ""), "pass", ""),
        (Answer(0, "No devices found.\n", ""), "fail", "gpu-container-failed"),
        (
            Answer(255, "Failed to initialize NVML: Unknown Error\n", ""),
            "fail",
            "gpu-lost-after-daemon-reload",
        ),
        (
            Answer(18, "Failed to initialize NVML: Driver/library version mismatch\n", ""),
            "fail",
            "driver-library-mismatch",
        ),
        (
            Answer(125, "", "docker: unresolvable CDI devices nvidia.com/gpu=all"),
            "fail",
            "container-toolkit-missing",
        ),
    ],
)
def test_judge_container(answer: Answer, status: str, failure: str) -> None:
    check = cdi.judge_container("image:1", answer)
    assert (check.status, check.failure) == (status, failure)
    assert bool(check.remedy) is (status == "fail")


@pytest.mark.parametrize(
    ("listed", "status"),
    [
        ("nvidia.com/gpu=0\nnvidia.com/gpu=all\n", "pass"),
        ("nvidia.com/gpu=0\n", "fail"),
        ("", "fail"),
    ],
)
def test_judge_devices(listed: str, status: str) -> None:
    assert cdi.judge_devices(listed).status == status
