#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load the NVIDIA kernel module, and explain why the kernel refuses it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_kernel_module
short_description: Load the NVIDIA kernel module, and explain why the kernel refuses it
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Loads the NVIDIA kernel module into the running kernel.
  - Where the kernel refuses it, says whether the signature, the kernel or the card is the cause, and what fixes it.
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: What a kernel has loaded is not a text.
  idempotent:
    support: full
seealso:
  - module: sparerig.llm.nvidia_driver_plan
"""

EXAMPLES = r"""
- name: Load the NVIDIA kernel module
  sparerig.llm.nvidia_kernel_module:
"""

RETURN = r"""
version:
  description: Version of the loaded module; empty when it is not loaded.
  returned: always
  type: str
  sample: 580.178.04
signer:
  description: Who signed the module that modprobe would load; empty when it is not signed, or there is none.
  returned: always
  type: str
  sample: Canonical Ltd. Kernel Module Signing
failure:
  description: Identifier of the failure, as in C(docs/failures.md).
  returned: when the kernel refuses the module
  type: str
  sample: module-key-rejected
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    Explanation,
    describe,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.complaints import explain
from ansible_collections.sparerig.llm.plugins.module_utils._driver.state import (
    read_loaded,
    read_running_kernel,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import kernel_host


def explained(complaint: str, kernel: str, signer: str) -> Explanation:
    """Name the failure behind modprobe's complaint."""
    if "No such device" in complaint:
        return describe(
            "gpu-missing",
            cause="The kernel accepted the NVIDIA module, and the module found no card that it can"
            " drive. The card is missing, handed to a virtual machine, or not known to this driver;"
            " `sudo dmesg | grep -i nvrm` names the reason.",
        )
    failure = explain(complaint)
    if failure is None:
        cause = f"Kernel {kernel} does not load the NVIDIA module: {complaint}."
        return describe("driver-not-loaded", cause=cause)
    if failure == "module-key-rejected":
        signed = f"signed by {signer}" if signer else "not signed"
        cause = f"Kernel {kernel} enforces signatures, and the NVIDIA module is {signed}."
        return describe(failure, cause=cause)
    return describe(failure, cause=f"Kernel {kernel}: {describe(failure).cause}")


def main() -> None:
    """Load the module, unless it is loaded."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    host = kernel_host()
    kernel = read_running_kernel(host)
    _rc, signer, _err = module.run_command(["modinfo", "-k", kernel, "-F", "signer", "nvidia"])
    result: dict[str, t.Any] = {"signer": signer.strip(), "version": read_loaded(host).nvidia}
    if result["version"]:
        module.exit_json(changed=False, **result)
    if module.check_mode:
        module.exit_json(changed=True, **result)
    status, out, err = module.run_command(["modprobe", "nvidia"])
    if status:
        known = explained((out + err).strip(), kernel, result["signer"])
        module.fail_json(
            msg=known.message(), failure=known.id, rc=status, stdout=out, stderr=err, **result
        )
    result["version"] = read_loaded(host).nvidia
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
