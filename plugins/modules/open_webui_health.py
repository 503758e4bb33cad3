#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify the chat page of a deployed Open WebUI."""

from __future__ import annotations

DOCUMENTATION = r"""
module: open_webui_health
short_description: Verify that Open WebUI serves its page, signs people in, shows the model and takes documents
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Proves that the chat page works as a person meets it. It looks at the page, signs in once, and looks for the model there.
    On request it takes a short document the whole way. The engine behind the page is verified by
    M(sparerig.llm.inference_health).
  - Every check it reaches is returned as evidence in RV(checks), on failure too, with the likely cause and the command that
    fixes it. A check that cannot be made is V(unknown) and never fails by itself.
  - It keeps its deadline whatever the page does, and needs nothing but Python on the host.
  - It only reads. O(document_probe) adds a document to the page and removes it.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  url:
    description: Address of the page, C(http) or C(https), as seen from the host.
    type: str
    default: http://127.0.0.1:8080
  email:
    description:
      - E-mail address of an account to sign in with. It need not be an administrator.
      - Left out, it is the C(WEBUI_ADMIN_EMAIL) of O(credentials_file). Without an account, only the page itself is checked.
    type: str
  password:
    description: Password of that account.
    type: str
  credentials_file:
    description:
      - File on the host with the line C(WEBUI_ADMIN_PASSWORD=...), such as the
        C(/etc/sparerig/sparerig-open-webui.secrets.env) that the role P(sparerig.llm.open_webui#role) makes.
    type: path
  validate_certs:
    description: Whether the certificate behind an C(https) address is checked.
    type: bool
    default: true
  model:
    description: Name of the model that the page must show. Without it, any will do.
    type: str
  document_probe:
    description:
      - Whether a short document is taken the whole way, which an account is needed for. It is uploaded, indexed, asked
        about, and has to be in the prompt that the model gets; then it is removed. Open WebUI itself tells nobody when this
        fails. Not done in check mode.
    type: bool
    default: false
  document_timeout:
    description: Seconds in which that document must be indexed. The first one after a start loads the embedding model.
    type: float
    default: 60
  deadline:
    description: Seconds that all the checks may take together. Must be above 0.
    type: float
    default: 60
  unit:
    description: Systemd unit of the page, for the commands in the evidence.
    type: str
    default: sparerig-open-webui
  engine_unit:
    description: Systemd unit of the engine behind the page, for the commands in the evidence.
    type: str
    default: sparerig-vllm
notes:
  - Open WebUI allows 15 sign-ins per address in three minutes. When it refuses for that reason, RV(checks[].status) of
    the sign-in is V(unknown).
seealso:
  - module: sparerig.llm.inference_health
  - module: sparerig.llm.open_webui_info
"""

EXAMPLES = r"""
- name: Verify the page as its first administrator sees it
  sparerig.llm.open_webui_health:
    email: admin@example.com
    credentials_file: /etc/sparerig/sparerig-open-webui.secrets.env
    model: llama-3-8b-instruct
    document_probe: true
    deadline: 120

- name: Verify that the page is up and asks for a sign-in
  sparerig.llm.open_webui_health:
    url: https://chat.example.com
"""

RETURN = r"""
checks:
  description: The evidence, in the order in which the checks were reached.
  returned: always
  type: list
  elements: dict
  sample:
    - name: web_model
      status: fail
      expected: model llama-3-8b-instruct to choose from
      seen: no model
      failure: web-no-model
      cause: Open WebUI cannot reach the engine, or asks it with another key.
      remedy: "`systemctl status sparerig-vllm`; `sudo journalctl -u sparerig-open-webui -n 100`; `grep OPENAI_API_BASE /etc/sparerig/sparerig-open-webui.env`."
  contains:
    name:
      description: What was checked.
      type: str
      returned: always
    status:
      description: V(pass), V(fail), V(unknown) when the truth could not be learnt, or V(skipped) when a check before it failed.
      type: str
      returned: always
    expected:
      description: What was expected.
      type: str
      returned: always
    seen:
      description: What was seen.
      type: str
      returned: always
    failure:
      description: Identifier of the failure, as in C(docs/failures.md). Empty unless RV(checks[].status) is V(fail).
      type: str
      returned: always
    cause:
      description: The likely cause. Empty when the check passed.
      type: str
      returned: always
    remedy:
      description: The command that fixes it, or that shows more. Empty unless RV(checks[].status) is V(fail).
      type: str
      returned: always
report:
  description: The checks in plain lines, for people to read.
  returned: always
  type: list
  elements: str
  sample:
    - "pass     web_page  Open WebUI 0.12.4"
failure:
  description: Identifier of the first failure, as in C(docs/failures.md). Empty when there was none.
  returned: always
  type: str
  sample: web-no-model
version:
  description: The version of Open WebUI. Empty when it was not told.
  returned: always
  type: str
  sample: 0.12.4
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Deadline
from ansible_collections.sparerig.llm.plugins.module_utils._host.verification import (
    OptionError,
    check_numbers,
    check_url,
    outcome,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import account_from
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    Account,
    OpenWebUIError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.health import (
    PageExpectations,
    verify_page,
)


def read_options(params: dict[str, t.Any]) -> Account:
    """Return whom to sign in as; refuse values of the right type that make no sense."""
    check_numbers(params, positive=("deadline", "document_timeout"))
    check_url("url", params["url"])
    if params["password"] or params["credentials_file"]:
        return account_from({**params, "timeout": params["deadline"]})
    if params["email"]:
        raise OptionError("email is set: password or credentials_file is needed with it")
    if params["document_probe"]:
        raise OptionError("document_probe is true: email and a password are needed with it")
    return Account(params["url"], "", "", params["deadline"], params["validate_certs"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:8080"},
            "email": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "credentials_file": {"type": "path"},
            "validate_certs": {"type": "bool", "default": True},
            "model": {"type": "str"},
            "document_probe": {"type": "bool", "default": False},
            "document_timeout": {"type": "float", "default": 60},
            "deadline": {"type": "float", "default": 60},
            "unit": {"type": "str", "default": "sparerig-open-webui"},
            "engine_unit": {"type": "str", "default": "sparerig-vllm"},
        },
        mutually_exclusive=[("password", "credentials_file")],
        required_by={"password": "email"},
        supports_check_mode=True,
    )
    params = module.params
    try:
        account = read_options(params)
    except (OptionError, OpenWebUIError) as exc:
        module.fail_json(msg=str(exc))
    if account.password:
        module.no_log_values.add(account.password)
    probe = params["document_probe"] and not module.check_mode
    evidence = Evidence({"unit": params["engine_unit"], "web_unit": params["unit"]})
    expectations = PageExpectations(params["model"], params["document_timeout"] if probe else None)
    version = verify_page(account, expectations, evidence, Deadline(params["deadline"]))
    result = {"version": version or "", **outcome(evidence)}
    if evidence.first_failure:
        module.fail_json(msg=evidence.message(), **result)
    module.exit_json(msg=evidence.message(), changed=False, **result)


if __name__ == "__main__":
    main()
