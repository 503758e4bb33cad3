#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: models as Open WebUI shows them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_model
short_description: Manage the models that Open WebUI offers
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Makes, changes and removes model presets, which are a served model with a name, a system prompt,
    parameters and knowledge of its own.
  - Decides who sees a preset or a served model. Open WebUI shows a served model that was never registered
    to administrators only, unless its environment has C(BYPASS_MODEL_ACCESS_CONTROL=true), and then
    ignores every visibility.
  - Whoever may use a preset is given its base model too, as Open WebUI refuses the preset otherwise. List the
    base model itself to decide that by hand.
  - Models that are not listed are left alone.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.open_webui]
attributes:
  check_mode:
    support: full
    details: A knowledge base that does not exist yet is a warning in check mode, as another task may be about to make it.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  models:
    description: The models.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description:
          - The id of the model, which is what the API calls it. No spaces.
          - Without O(models[].base_model) it is the id of a model that is served.
        type: str
        required: true
      name:
        description: The name shown in the page. Left out, a new model is called like its id.
        type: str
      base_model:
        description: The id of the served model that a preset uses. Left out, an existing preset keeps its own.
        type: str
      system:
        description: The system prompt. Left out, it stays as it is.
        type: str
      params:
        description:
          - Parameters of each request, such as C(temperature) and C(max_tokens). These replace all that were
            set before.
          - Left out, they stay as they are.
        type: dict
      description:
        description: What the page says of the model. Left out, it stays as it is.
        type: str
      knowledge:
        description:
          - The names of the knowledge bases whose content the model is given.
          - This puts the passages that match into the prompt only while the parameter C(function_calling) is
            V(legacy); otherwise the model has to ask for them with a tool.
        type: list
        elements: str
      capabilities:
        description: Switches such as C(vision) and C(file_upload). Those left out stay as they are.
        type: dict
      visibility:
        description:
          - Who sees the model.
          - V(public) is everyone who is signed in, V(private) is administrators, V(groups) is the members of
            O(models[].groups).
        type: str
        choices: [public, private, groups]
        default: public
      groups:
        description: The groups that see the model when O(models[].visibility=groups).
        type: list
        elements: str
      enabled:
        description: Whether the model can be chosen at all. Left out, it stays as it is.
        type: bool
      state:
        description: Whether the model is registered.
        type: str
        choices: [present, absent]
        default: present
seealso:
  - module: sparerig.llm.open_webui_group
  - module: sparerig.llm.open_webui_knowledge
"""

EXAMPLES = r"""
- name: Show the served model to everyone, and add one that answers shortly
  sparerig.llm.open_webui_model:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    models:
      - id: llama-3-8b-instruct
        name: Llama 3 8B
      - id: short
        name: Short answers
        base_model: llama-3-8b-instruct
        system: Answer in two sentences at most.
        params:
          temperature: 0.2
          max_tokens: 200
        visibility: groups
        groups: [Grown-ups]
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The id of the model.
      type: str
    action:
      description: What was done.
      type: str
      choices: [created, changed, removed]
  sample: [{action: created, name: short}]
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
    SHARING_OPTIONS,
    SHARING_RULES,
    Mode,
    apply_changes,
    connect,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUIError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.models import (
    check_models,
    plan_models,
)

MODEL = {
    "id": {"type": "str", "required": True},
    "name": {"type": "str"},
    "base_model": {"type": "str"},
    "system": {"type": "str"},
    "params": {"type": "dict"},
    "description": {"type": "str"},
    "knowledge": {"type": "list", "elements": "str"},
    "capabilities": {"type": "dict"},
    **SHARING_OPTIONS,
    "enabled": {"type": "bool"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_OPTIONS,
            "models": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": MODEL,
                **SHARING_RULES,
            },
        },
        supports_check_mode=True,
        **CONNECTION_RULES,
    )
    models = module.params["models"]
    try:
        check_models(models)
        mode = Mode(module.check_mode, module.warn)
        client = connect(module.params, mode)
        changes = plan_models(client, models, mode)
        result = apply_changes(changes, mode)
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(version=client.version, **result)


if __name__ == "__main__":
    main()
