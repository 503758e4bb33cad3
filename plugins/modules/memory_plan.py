#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work out whether a model fits a card, before anything is downloaded or bought."""

from __future__ import annotations

DOCUMENTATION = r"""
module: memory_plan
short_description: Work out whether a model fits a card, before anything is downloaded or bought
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Says what a language model takes of a graphics card's memory when vLLM serves it, for how many people and how long chats.
  - Gives the arguments that make vLLM keep to it, and, when it does not fit, by how much and what would.
  - Needs no GPU, no model files and no network. The sums were held against vLLM on a real GPU; see C(docs/what-fits.md).
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  model:
    description:
      - A model of the catalogue, by its id (V(llama-3-8b-gptq)) or repository.
      - V(auto) chooses the best one that fits.
      - Another repository, as V(ORGANISATION/NAME), is planned by its files under O(root), and before they are there not at all.
      - An absolute path is a directory that holds a model, or at least its C(config.json). An architecture that is not known is
        estimated from the headers of its C(*.safetensors) files; RV(estimate) then says so.
      - Without O(model) and O(config), every model of the catalogue is planned and RV(report) is a table.
    type: str
  root:
    description:
      - Directory of downloaded models, as M(sparerig.llm.hf_snapshot) fills it. RV(path) follows from it.
      - A model of the catalogue is planned by its own C(config.json) there; until that is there, by the catalogue's.
    type: path
  revision:
    description:
      - Commit, branch or tag of the repository.
      - The default is the catalogue's commit, for other repositories V(main).
    type: str
  served_name:
    description: Name to serve the model by. The default is the last part of its repository, or of its directory.
    type: str
  plan_memory:
    description:
      - Whether to work out the memory.
      - With V(false), only which model is meant and where it is. RV(vllm_arguments) holds nothing but the parsers,
        RV(vllm_environment) nothing, and O(model=auto) is not possible. vLLM then measures what is left for chats by itself.
    type: bool
    default: true
  config:
    description: The content of a model's C(config.json).
    type: dict
  gpu:
    description:
      - A known card by name, such as V(RTX 3060 12GB).
      - A name that stands for several cards needs its memory.
      - Without O(gpu), O(gpus), O(gpu_memory_mib) and O(cpu_kv_cache_gib), the host's own card is looked at. Where it has no driver
        yet, the card is known by its PCI id, and RV(confirmed) is V(false).
    type: str
  gpus:
    description:
      - The cards as M(sparerig.llm.gpu_info) returns them in RV(sparerig.llm.gpu_info#module:gpus).
      - The one with the most free memory is planned for, of those that vLLM can use.
      - Memory that a running vLLM holds counts as free, since a new start gives it back first.
    type: list
    elements: dict
  gpu_memory_mib:
    description: Memory of the card in MiB, as C(nvidia-smi) prints it.
    type: int
  gpu_capability:
    description: Compute capability of the card.
    type: str
  gpu_bandwidth_gb_s:
    description: Memory bandwidth of the card in GB/s. Without it there is no RV(decode_ceiling).
    type: float
  gpu_used_mib:
    description: Memory in MiB that a desktop or other programs hold on the card. With O(gpus) the driver's own figure counts.
    type: int
    default: 0
  gpu_indexes:
    description: The only GPUs of the host that may be used, by the index that C(nvidia-smi) shows. Without it, any of them.
    type: list
    elements: int
  gpu_count:
    description: Equal cards in the host. With O(gpus) they are counted.
    type: int
    default: 1
  context:
    description: Tokens of one chat, question and answer together.
    type: int
    default: 8192
  chats:
    description: Chats of full length that must have room at the same time.
    type: int
    default: 1
  max_num_seqs:
    description:
      - Answers that are under way at the same time. More of them wait.
      - Without it, as many as short answers have room for, of 16 to 256, while they cost at most a tenth of the KV cache. RV(notes) says
        what they cost.
    type: int
  max_num_batched_tokens:
    description: Tokens that are worked on in one step.
    type: int
    default: 2048
  kv_cache_dtype:
    description:
      - Type of the numbers in the KV cache. V(auto) is the model's own.
      - V(fp8) makes room for twice the context, at some loss. It needs compute capability 8.9.
    type: str
    choices: [auto, fp8]
    default: auto
  enforce_eager:
    description: Run without CUDA graphs.
    type: bool
    default: false
  tensor_parallel_size:
    description: Cards that share the model.
    type: int
    default: 1
  cpu_offload_gib:
    description: GiB of weights that stay in the host's own memory.
    type: int
    default: 0
  extend_context:
    description:
      - Allow an O(context) beyond the model's own, by YaRN.
      - How good the answers are there is unproven; a model made for long contexts is better.
    type: bool
    default: false
  image_inputs:
    description: Load the image encoder of a model that has one.
    type: bool
    default: false
  reserve_mib:
    description:
      - MiB of the card that are left free beside the margin that every plan has, for other programs.
      - More than what a desktop holds already, which is measured, only for what may come on top.
    type: int
    default: 0
  gated:
    description: Let V(auto) choose models whose license has to be accepted, and which a token is needed for.
    type: bool
    default: false
  cpu_kv_cache_gib:
    description: Plan for the processor in place of a card, with this KV cache in GiB (C(VLLM_CPU_KVCACHE_SPACE)).
    type: float
  vllm_image:
    description:
      - The vLLM image that is to serve the model, with a tag or a digest, as in M(sparerig.llm.hf_snapshot). It changes no sum.
      - Where its version is not one that the sums and parsers were measured with, RV(image_warnings) says so, RV(report) too,
        and Ansible warns.
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
  plan_file:
    description:
      - A file on the host that holds an earlier answer of this module as JSON. It is only read.
      - While requirements, model and card are the same, the earlier plan stands, whatever a desktop holds today. RV(reused) then says so.
    type: path
  replan:
    description: Make a new plan whatever O(plan_file) holds.
    type: bool
    default: false
  fail_on_misfit:
    description: Fail when the model does not fit.
    type: bool
    default: false
seealso:
  - module: sparerig.llm.gpu_info
  - module: sparerig.llm.model_check
"""

EXAMPLES = r"""
- name: Say what a card that I might buy can run
  sparerig.llm.memory_plan:
    gpu: RTX 3060 12GB
  register: fit
  delegate_to: localhost

- name: Plan the article's model for four people
  sparerig.llm.memory_plan:
    model: llama-3-8b-gptq
    gpu: RTX 3060 12GB
    chats: 4

- name: Choose the best model for this host
  sparerig.llm.memory_plan:
    model: auto
  register: choice

- name: Check a model that is on the disk already
  sparerig.llm.memory_plan:
    model: /srv/models/my-model
    fail_on_misfit: true
"""

RETURN = r"""
fits:
  description:
    - Whether it fits. In the table, whether any model does.
    - Null where it cannot be said yet; RV(report) says why.
  returned: always
  type: bool
confirmed:
  description: Whether the card is as its driver or the options say. V(false) before there is a driver.
  returned: with a model
  type: bool
reused:
  description: Whether this is the plan in O(plan_file) as it stands there. A new plan is to be written to that file.
  returned: with a model
  type: bool
requirements:
  description: What was planned for, by which an earlier plan is known again.
  returned: with a model
  type: dict
config_sha256:
  description: SHA-256 over the model's C(config.json) and its tokenizer's files. Empty where they were not there yet.
  returned: with a model
  type: str
repository:
  description: The model's repository on the hub. Empty for a directory of the host's own, and where no model is chosen yet.
  returned: with a model
  type: str
revision:
  description: The commit, branch or tag to ask the hub for. Empty without RV(repository).
  returned: with a model
  type: str
path:
  description:
    - Directory of the model's files. They are there, or come there with the download.
    - Of a branch or tag that was never downloaded to O(root), the commit is not known yet; its own name stands for it.
    - Empty where no model is chosen yet, and for a repository without O(root).
  returned: with a model
  type: str
served_name:
  description: Name to serve the model by.
  returned: with a model
  type: str
license_notice:
  description: What the model's license wants shown to the people who use it, such as C(Built with Meta Llama 3). Empty for most.
  returned: with a model
  type: str
image_warnings:
  description: Why the answer may be wrong for O(vllm_image), a sentence each.
  returned: always
  type: list
  elements: str
report:
  description: The answer in lines to read.
  returned: always
  type: list
  elements: str
models:
  description: One entry for each model of the catalogue, best first.
  returned: when no model was named
  type: list
  elements: dict
  contains:
    model:
      description: Id in the catalogue.
      type: str
      returned: always
    repository:
      description: Where it is on the hub.
      type: str
      returned: always
    format:
      description: How its weights are stored.
      type: str
      returned: always
    license:
      description: Its license.
      type: str
      returned: always
    gated:
      description: Whether the license has to be accepted before the download.
      type: bool
      returned: always
    native_context:
      description: Tokens it was made for.
      type: int
      returned: always
    fits:
      description: Whether it fits.
      type: bool
      returned: always
    why_not:
      description: What is in the way; empty where it fits.
      type: str
      returned: always
    weights_gib:
      description: Size of the weights in GiB.
      type: float
      returned: when it could be planned
    longest_context:
      description: The longest context in tokens for the wanted number of chats.
      type: int
      returned: when it could be planned
    full_chats:
      description: Chats of full length at the same time.
      type: float
      returned: when it could be planned
    decode_ceiling:
      description: Tokens per second that the memory's bandwidth allows one chat at most.
      type: int
      returned: when it could be planned
reason:
  description: Why this model was chosen.
  returned: with O(model=auto)
  type: str
catalogue:
  description: The entry of the catalogue.
  returned: with O(model)
  type: dict
  contains:
    id:
      description: Its id.
      type: str
      returned: always
    repository:
      description: Where it is on the hub.
      type: str
      returned: always
    revision:
      description: The full commit, or V(main) where only the beginning of the commit is known.
      type: str
      returned: always
    commit:
      description: The commit, or as much of it as is known.
      type: str
      returned: always
    title:
      description: Name for people.
      type: str
      returned: always
    format:
      description: How its weights are stored.
      type: str
      returned: always
    license:
      description: Its license.
      type: str
      returned: always
    license_notice:
      description: What the license wants shown to people; may be empty.
      type: str
      returned: always
    gated:
      description: Whether the license has to be accepted before the download.
      type: bool
      returned: always
    context:
      description: Tokens it was made for.
      type: int
      returned: always
    stop_tokens:
      description: Tokens that end an answer.
      type: list
      elements: str
      returned: always
    tool_parser:
      description: Value for vLLM's C(--tool-call-parser); empty where no parser reads what the model was trained to write.
      type: str
      returned: always
    reasoning_parser:
      description: Value for vLLM's C(--reasoning-parser); empty where the model does not think aloud.
      type: str
      returned: always
    chat_template:
      description: Where the chat template is; V(tokenizer) is with the model's files.
      type: str
      returned: always
    known_from:
      description: Where the entry's facts were seen.
      type: str
      returned: always
tool_call_parser:
  description: The parser of tool calls that the engine is started with; empty if with none. The page then offers no tools.
  returned: with a model that fits, or whose memory is not planned
  type: str
reasoning_parser:
  description: The parser of reasoning that the engine is started with; empty if with none.
  returned: with a model that fits, or whose memory is not planned
  type: str
tools:
  description: One line on whether the engine takes requests with tools, and by which parser it reads the model's calls.
  returned: with a model that fits, or whose memory is not planned
  type: str
failure:
  description: V(parser-unknown) or V(parser-not-for-tokenizer); empty for what has no name of its own.
  returned: failure
  type: str
estimate:
  description: Whether the architecture is unknown and the plan only an estimate.
  returned: with a model
  type: bool
model:
  description: What was planned.
  returned: with a model
  type: str
gpu:
  description: The card that was planned for.
  returned: with a model
  type: dict
context:
  description: Tokens of one chat.
  returned: with a model
  type: int
chats:
  description: Chats of full length that must have room.
  returned: with a model
  type: int
terms:
  description: Bytes of the card's memory by what they are for, in the order in which they are taken.
  returned: with a model
  type: dict
  contains:
    driver_context:
      description: What the driver keeps for the process.
      type: int
      returned: always
    weights:
      description: What vLLM reports as loaded.
      type: int
      returned: always
    non_torch:
      description: Kernels and libraries.
      type: int
      returned: always
    activations:
      description: Working memory of one step.
      type: int
      returned: always
    cuda_graphs:
      description: Recorded CUDA graphs.
      type: int
      returned: always
    kv_cache:
      description: The KV cache, with all that is left; where the model does not fit, with what it would need.
      type: int
      returned: always
    slack:
      description: What is left free on purpose.
      type: int
      returned: always
free_bytes:
  description: Memory that nobody holds.
  returned: with a model
  type: int
missing_bytes:
  description: By how much it does not fit. 0 where it does.
  returned: with a model
  type: int
kv_block_bytes:
  description: Bytes of one block of 16 tokens, for the layers that share a pool.
  returned: with a model
  type: int
kv_bytes_per_token:
  description: Bytes that one more token of a long chat takes.
  returned: with a model
  type: int
kv_bytes_per_chat:
  description: Bytes that one chat of full length takes.
  returned: with a model
  type: int
kv_cache_tokens:
  description: Tokens in the KV cache, as vLLM counts them.
  returned: with a model
  type: int
full_chats:
  description: Chats of full length that have room at the same time.
  returned: with a model
  type: float
longest_context:
  description: The longest context in tokens for the wanted number of chats.
  returned: with a model
  type: int
decode_ceiling:
  description: Tokens per second that the memory's bandwidth allows one chat at most. Null where the bandwidth is not known.
  returned: with a model
  type: float
vllm_arguments:
  description:
    - Arguments of C(vllm serve) that make it so, by their names without dashes. V(true) stands for a switch.
    - With the parsers of tool calls and reasoning. Empty where it does not fit.
  returned: with a model
  type: dict
  sample: {max-model-len: 8192, max-num-seqs: 16, kv-cache-memory-bytes: 5260181504, enforce-eager: true}
vllm_environment:
  description:
    - Environment variables that belong to them. On a card, C(PYTORCH_CUDA_ALLOC_CONF) holds PyTorch to its share of the plan; on a
      processor, C(VLLM_CPU_KVCACHE_SPACE) is the KV cache. Empty where it does not fit.
  returned: with a model
  type: dict
  sample: {PYTORCH_CUDA_ALLOC_CONF: "max_split_size_mb:128,per_process_memory_fraction:0.8973"}
gpus:
  description: The GPUs to give to the container, as CDI names. Empty on a processor.
  returned: with a model
  type: list
  elements: str
  sample: ["nvidia.com/gpu=all"]
choices:
  description: Single changes that make it fit, the mildest first.
  returned: with a model
  type: list
  elements: dict
  contains:
    what:
      description: The change.
      type: str
      returned: always
    cost:
      description: What it costs.
      type: str
      returned: always
    settings:
      description: Options of this module that make it.
      type: dict
      returned: always
notes:
  description: What else to know.
  returned: with a model
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import cards, nvidia_smi
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import (
    CommandTimedOutError,
    LocalHost,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory import (
    planner,
    sizing,
    target_gpu,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model import config as model_config
from ansible_collections.sparerig.llm.plugins.module_utils._model.files import DamagedFileError
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import parsers, versions

_ERRORS = (
    cards.UnknownCardError,
    catalogue.CatalogueError,
    nvidia_smi.GpuOutputError,
    target_gpu.GpuChoiceError,
    sizing.PlanError,
    model_config.ModelConfigError,
    CommandTimedOutError,
    DamagedFileError,
    parsers.ParserError,
)


def with_warnings(found: dict[str, t.Any], image: str) -> dict[str, t.Any]:
    """Say what is to be minded about the image; an earlier plan was perhaps for another one."""
    warnings = [text for text in [versions.version_warning(image) if image else ""] if text]
    earlier = found.get("image_warnings", [])
    report = [line for line in found["report"] if line not in earlier] + warnings
    return {**found, "image_warnings": warnings, "report": report}


def main() -> None:
    """Run as Ansible does."""
    module = AnsibleModule(
        argument_spec={
            "model": {"type": "str"},
            "root": {"type": "path"},
            "revision": {"type": "str"},
            "served_name": {"type": "str"},
            "plan_memory": {"type": "bool", "default": True},
            "config": {"type": "dict"},
            "gpu": {"type": "str"},
            "gpus": {"type": "list", "elements": "dict"},
            "gpu_memory_mib": {"type": "int"},
            "gpu_capability": {"type": "str"},
            "gpu_bandwidth_gb_s": {"type": "float"},
            "gpu_used_mib": {"type": "int", "default": 0},
            "gpu_indexes": {"type": "list", "elements": "int"},
            "gpu_count": {"type": "int", "default": 1},
            "context": {"type": "int", "default": 8192},
            "chats": {"type": "int", "default": 1},
            "max_num_seqs": {"type": "int"},
            "max_num_batched_tokens": {"type": "int", "default": 2048, "no_log": False},
            "kv_cache_dtype": {"type": "str", "choices": ["auto", "fp8"], "default": "auto"},
            "enforce_eager": {"type": "bool", "default": False},
            "tensor_parallel_size": {"type": "int", "default": 1},
            "cpu_offload_gib": {"type": "int", "default": 0},
            "extend_context": {"type": "bool", "default": False},
            "image_inputs": {"type": "bool", "default": False},
            "reserve_mib": {"type": "int", "default": 0},
            "gated": {"type": "bool", "default": False},
            "cpu_kv_cache_gib": {"type": "float"},
            "vllm_image": {"type": "str", "default": ""},
            "tool_call_parser": {"type": "str", "default": "auto"},
            "reasoning_parser": {"type": "str", "default": "auto"},
            "plan_file": {"type": "path"},
            "replan": {"type": "bool", "default": False},
            "fail_on_misfit": {"type": "bool", "default": False},
        },
        mutually_exclusive=[
            ("model", "config"),
            ("gpu", "gpus", "gpu_memory_mib", "cpu_kv_cache_gib"),
        ],
        required_by={"gpu_memory_mib": ["gpu_capability"]},
        supports_check_mode=True,
    )
    params = module.params
    host = LocalHost()
    try:
        request = planner.PlanRequest.of(params)
        one_model = request.model or request.config is not None
        planned = (planner.answer if one_model else planner.table)(request, host)
    except _ERRORS as error:
        again = ""
        if isinstance(error, DamagedFileError):
            again = f". The copy broke off, or the disk was full: fetch {error.path} again."
        module.fail_json(msg=f"{error}{again}", failure=getattr(error, "failure", ""))
    found = with_warnings(planned, params["vllm_image"])
    for warning in found["image_warnings"]:
        module.warn(warning)
    if params["fail_on_misfit"] and found["fits"] is False:
        module.fail_json(msg="\n".join(found["report"]), **found)
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
