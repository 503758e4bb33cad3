# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What programs complain of leads to a failure of the registry."""

from __future__ import annotations

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import FAILURES
from ansible_collections.sparerig.llm.plugins.module_utils._driver.complaints import explain


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.9",
         "driver-too-old-for-image"),
        ("The NVIDIA driver on your system is too old (found version 12080).",
         "driver-too-old-for-image"),
        ("Failed to initialize NVML: Driver/library version mismatch", "driver-library-mismatch"),
        ("Failed to initialize NVML: Unknown Error", "gpu-lost-after-daemon-reload"),
        ('could not select device driver "" with capabilities: [[gpu]]',
         "container-toolkit-missing"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
         "container-toolkit-missing"),
        ("modprobe: ERROR: could not insert 'nvidia': Key was rejected by service",
         "module-key-rejected"),
        ("modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.8.0-150-generic",
         "kernel-without-module"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
         "driver-not-loaded"),
        ("E: Conflicting values set for option Signed-By regarding source", "conflicting-signed-by"),
        ("RuntimeError: CUDA error: no kernel image is available for execution on the device",
         "card-too-old"),
        ("Bfloat16 is only supported on GPUs with compute capability of at least 8.0",
         "bfloat16-unsupported"),
        ("NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus.",
         "gpu-fell-off-the-bus"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1",
         "apt-locked"),
        ("  404  Not Found [IP: 185.125.190.39 80]", "archive-incomplete"),
        ("E: Hash Sum mismatch", "archive-incomplete"),
        ("something else went wrong", None),
        ("NVRM: Xid (PCI:0000:01:00): 13, pid=1, Graphics Exception", None),
    ],
)  # fmt: skip
def test_what_programs_say_leads_to_a_name(said: str, name: str | None) -> None:
    assert explain(said) == name
    assert name is None or name in FAILURES
