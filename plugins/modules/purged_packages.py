#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove packages with their settings, and with what only they needed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: purged_packages
short_description: Remove packages with their settings, and with what only they needed
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Removes packages and their settings, and the packages that were installed for nothing but them.
  - C(apt-get autoremove) would also take what nothing needed before, and M(ansible.builtin.apt) leaves behind what came along. This
    module does neither. A kernel that came along is kept.
requirements:
  - root on the target
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  packages:
    description: Names of the packages; C(*) and C(?) stand for any characters and for one.
    type: list
    elements: str
    required: true
  lock_timeout:
    description: How long to wait for another program that holds apt's lock, in seconds.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Remove CUDA 12.1
  sparerig.llm.purged_packages:
    packages: ["*-12-1"]
  become: true
"""

RETURN = r"""
removed:
  description: The packages that were removed, or would be.
  returned: always
  type: list
  elements: str
  sample: [cuda-nvcc-12-1, cuda-toolkit-12-1]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._host.apt import (
    AptRefusesError,
    freed_by,
    known,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import LocalHost

STATUS = "/var/lib/dpkg/status"


def main() -> None:
    """Find the packages that are there, and remove them in one step."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "lock_timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    host = LocalHost()
    named = known(host.read(STATUS) or "", module.params["packages"])
    if not named:
        module.exit_json(changed=False, removed=[])
    try:
        removed = sorted([*named, *freed_by(host, named)])
    except AptRefusesError as error:
        module.fail_json(msg=f"{error} Fix what apt names, then run again.")
    diff = {"before": "".join(f"{name}\n" for name in removed), "after": ""}
    if not module.check_mode:
        status, out, err = module.run_command(
            [
                "apt-get", "purge", "--yes", "--allow-change-held-packages",
                "-o", f"DPkg::Lock::Timeout={module.params['lock_timeout']}", *removed,
            ],
            environ_update={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        )  # fmt: skip
        if status:
            module.fail_json(
                msg=f"apt-get did not remove {' '.join(removed)}: {(err or out).strip()}", rc=status
            )
    module.exit_json(changed=True, removed=removed, diff=diff)


if __name__ == "__main__":
    main()
