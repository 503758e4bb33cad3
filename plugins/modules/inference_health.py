#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify GPU memory and API health of a deployed chat server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inference_health
short_description: Verify GPU memory and API health of a deployed vLLM server
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Proves that a vLLM server does what was deployed. It reads GPU memory from the driver, for each GPU and for each process,
    asks the API everything it tells of itself, and lets the model speak, measuring time to first token and tokens per second.
  - Every check it reaches is returned as evidence in RV(checks), on failure too, with the likely cause and the command that
    fixes it. A check that cannot be made, for want of rights for example, is V(unknown) and never fails by itself.
  - It keeps its deadline whatever the server does, and needs nothing but Python on the host.
  - It only reads. The one thing it leaves behind is a completion in the engine's statistics.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  endpoint:
    description:
      - Address of the vLLM server, C(http) or C(https), without C(/v1).
      - With O(container) this is an address as seen from inside that container.
    type: str
    default: http://127.0.0.1:8000
  container:
    description:
      - Name of the Docker container whose network O(endpoint) is asked from.
      - A server that publishes no port can be asked this way and no other. Needs root.
      - Without it, O(endpoint) is asked from the host.
    type: str
  validate_certs:
    description: Whether the certificates of C(https) addresses are checked.
    type: bool
    default: true
  api_key:
    description: Key of the API. With a key, an API that also answers without it is a failure.
    type: str
  api_key_file:
    description: File on the host with lines C(NAME=value) that holds the key, such as the engine's env file.
    type: path
  api_key_name:
    description: Name of the key in O(api_key_file).
    type: str
    default: VLLM_API_KEY
  model:
    description: Name that the model must be served by. Without it, the first model served is used.
    type: str
  deadline:
    description: Seconds that all the checks may take together. Must be above 0.
    type: float
    default: 60
  gpu:
    description:
      - With V(required), a GPU with a working driver must be there.
      - With V(optional), GPUs are checked if there are any that work.
      - With V(absent), a GPU that works is a failure.
    type: str
    choices: [required, optional, absent]
    default: optional
  gpus:
    description: Numbers or UUIDs of the GPUs to check, as C(nvidia-smi -L) shows them. Without it, all.
    type: list
    elements: str
    default: []
  min_free_mib:
    description: MiB of memory that must be free on each GPU.
    type: int
  max_used_mib:
    description: MiB of memory that may be used on each GPU.
    type: int
  max_process_mib:
    description: MiB of memory that a single process may hold on each GPU.
    type: int
  max_other_mib:
    description:
      - MiB of memory on each GPU that all processes outside O(container) may hold together, such as a desktop or a game.
      - Without O(container), all processes count.
    type: int
  expected_context_length:
    description: Context length that the server must tell, in tokens. Not with O(plan), which says it.
    type: int
  min_context_length:
    description: Least context length that the server must tell, in tokens.
    type: int
  plan:
    description:
      - The plan that the engine was started by, as M(sparerig.llm.memory_plan) returns it. Without it, nothing is compared.
      - The weights must be within 1 %, the KV cache within 3 %, the context length as planned, and all of it within what the
        plan takes of the card.
    type: dict
  completion_api:
    description:
      - Which API the completion is asked from. The chat page uses V(chat).
      - With V(auto), a model without a chat template is asked through V(completions) instead, and the evidence says so.
    type: str
    choices: [chat, completions, auto]
    default: chat
  prompt:
    description: What is asked of the model.
    type: str
    default: Count from 1 to 30.
  max_tokens:
    description: Tokens that the answer may have. Speed is measured over them.
    type: int
    default: 64
  max_ttft_ms:
    description: Milliseconds within which the first token must come. Not checked by default.
    type: float
  min_tokens_per_second:
    description: Tokens per second that must come after the first one. Not checked by default.
    type: float
  unit:
    description: Systemd unit of the server, for the commands in the evidence.
    type: str
    default: sparerig-vllm
seealso:
  - module: sparerig.llm.gpu_info
  - module: sparerig.llm.memory_plan
  - module: sparerig.llm.open_webui_health
"""

EXAMPLES = r"""
- name: Verify the server on this PC, in the network of its container
  sparerig.llm.inference_health:
    container: sparerig-vllm
    api_key_file: /etc/sparerig/sparerig-vllm.secrets.env
    model: llama-3-8b-instruct
    gpu: required

- name: Verify that it is as planned and fast enough
  sparerig.llm.inference_health:
    container: sparerig-vllm
    api_key_file: /etc/sparerig/sparerig-vllm.secrets.env
    gpu: required
    gpus: ["0"]
    max_other_mib: 600
    plan: "{{ model_plan }}"
    max_ttft_ms: 1500
    min_tokens_per_second: 30

- name: Look without failing
  sparerig.llm.inference_health:
    endpoint: http://192.168.1.20:8000
    api_key: "{{ vault_vllm_api_key }}"
  register: health
  failed_when: false
"""

RETURN = r"""
checks:
  description: The evidence, in the order in which the checks were reached.
  returned: always
  type: list
  elements: dict
  sample:
    - name: completion
      status: fail
      expected: a streamed completion of up to 64 tokens
      seen: http://127.0.0.1:8000/v1/chat/completions took the request and sent no token before the deadline of 60 s
      failure: engine-hung
      cause: It is stuck, although its process runs and /health may answer 200.
      remedy: "`sudo journalctl -u sparerig-vllm -n 100`; `sudo systemctl restart sparerig-vllm`. The supervisor restarts it by itself when it notices."
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
    - "pass     completion  64 tokens, finish reason length"
failure:
  description: Identifier of the first failure, as in C(docs/failures.md). Empty when there was none.
  returned: always
  type: str
  sample: engine-hung
gpus:
  description: The GPUs that were checked, as RV(sparerig.llm.gpu_info#module:gpus) describes them.
  returned: always
  type: list
  elements: dict
versions:
  description: Versions of what was met on the way. Empty where not met or not told.
  returned: always
  type: dict
  contains:
    driver:
      description: The NVIDIA driver's kernel module.
      type: str
      returned: always
    cuda:
      description: The newest CUDA that this driver offers.
      type: str
      returned: always
    vllm:
      description: The server.
      type: str
      returned: always
model:
  description: The model that was asked. Null when none was.
  returned: always
  type: str
context_length:
  description: Context length in tokens, as the server tells it. Null when it does not.
  returned: always
  type: int
kv_cache_tokens:
  description: Tokens that the KV cache holds, from the server's metrics. Null when they do not tell.
  returned: always
  type: int
kv_cache_usage_percent:
  description: How full the KV cache was. Null when the metrics do not tell.
  returned: always
  type: float
requests_running:
  description: Requests that the engine was working on. Null when the metrics do not tell.
  returned: always
  type: int
requests_waiting:
  description: Requests that waited for the engine. Null when the metrics do not tell.
  returned: always
  type: int
ttft_ms:
  description: Time to first token of the completion, in milliseconds. Null when there was none.
  returned: always
  type: float
tpot_ms:
  description: Time per output token after the first, in milliseconds. Null when there was none.
  returned: always
  type: float
tokens_per_second:
  description: Tokens per second after the first one. Null when there was none.
  returned: always
  type: float
completion_tokens:
  description: Tokens of the completion. Null when there was none.
  returned: always
  type: int
finish_reason:
  description: Why the completion ended, V(length) or V(stop) as a rule. Null when there was none.
  returned: always
  type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import LocalHost
from ansible_collections.sparerig.llm.plugins.module_utils._host.verification import (
    OptionError,
    outcome,
    read_secret,
)
from ansible_collections.sparerig.llm.plugins.module_utils._service.verification import (
    check_options,
    verify_engine,
    words,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "endpoint": {"type": "str", "default": "http://127.0.0.1:8000"},
            "container": {"type": "str"},
            "validate_certs": {"type": "bool", "default": True},
            "api_key": {"type": "str", "no_log": True},
            "api_key_file": {"type": "path", "no_log": False},
            "api_key_name": {"type": "str", "default": "VLLM_API_KEY", "no_log": False},
            "model": {"type": "str"},
            "deadline": {"type": "float", "default": 60},
            "gpu": {
                "type": "str",
                "choices": ["required", "optional", "absent"],
                "default": "optional",
            },
            "gpus": {"type": "list", "elements": "str", "default": []},
            "min_free_mib": {"type": "int"},
            "max_used_mib": {"type": "int"},
            "max_process_mib": {"type": "int"},
            "max_other_mib": {"type": "int"},
            "expected_context_length": {"type": "int"},
            "min_context_length": {"type": "int"},
            "plan": {"type": "dict"},
            "completion_api": {
                "type": "str",
                "choices": ["chat", "completions", "auto"],
                "default": "chat",
            },
            "prompt": {"type": "str", "default": "Count from 1 to 30."},
            "max_tokens": {"type": "int", "default": 64, "no_log": False},
            "max_ttft_ms": {"type": "float"},
            "min_tokens_per_second": {"type": "float", "no_log": False},
            "unit": {"type": "str", "default": "sparerig-vllm"},
        },
        mutually_exclusive=[
            ("api_key", "api_key_file"),
            ("expected_context_length", "min_context_length"),
            ("expected_context_length", "plan"),
        ],
        supports_check_mode=True,
    )
    params = module.params
    host = LocalHost()
    key = params["api_key"] or None
    try:
        check_options(params)
        if params["api_key_file"]:
            key = read_secret(host, "api_key_file", params["api_key_file"], params["api_key_name"])
            module.no_log_values.add(key)
    except OptionError as exc:
        module.fail_json(msg=str(exc))
    evidence = Evidence(words(params))
    result: dict[str, t.Any] = verify_engine(params, host, key, evidence) | outcome(evidence)
    if evidence.first_failure:
        module.fail_json(msg=evidence.message(), **result)
    module.exit_json(msg=evidence.message(), changed=False, **result)


if __name__ == "__main__":
    main()
