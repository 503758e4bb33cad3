#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: knowledge bases of Open WebUI."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_knowledge
short_description: Keep knowledge bases of Open WebUI in step with files
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Makes knowledge bases from files and directories of the host, and keeps them in step by the hash of each
    file's content. What has not changed is not sent again.
  - Waits until each file is really indexed. Open WebUI accepts an upload at once and may fail afterwards without
    telling anyone; here that is a failure, with the reason.
  - Checks all files before it sends the first. A file that is empty, too large, unreadable, neither text nor
    a known document format, or a second copy of another one stops the task.
  - Knowledge bases that are not listed are left alone.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.open_webui]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Names the files that differ, not their content.
  idempotent:
    support: full
options:
  knowledge:
    description: The knowledge bases.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name, by which the knowledge base is found.
        type: str
        required: true
      description:
        description: What it is about. Left out, it stays as it is.
        type: str
      src:
        description:
          - Files and directories on the host. Of a directory all files in it and below are taken, those with
            a name that starts with a dot left out.
          - Files of the knowledge base that are not among them are removed from it.
        type: list
        elements: path
        default: []
      max_file_size:
        description: The largest file that is sent, in MiB. Open WebUI reads a file into memory whole.
        type: int
        default: 50
      index_timeout:
        description: How many seconds to wait for the indexing of one file.
        type: int
        default: 300
      visibility:
        description:
          - Who may use it.
          - V(public) is everyone who is signed in, V(private) is administrators, V(groups) is the members of
            O(knowledge[].groups).
        type: str
        choices: [public, private, groups]
        default: public
      groups:
        description: The groups that may use it when O(knowledge[].visibility=groups).
        type: list
        elements: str
      state:
        description: Whether the knowledge base is there. Removing it removes its files from Open WebUI too.
        type: str
        choices: [present, absent]
        default: present
seealso:
  - module: sparerig.llm.open_webui_model
"""

EXAMPLES = r"""
- name: Let people ask about the household papers
  sparerig.llm.open_webui_knowledge:
    email: admin@localhost.localdomain
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    knowledge:
      - name: Household
        description: Manuals and contracts
        src: [/srv/papers/manuals, /srv/papers/rent.pdf]
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
      description: The name of the knowledge base.
      type: str
    action:
      description: What was done.
      type: str
      choices: [created, changed, removed]
  sample: [{action: created, name: Household}]
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
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.knowledge import (
    check_knowledge,
    plan_knowledge,
)

KNOWLEDGE = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str"},
    "src": {"type": "list", "elements": "path", "default": []},
    "max_file_size": {"type": "int", "default": 50},
    "index_timeout": {"type": "int", "default": 300},
    **SHARING_OPTIONS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **CONNECTION_OPTIONS,
            "knowledge": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": KNOWLEDGE,
                **SHARING_RULES,
            },
        },
        supports_check_mode=True,
        **CONNECTION_RULES,
    )
    knowledge = module.params["knowledge"]
    try:
        files = check_knowledge(knowledge)
        mode = Mode(module.check_mode, module.warn)
        client = connect(module.params, mode)
        changes = plan_knowledge(client, knowledge, files, mode)
        result = apply_changes(changes, mode)
    except OpenWebUIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(version=client.version, **result)


if __name__ == "__main__":
    main()
