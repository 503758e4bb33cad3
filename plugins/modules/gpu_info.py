#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gather what a host's NVIDIA GPUs are, hold and suffer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Gather what a host's NVIDIA GPUs are, hold and suffer
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Tells which NVIDIA GPUs a host has, how much memory each has free, who holds the rest, and how their driver is.
  - Reads from nvidia-smi, C(/proc), C(/sys) and the kernel log, and needs nothing but Python on the host.
  - No GPU, no driver and a broken driver are answers, not failures. What cannot be learnt is null.
  - Without root, the owners of other users' processes and the kernel log may be out of reach.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  timeout:
    description:
      - Seconds to wait for each question to the driver. Must be above 0.
      - A GPU that has fallen off the bus can make the driver hang; RV(driver.hung) then says so.
    type: float
    default: 20
seealso:
  - module: sparerig.llm.inference_health
  - module: sparerig.llm.memory_plan
"""

EXAMPLES = r"""
- name: Look at the cards
  sparerig.llm.gpu_info:
  register: gpu

- name: Say who holds the memory
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.memory_free_mib }} MiB free, processes {{ item.processes }}"
  loop: "{{ gpu.gpus }}"
  loop_control:
    label: "{{ item.uuid }}"
"""

RETURN = r"""
failure:
  description: Identifier of the failure, as in C(docs/failures.md).
  returned: when the driver's answer is not understood
  type: str
  sample: driver-answer-not-understood
gpus:
  description: The GPUs that the driver offers, in its order.
  returned: always
  type: list
  elements: dict
  contains:
    index:
      description: Number of the GPU.
      type: int
      returned: always
    name:
      description: Product name.
      type: str
      returned: always
      sample: NVIDIA GeForce RTX 3060
    uuid:
      description: Identifier that stays the same across restarts.
      type: str
      returned: always
    pci_address:
      description: Where it is on the bus, as the kernel writes it.
      type: str
      returned: always
      sample: "0000:01:00.0"
    pci_id:
      description: Vendor and device.
      type: str
      returned: always
      sample: 10de:2503
    memory_total_mib:
      description: Memory in MiB.
      type: int
      returned: always
    memory_used_mib:
      description: Memory in use, in MiB.
      type: int
      returned: always
    memory_free_mib:
      description: Memory free, in MiB. A little less than the difference, since the driver keeps some.
      type: int
      returned: always
    compute_capability:
      description: Compute capability. Empty when the driver does not tell.
      type: str
      returned: always
      sample: "8.6"
    power_limit_w:
      description: Power limit in watts.
      type: float
      returned: always
    power_draw_w:
      description: Power drawn now, in watts.
      type: float
      returned: always
    persistence:
      description: Whether persistence mode is on.
      type: bool
      returned: always
    processes:
      description: Processes that hold memory on it, those that draw included. Null when the driver does not tell.
      type: list
      elements: dict
      returned: always
      contains:
        pid:
          description: Process number.
          type: int
          returned: always
        name:
          description: The program.
          type: str
          returned: always
        kind:
          description: V(C) computes, V(G) draws, V(C+G) does both.
          type: str
          returned: always
        used_mib:
          description: Memory held, in MiB. Null when the driver does not tell.
          type: int
          returned: always
        unit:
          description: Systemd unit that the process belongs to. Empty when it is in a container or not known.
          type: str
          returned: always
        container:
          description: Identifier of the container that the process runs in. Empty when it is in none.
          type: str
          returned: always
pci_devices:
  description: The NVIDIA display controllers on the PCI bus, whether or not there is a driver for them.
  returned: always
  type: list
  elements: dict
  contains:
    address:
      description: Where it is on the bus.
      type: str
      returned: always
    pci_id:
      description: Vendor and device.
      type: str
      returned: always
    driver:
      description: Kernel module that has it, such as V(nvidia), V(nouveau) or V(vfio-pci). Empty when none has.
      type: str
      returned: always
driver:
  description: The NVIDIA driver.
  returned: always
  type: dict
  contains:
    kernel_module:
      description: Version of the loaded kernel module. Empty when none is loaded.
      type: str
      returned: always
      sample: 580.178.04
    open_module:
      description: Whether it is the open flavour. Null when none is loaded.
      type: bool
      returned: always
    library:
      description: Version of the libraries that a program started now would use. Empty when there are none.
      type: str
      returned: always
    mismatched:
      description: Whether the two are of different versions, so that the host needs a reboot.
      type: bool
      returned: always
    cuda:
      description: The newest CUDA that this driver offers. Empty when the driver does not answer.
      type: str
      returned: always
      sample: "13.0"
    installed:
      description: Whether nvidia-smi is there.
      type: bool
      returned: always
    hung:
      description: Whether nvidia-smi gave no answer in time.
      type: bool
      returned: always
    error:
      description: What nvidia-smi complains of. Empty when it answers.
      type: str
      returned: always
secure_boot:
  description: Whether Secure Boot is on. Null when the firmware does not tell.
  returned: always
  type: bool
xids:
  description: Errors that the driver reported in the kernel log since boot. Null when the log is not readable.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: NVIDIA's number of the error.
      type: int
      returned: always
      sample: 79
    pci_address:
      description: The GPU.
      type: str
      returned: always
    message:
      description: The driver's words.
      type: str
      returned: always
    hardware:
      description: Whether the GPU itself failed, not a program that used it.
      type: bool
      returned: always
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi as gpu_reader
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import LocalHost


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"timeout": {"type": "float", "default": 20}}, supports_check_mode=True
    )
    timeout = module.params["timeout"]
    if not timeout > 0:
        module.fail_json(msg=f"timeout is {timeout}: it must be above 0")
    try:
        report = gpu_reader.read(LocalHost(), timeout=timeout)
    except gpu_reader.GpuOutputError as exc:
        known = describe("driver-answer-not-understood", cause=f"{exc}.")
        module.fail_json(msg=known.message(), failure=known.id)
    module.exit_json(
        changed=False,
        gpus=[asdict(gpu) for gpu in report.gpus],
        pci_devices=[asdict(device) for device in report.pci_devices],
        driver=asdict(report.driver)
        | {
            "mismatched": report.driver.mismatched,
            "installed": not report.smi_missing,
            "hung": report.smi_hung,
            "error": report.smi_error,
        },
        secure_boot=report.secure_boot,
        xids=None
        if report.xids is None
        else [asdict(xid) | {"hardware": xid.hardware} for xid in report.xids],
    )


if __name__ == "__main__":
    main()
