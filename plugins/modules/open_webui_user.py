#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the people who may use Open WebUI."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_user
short_description: Manage the people who may use Open WebUI
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Makes, changes and removes users of Open WebUI, and lets in those who signed up and wait.
  - Takes all users in one task. A loop over single users would sign in once for each, which Open WebUI
    allows 15 times in three minutes only.
  - Users that are not listed are left alone.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.open_webui]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Never shows a password, only that one would be set.
  idempotent:
    support: full
options:
  users:
    description: The users.
    type: list
    elements: dict
    required: true
    suboptions:
      email:
        description: The e-mail address, which is what a person signs in with. Capitals do not matter.
        type: str
        required: true
      name:
        description:
          - The name shown in the page.
          - A new user without one is called like the part of the address before the C(@).
        type: str
      role:
        description:
          - V(user) may chat, V(admin) may change everything, V(pending) waits and may do nothing.
          - Listing someone who signed up and waits as V(user) lets them in.
        type: str
        choices: [user, admin, pending]
        default: user
      password:
        description: The password. A new user needs this or O(users[].password_file).
        type: str
      password_file:
        description:
          - A file on the host that holds the password.
          - When a password is needed and the file does not exist, one is made up and written there,
            readable by its owner only.
        type: path
      update_password:
        description:
          - With V(on_create) the password is set for a new user only, and the person may change it.
          - With V(always) it is set again whenever the person signs in with another one. To find out,
            the module signs in as that person.
        type: str
        choices: [on_create, always]
        default: on_create
      state:
        description:
          - Whether the user is there.
          - Removing a user removes their chats too.
        type: str
        choices: [present, absent]
        default: present
seealso:
  - module: sparerig.llm.open_webui_group
  - module: sparerig.llm.open_webui_info
"""

EXAMPLES = r"""
- name: Let the family in
  sparerig.llm.open_webui_user:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    users:
      - email: ada@example.com
        name: Ada
        password: "{{ vault_ada_password }}"
      - email: bob@example.com
        password_file: /etc/sparerig/bob.password
      - email: former@example.com
        state: absent
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The e-mail address, in small letters.
      type: str
    action:
      description: What was done.
      type: str
      choices: [created, changed, removed]
  sample: [{action: created, name: ada@example.com}]
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
    check_users,
    plan_users,
)

USER = {
    "email": {"type": "str", "required": True},
    "name": {"type": "str"},
    "role": {"type": "str", "choices": ["user", "admin", "pending"], "default": "user"},
    "password": {"type": "str", "no_log": True},
    "password_file": {"type": "path", "no_log": False},
    "update_password": {
        "type": "str",
        "choices": ["on_create", "always"],
        "default": "on_create",
        "no_log": False,
    },
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_OPTIONS,
            "users": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": USER,
                "mutually_exclusive": [("password", "password_file")],
            },
        },
        supports_check_mode=True,
        **CONNECTION_RULES,
    )
    users = module.params["users"]
    try:
        check_users(users)
        mode = Mode(module.check_mode, module.warn)
        client = connect(module.params, mode)
        result = apply_changes(plan_users(client, users), mode)
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(version=client.version, **result)


if __name__ == "__main__":
    main()
