#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: settings of a running Open WebUI."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_config
short_description: Change settings of a running Open WebUI
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Changes settings of Open WebUI without a restart, and reads them back from it afterwards.
  - How long a setting lasts is decided by the environment variable C(ENABLE_PERSISTENT_CONFIG) of Open WebUI. While it is
    V(true), settings are kept in the database. While it is V(false), as the role
    P(sparerig.llm.open_webui#role) sets it, they last until the next start, and the environment is what counts then. Settings that
    shall stay belong into the variables of that role.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.open_webui]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Hides the values of settings that could be secrets.
  idempotent:
    support: partial
    details: A restart of Open WebUI undoes the settings when it does not keep them, see the description.
options:
  signup:
    description: Whether people may make an account themselves.
    type: bool
  default_role:
    description: The role of those who made their account themselves. V(pending) has to be let in by an administrator.
    type: str
    choices: [pending, user, admin]
  session_length:
    description: How long a sign-in lasts, for example V(12h), V(30d) or V(4w). V(-1) is for ever.
    type: str
  language:
    description: The language of the page for those who did not choose one, for example V(de-DE). Empty is the browser's.
    type: str
  pending_title:
    description: The heading that people read who wait to be let in.
    type: str
  pending_message:
    description: The text that people read who wait to be let in.
    type: str
  default_models:
    description: The ids of the models that a new chat starts with.
    type: list
    elements: str
  banners:
    description: The notices at the top of the page. These replace all others.
    type: list
    elements: dict
    suboptions:
      content:
        description: The text, in Markdown.
        type: str
        required: true
      title:
        description: A heading.
        type: str
        default: ""
      type:
        description: The colour.
        type: str
        choices: [info, success, warning, error]
        default: info
      dismissible:
        description: Whether a reader can close it.
        type: bool
        default: true
  settings:
    description:
      - Any other setting by the name that Open WebUI keeps it under, such as C(task.title.enable).
      - M(sparerig.llm.open_webui_info) lists them all.
    type: dict
    default: {}
seealso:
  - module: sparerig.llm.open_webui_info
"""

EXAMPLES = r"""
- name: Put up a notice until the next start
  sparerig.llm.open_webui_config:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    banners:
      - content: The server is moved to another room at 18:00.
        type: warning

- name: Stop making titles while the card is busy
  sparerig.llm.open_webui_config:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    settings:
      task.title.enable: false
"""

RETURN = r"""
changes:
  description: One entry called C(settings) when something was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Always V(settings).
      type: str
    action:
      description: Always V(changed).
      type: str
  sample: [{action: changed, name: settings}]
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
    carry_out,
    connect,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUIError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.config import (
    plan_settings,
    wanted_settings,
)

BANNER = {
    "content": {"type": "str", "required": True},
    "title": {"type": "str", "default": ""},
    "type": {"type": "str", "choices": ["info", "success", "warning", "error"], "default": "info"},
    "dismissible": {"type": "bool", "default": True},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_OPTIONS,
            "signup": {"type": "bool"},
            "default_role": {"type": "str", "choices": ["pending", "user", "admin"]},
            "session_length": {"type": "str"},
            "language": {"type": "str"},
            "pending_title": {"type": "str"},
            "pending_message": {"type": "str"},
            "default_models": {"type": "list", "elements": "str"},
            "banners": {"type": "list", "elements": "dict", "options": BANNER},
            "settings": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
        **CONNECTION_RULES,
    )
    try:
        wanted = wanted_settings(module.params)
        mode = Mode(module.check_mode, module.warn)
        client = connect(module.params, mode)
        result = carry_out(plan_settings(client, wanted), mode)
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(version=client.version, **result)


if __name__ == "__main__":
    main()
