#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: groups of Open WebUI."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_group
short_description: Manage groups of Open WebUI users
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Makes, changes and removes groups of Open WebUI, their members and what they may do.
  - Groups decide who sees which models and knowledge bases.
  - Groups that are not listed are left alone.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.open_webui]
attributes:
  check_mode:
    support: full
    details: Members that do not exist yet are a warning in check mode, as another task may be about to make them.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  groups:
    description: The groups.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name, by which the group is found.
        type: str
        required: true
      description:
        description: What the group is for. Left out, it stays as it is.
        type: str
      members:
        description:
          - The e-mail addresses of all members; others are taken out of the group.
          - Left out, the members stay as they are.
        type: list
        elements: str
      permissions:
        description:
          - What members may do, as areas (V(workspace), V(sharing), V(chat), V(features), V(settings)) of
            switches, such as C(file_upload) of the area V(chat). Switches that are left out stay as they are.
          - Open WebUI adds permissions up. A group can give what the default denies, never take away
            what the default or another group gives.
        type: dict
      state:
        description: Whether the group is there. Removing it removes nobody's account.
        type: str
        choices: [present, absent]
        default: present
seealso:
  - module: sparerig.llm.open_webui_user
  - module: sparerig.llm.open_webui_model
"""

EXAMPLES = r"""
- name: Give the grown-ups a group of their own
  sparerig.llm.open_webui_group:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    groups:
      - name: Grown-ups
        description: May see the household papers
        members: [ada@example.com, bob@example.com]
        permissions:
          workspace:
            knowledge: true
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the group.
      type: str
    action:
      description: What was done.
      type: str
      choices: [created, changed, removed]
  sample: [{action: created, name: Grown-ups}]
version:
  description: The version of Open WebUI.
  returned: success
  type: str
  sample: 0.12.4
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import (
    CONNECTION_OPTIONS,
    CONNECTION_RULES,
    Mode,
    apply_changes,
    connect,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUIError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.users import (
    check_groups,
    plan_groups,
)

GROUP = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str"},
    "members": {"type": "list", "elements": "str"},
    "permissions": {"type": "dict"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_OPTIONS,
            "groups": {"type": "list", "elements": "dict", "required": True, "options": GROUP},
        },
        supports_check_mode=True,
        **CONNECTION_RULES,
    )
    groups = module.params["groups"]
    try:
        check_groups(groups)
        mode = Mode(module.check_mode, module.warn)
        client = connect(module.params, mode)
        changes = plan_groups(client, groups, mode)
        result = apply_changes(changes, mode)
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(version=client.version, **result)


if __name__ == "__main__":
    main()
