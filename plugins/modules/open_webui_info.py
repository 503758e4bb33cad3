#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what is in Open WebUI."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_info
short_description: Tell what is in Open WebUI
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Tells the version, the users, groups, models, knowledge bases and settings of Open WebUI.
  - On request proves that documents work, by taking a short one the whole way.
  - Never tells passwords, and hides the values of settings that could be secrets.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only, sparerig.llm.open_webui]
options:
  gather:
    description:
      - What to tell.
      - V(documents) uploads a short document, waits until it is indexed, asks the model about it, sees that
        the passage was given to the model, and removes the document again. Not done in check mode.
    type: list
    elements: str
    choices: [users, groups, models, knowledge, settings, documents]
    default: [users, groups, models, knowledge]
  model:
    description: The model that is asked about the document. Left out, it is the first that is served.
    type: str
seealso:
  - module: sparerig.llm.inference_health
"""

EXAMPLES = r"""
- name: See who waits to be let in
  sparerig.llm.open_webui_info:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    gather: [users]
  register: page

- name: Name them
  ansible.builtin.debug:
    msg: "{{ page.users | selectattr('role', 'equalto', 'pending') | map(attribute='email') }}"
"""

RETURN = r"""
version:
  description: The version of Open WebUI.
  returned: success
  type: str
  sample: 0.12.4
users:
  description: The users.
  returned: when asked for
  type: list
  elements: dict
  sample: [{email: ada@example.com, name: Ada, role: user}]
groups:
  description: The groups and the e-mail addresses of their members.
  returned: when asked for
  type: list
  elements: dict
  sample: [{name: Grown-ups, description: "", members: [ada@example.com]}]
models:
  description: The models that can be chosen now.
  returned: when asked for
  type: list
  elements: dict
  sample: [{id: short, name: Short answers, base_model: llama-3-8b-instruct, visibility: public}]
knowledge:
  description: The knowledge bases, with the state of each file.
  returned: when asked for
  type: list
  elements: dict
  sample: [{name: Household, description: "", visibility: public, files: [{name: rent.pdf, status: completed}]}]
settings:
  description: The settings in effect, under the names that Open WebUI keeps them under.
  returned: when asked for
  type: dict
  sample: {ui.enable_signup: false}
checks:
  description: The steps of the proof that documents work, as far as it came.
  returned: when O(gather) has V(documents), outside check mode
  type: list
  elements: dict
  contains:
    name:
      description: The step.
      type: str
    status:
      description: How it went.
      type: str
      choices: [pass, fail, unknown, skipped]
    expected:
      description: What should be.
      type: str
    seen:
      description: What was.
      type: str
    failure:
      description: Identifier of the failure, as in C(docs/failures.md).
      type: str
    cause:
      description: The likely cause of a failure.
      type: str
    remedy:
      description: The command that fixes it or says more.
      type: str
documents_ok:
  description: Whether documents work.
  returned: when O(gather) has V(documents), outside check mode
  type: bool
  sample: true
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import (
    CONNECTION_OPTIONS,
    CONNECTION_RULES,
    Mode,
    connect,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import OpenWebUIError
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.info import gather


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_OPTIONS,
            "gather": {
                "type": "list",
                "elements": "str",
                "choices": ["users", "groups", "models", "knowledge", "settings", "documents"],
                "default": ["users", "groups", "models", "knowledge"],
            },
            "model": {"type": "str"},
        },
        supports_check_mode=True,
        **CONNECTION_RULES,
    )
    wanted = set(module.params["gather"])
    if module.check_mode:
        wanted -= {"documents"}
    try:
        client = connect(module.params, Mode(module.check_mode, module.warn))
        result = gather(client, wanted, module.params["model"])
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, version=client.version, **result)


if __name__ == "__main__":
    main()
