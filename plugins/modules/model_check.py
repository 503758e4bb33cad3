#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""See whether a directory is a model that vLLM can serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: model_check
short_description: See whether a directory is a model that vLLM can serve
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Looks at a model directory in the layout of Hugging Face and tells what it is, and whether vLLM can serve it.
  - It finds files that are missing or cut short, a weight format that vLLM refuses, a missing tokenizer or chat template,
    stop tokens that would make answers run on without end, and files that the container could not read.
  - Of the weights it reads the headers only, so it takes less than a second for a model of any size.
  - It needs nothing but Python on the host. Whether the model fits the card is a question for M(sparerig.llm.memory_plan).
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  path:
    description: The directory of the model on the host, with its C(config.json).
    type: path
    required: true
  user:
    description:
      - The numeric user id that the container runs as. With it, the permission bits are checked for that user.
      - User V(0) reads everything.
    type: int
  group:
    description: The numeric group id that the container runs as. Without it, the same number as O(user).
    type: int
  chat_template:
    description: Whether the model must bring a chat template. Models without one can only continue texts.
    type: str
    choices: [required, optional]
    default: required
  vllm_image:
    description: The image that is to serve the model, as in M(sparerig.llm.hf_snapshot).
    type: str
    default: ""
  tool_call_parser:
    description: The parser of tool calls that vLLM is to be started with, as in M(sparerig.llm.hf_snapshot).
    type: str
    default: auto
  reasoning_parser:
    description: The parser of reasoning that vLLM is to be started with, as in M(sparerig.llm.hf_snapshot).
    type: str
    default: auto
seealso:
  - module: sparerig.llm.hf_snapshot
"""

EXAMPLES = r"""
- name: See whether my model can be served
  sparerig.llm.model_check:
    path: /srv/models/llama-3-8b-instruct-gptq
  register: model

- name: Show what it is
  ansible.builtin.debug:
    msg: "{{ model.architecture }}, {{ model.quantization.method }}, context {{ model.context_length }}"
"""

RETURN = r"""
checks:
  description: What was looked at, in this order, on failure too. V(unknown) never fails by itself.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description:
        - V(directory), V(config), V(weights), V(weights_whole), V(readable), V(quantization), V(tokenizer), V(chat_template),
          V(template_tokens), V(parsers) or V(stop_tokens).
      type: str
    status:
      description: V(pass), V(fail), V(unknown) or V(skipped).
      type: str
    expected:
      description: What should have been there.
      type: str
    seen:
      description: What was there.
      type: str
    failure:
      description: Identifier of the failure, as in C(docs/failures.md). Empty unless RV(checks[].status) is V(fail).
      type: str
    cause:
      description: The likely cause, where it did not pass.
      type: str
    remedy:
      description: What to do about it, where it did not pass.
      type: str
failure:
  description: Identifier of the first failure.
  returned: failure
  type: str
  sample: chat-template-missing
path:
  description: The directory that was looked at.
  returned: always
  type: str
architecture:
  description: The first architecture that C(config.json) names.
  returned: when C(config.json) can be read
  type: str
  sample: LlamaForCausalLM
model_type:
  description: The model type that C(config.json) names.
  returned: when C(config.json) can be read
  type: str
  sample: llama
context_length:
  description: The context in tokens that the model was made for; null if C(config.json) does not say.
  returned: when C(config.json) can be read
  type: int
  sample: 8192
dtype:
  description: The number format of what is not quantised; null if C(config.json) does not say.
  returned: when C(config.json) can be read
  type: str
  sample: float16
quantization:
  description: The quantisation. Values that the model does not give are null.
  returned: when it can be read
  type: dict
  contains:
    method:
      description: V(none), V(gptq), V(awq), V(fp8), V(compressed-tensors) or another.
      type: str
    format:
      description: The layout of the quantised tensors.
      type: str
    bits:
      description: Bits per weight.
      type: int
    group_size:
      description: Weights that share one scale. V(-1) is a whole row.
      type: int
    desc_act:
      description: Whether GPTQ ordered the weights by activation.
      type: bool
    sym:
      description: Whether the quantisation is symmetric.
      type: bool
weights_format:
  description: V(safetensors) or V(bin).
  returned: when the weights are complete
  type: str
weights_bytes:
  description: Size of the weights in bytes.
  returned: when the weights are complete
  type: int
  sample: 5734942928
size_bytes:
  description: Size of all files directly in the directory, in bytes.
  returned: when the directory can be read
  type: int
  sample: 5744123456
has_chat_template:
  description: Whether the model brings a chat template.
  returned: when C(config.json) can be read
  type: bool
tool_call_parser:
  description: The parser of tool calls for this model; empty if there is none that suits it.
  returned: when its tokenizer can be read and the parsers can be used
  type: str
  sample: hermes
reasoning_parser:
  description: The parser of reasoning for this model; empty if there is none that suits it.
  returned: when its tokenizer can be read and the parsers can be used
  type: str
  sample: qwen3
stop_token_ids:
  description: The tokens that must end an answer, with those that the model's own files forgot.
  returned: when C(config.json) can be read
  type: list
  elements: int
  sample: [128001, 128009]
missing_stop_token_ids:
  description:
    - The tokens among RV(stop_token_ids) that end a turn of the chat template, but that vLLM would not stop at by itself.
    - If there are any, put all of RV(stop_token_ids) as C(eos_token_id) into a C(generation_config.json), the model's own
      or one in a directory that vLLM's option C(--generation-config) names.
  returned: when C(config.json) can be read
  type: list
  elements: int
  sample: []
fingerprint:
  description: A hash that changes when the model in the directory is exchanged. Weights count by size and time of change.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._model.inspection import (
    Engine,
    inspect,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "user": {"type": "int"},
            "group": {"type": "int"},
            "chat_template": {
                "type": "str",
                "choices": ["required", "optional"],
                "default": "required",
            },
            "vllm_image": {"type": "str", "default": ""},
            "tool_call_parser": {"type": "str", "default": "auto"},
            "reasoning_parser": {"type": "str", "default": "auto"},
        },
        required_by={"group": ["user"]},
        supports_check_mode=True,
    )
    path, user, group = (module.params[name] for name in ("path", "user", "group"))
    model = inspect(
        Path(path),
        reader=None if user is None else (user, user if group is None else group),
        need_chat_template=module.params["chat_template"] == "required",
        engine=Engine(
            *(module.params[n] for n in ("vllm_image", "tool_call_parser", "reasoning_parser"))
        ),
    )
    if model.reasons:
        text = f"vLLM cannot serve the model at {path}. {model.reasons}"
        module.fail_json(msg=text, failure=model.failure, path=path, **model.result())
    module.exit_json(changed=False, path=path, **model.result())


if __name__ == "__main__":
    main()
