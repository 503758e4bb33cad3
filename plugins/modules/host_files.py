#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put several small text files in place, or take them away, in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Put several small text files in place, or take them away, in one step
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Writes files that belong together, such as the drop-ins of one package, with one call in place of one for each.
  - Missing folders are made, with mode 0755. Each file is replaced in one piece. The owner is the user that runs the task.
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: The whole text. Not used where O(files[].state=absent).
        type: str
        default: ""
      mode:
        description: Permissions, in octal.
        type: str
        default: "0644"
      state:
        description: Whether the file is there.
        type: str
        choices: [present, absent]
        default: present
"""

EXAMPLES = r"""
- name: Give the programs of /opt/thing their paths
  sparerig.llm.host_files:
    files:
      - path: /etc/profile.d/thing.sh
        content: |
          export PATH="$PATH:/opt/thing/bin"
      - path: /etc/ld.so.conf.d/thing.conf
        content: |
          /opt/thing/lib
"""

RETURN = r"""
changed_paths:
  description: The files that were changed, or would be.
  returned: always
  type: list
  elements: str
"""

import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    read_text,
    write_atomically,
)


def main() -> None:
    """Compare all files, then change those that differ."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "default": ""},
                    "mode": {"type": "str", "default": "0644"},
                    "state": {
                        "type": "str",
                        "choices": ["present", "absent"],
                        "default": "present",
                    },
                },
            },
        },
        supports_check_mode=True,
    )
    changed: list[str] = []
    diff: list[dict[str, t.Any]] = []
    for wanted in module.params["files"]:
        path = Path(wanted["path"])
        try:
            mode = int(wanted["mode"], 8)
        except ValueError:
            module.fail_json(
                msg=f"mode {wanted['mode']!r} of {path} is not a number in octal, such as 0644"
            )
        before = read_text(path)
        after = wanted["content"] if wanted["state"] == "present" else None
        same_mode = before is None or path.stat().st_mode & 0o7777 == mode
        if before == after and (same_mode or after is None):
            continue
        changed.append(str(path))
        diff.append({"before_header": str(path), "after_header": str(path)})
        diff[-1] |= {"before": before or "", "after": after or ""}
        if module.check_mode:
            continue
        if after is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            write_atomically(path, after, mode=mode)
    module.exit_json(changed=bool(changed), changed_paths=changed, diff=diff)


if __name__ == "__main__":
    main()
