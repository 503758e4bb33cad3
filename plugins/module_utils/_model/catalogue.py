# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The models we know, in one reviewed list. _memory/selection.py chooses among them.

Why a Python file and not YAML: modules run on the host, where PyYAML is not promised and only
Python files travel along; here a missing field does not even import.

To add a model: copy an entry, take `config` from its config.json, `commit` from its page on the
hub, and say in `known_from` where each was seen. `rank` orders by how good the answers are: more
parameters before more bits, newer before older of the same size. Only what is not gated is chosen
without asking.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.sparerig.llm.plugins.module_utils._model.config import (
    Architecture,
    parse,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.tokenizer import Tokenizer

_COMMIT_LENGTH = 40


class CatalogueError(ValueError):
    """No entry has this id, or none suits the card."""


@dataclass(frozen=True)
class Model:
    """One model as it can be downloaded."""

    id: str
    repository: str
    commit: str  # of the files that were looked at; in full, or what is known of it
    title: str
    license: str
    license_notice: str  # what the license wants shown to people; empty if nothing
    gated: bool
    least_capability: tuple[int, int]
    rank: int
    stop_tokens: tuple[str, ...]
    # What its tokenizer has beyond words: all added tokens but those that are reserved or for
    # pictures and code in the middle. A parser finds its own among them, or vLLM does not start.
    tokens: tuple[str, ...]
    tokens_known_from: str
    # Parsers of vLLM, each empty where none reads what the model was trained to write.
    tool_parser: str
    reasoning_parser: str
    chat_template: str  # where it is: "tokenizer" is with the model's files
    known_from: str
    config: dict[str, t.Any] = field(repr=False)

    @property
    def revision(self) -> str:
        """What to ask the hub for: a short commit would not be found."""
        return self.commit if len(self.commit) == _COMMIT_LENGTH else "main"

    @property
    def architecture(self) -> Architecture:
        """The numbers to plan with."""
        return parse(self.config)

    @property
    def tokenizer(self) -> Tokenizer:
        """What is known of its tokenizer before its files are here."""
        return Tokenizer(vocabulary=frozenset(self.tokens), special=frozenset(self.stop_tokens))

    @property
    def context(self) -> int:
        """Its native context in tokens."""
        return self.architecture.context

    @property
    def format(self) -> str:
        """How its weights are stored."""
        return self.architecture.quantization.label


# --- quantisations ----------------------------------------------------------------------------

_GPTQ_INT4: t.Final = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
}
_AWQ_INT4: t.Final = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "zero_point": True,
    "version": "gemm",
}
_FP8_BLOCKS: t.Final = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def _quantized(config: dict[str, t.Any], how: dict[str, t.Any]) -> dict[str, t.Any]:
    return {**config, "quantization_config": how}


# --- architectures ----------------------------------------------------------------------------

_LLAMA_3_8B: t.Final[dict[str, t.Any]] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}
_LLAMA_3_1_8B: t.Final[dict[str, t.Any]] = {
    **_LLAMA_3_8B,
    "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
}
_MISTRAL_7B: t.Final[dict[str, t.Any]] = {
    "architectures": ["MistralForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
    "sliding_window": None,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
}
_QWEN_2_5_7B: t.Final[dict[str, t.Any]] = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
}
_QWEN_3: t.Final[dict[str, t.Any]] = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
}
_QWEN_3_1_7B: t.Final[dict[str, t.Any]] = {
    **_QWEN_3,
    "num_hidden_layers": 28,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 16,
    "tie_word_embeddings": True,
}
_QWEN_3_4B: t.Final[dict[str, t.Any]] = {
    **_QWEN_3,
    "num_hidden_layers": 36,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "tie_word_embeddings": True,
}
_QWEN_3_8B: t.Final[dict[str, t.Any]] = {
    **_QWEN_3,
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
}
_QWEN_3_14B: t.Final[dict[str, t.Any]] = {
    **_QWEN_3,
    "num_hidden_layers": 40,
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_attention_heads": 40,
}
_QWEN_3_32B: t.Final[dict[str, t.Any]] = {
    **_QWEN_3,
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_attention_heads": 64,
}
_GEMMA_3_4B: t.Final[dict[str, t.Any]] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "num_hidden_layers": 34,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "vision_config": {
        "num_hidden_layers": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "patch_size": 14,
        "image_size": 896,
    },
    "torch_dtype": "bfloat16",
}

# --- families ---------------------------------------------------------------------------------


class _Family(t.TypedDict):
    license: str
    license_notice: str
    stop_tokens: tuple[str, ...]
    tokens: tuple[str, ...]
    tokens_known_from: str
    tool_parser: str
    reasoning_parser: str
    chat_template: str


_LLAMA_TURNS: t.Final = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    "<|eot_id|>",
)
_LLAMA_3_FAMILY: t.Final[_Family] = {
    "license": "Meta Llama 3 Community License",
    "license_notice": "Built with Meta Llama 3",
    "stop_tokens": ("<|eot_id|>", "<|end_of_text|>"),
    "tokens": _LLAMA_TURNS,
    "tokens_known_from": (
        "special_tokens in llama/tokenizer.py of meta-llama/llama3 at 71367a6; the other 251 of its"
        " 256 special tokens are <|reserved_special_token_0|> to 250"
    ),
    # It was not trained to call tools: no <|python_tag|>, and a template that writes none.
    "tool_parser": "",
    "reasoning_parser": "",
    "chat_template": "tokenizer",
}
_LLAMA_3_1_FAMILY: t.Final[_Family] = {
    **_LLAMA_3_FAMILY,
    "license": "Llama 3.1 Community License",
    "license_notice": "Built with Llama",
    "stop_tokens": ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    "tokens": (*_LLAMA_TURNS, "<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"),
    "tokens_known_from": (
        "special_tokens in models/llama3/api/tokenizer.py of meta-llama/llama-models at 364ed4e;"
        " 128004, 128008 and 128010 in the published tokenizer, as printed for a model made from it"
    ),
    "tool_parser": "llama3_json",
}
_QWEN_FAMILY: t.Final[_Family] = {
    "license": "Apache-2.0",
    "license_notice": "",
    "stop_tokens": ("<|im_end|>", "<|endoftext|>"),
    "tokens": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
    "tokens_known_from": (
        "added_tokens 151643 to 151658 of stored public copies of the tokenizer.json and"
        " tokenizer_config.json of Qwen2.5 and Qwen3"
    ),
    "tool_parser": "hermes",
    "reasoning_parser": "",
    "chat_template": "tokenizer",
}
_QWEN_3_TOKENS: t.Final = (
    *_QWEN_FAMILY["tokens"],
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_QWEN_3_INSTRUCT_FAMILY: t.Final[_Family] = {**_QWEN_FAMILY, "tokens": _QWEN_3_TOKENS}
_QWEN_3_FAMILY: t.Final[_Family] = {**_QWEN_3_INSTRUCT_FAMILY, "reasoning_parser": "qwen3"}
_MISTRAL_FAMILY: t.Final[_Family] = {
    "license": "Apache-2.0",
    "license_notice": "",
    "stop_tokens": ("</s>",),
    "tokens": (
        *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
        *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    "tokens_known_from": (
        "control tokens of Mistral's tokenizer v3, as mistral-common and the model's page tell; the"
        " template of copies older than August 2024 does not tell the model of tools"
    ),
    "tool_parser": "mistral",
    "reasoning_parser": "",
    "chat_template": "tokenizer",
}
_GEMMA_FAMILY: t.Final[_Family] = {
    "license": "Gemma Terms of Use",
    "license_notice": "Gemma is provided under and subject to the Gemma Terms of Use",
    "stop_tokens": ("<end_of_turn>",),
    "tokens": (
        *("<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        *("<start_of_image>", "<end_of_image>"),
    ),
    "tokens_known_from": "added_tokens of stored public copies of Gemma 3's tokenizer.json",
    # Its own template writes no tools, and refuses a turn of a tool: "pythonic" is for a template
    # that vLLM's examples bring.
    "tool_parser": "",
    "reasoning_parser": "",
    "chat_template": "tokenizer",
}

_SNAPSHOTS = "commit: snapshot paths in {} public repositories; numbers: the base model's config"

# --- the list ---------------------------------------------------------------------------------

MODELS: t.Final = (
    Model(
        id="qwen3-32b-awq",
        repository="Qwen/Qwen3-32B-AWQ",
        commit="0499c3ac83fdef8810b907a23894ba91e95eddd8",
        title="Qwen3 32B",
        gated=False,
        least_capability=(7, 5),
        rank=100,
        known_from=_SNAPSHOTS.format(5),
        config=_quantized(_QWEN_3_32B, _AWQ_INT4),
        **_QWEN_3_FAMILY,
    ),
    Model(
        id="qwen3-14b-awq",
        repository="Qwen/Qwen3-14B-AWQ",
        commit="31c69efc29464b6bb0aee1398b5a7b50a99340c3",
        title="Qwen3 14B",
        gated=False,
        least_capability=(7, 5),
        rank=90,
        known_from=_SNAPSHOTS.format(7),
        config=_quantized(_QWEN_3_14B, _AWQ_INT4),
        **_QWEN_3_FAMILY,
    ),
    Model(
        id="qwen3-8b",
        repository="Qwen/Qwen3-8B",
        commit="b968826d9c46dd6066d109eabc6255188de91218",
        title="Qwen3 8B",
        gated=False,
        least_capability=(7, 5),
        rank=83,
        known_from=_SNAPSHOTS.format(7),
        config=_QWEN_3_8B,
        **_QWEN_3_FAMILY,
    ),
    Model(
        id="qwen3-8b-fp8",
        repository="Qwen/Qwen3-8B-FP8",
        commit="220b46e3b2180893580a4454f21f22d3ebb187d3",
        title="Qwen3 8B",
        gated=False,
        least_capability=(8, 9),
        rank=82,
        known_from=_SNAPSHOTS.format(5) + "; an older copy at a29cae3df5d1",
        config=_quantized(_QWEN_3_8B, _FP8_BLOCKS),
        **_QWEN_3_FAMILY,
    ),
    Model(
        id="qwen3-8b-awq",
        repository="Qwen/Qwen3-8B-AWQ",
        commit="4da05a8edb55c6046cce958586c33b61da07bb79",
        title="Qwen3 8B",
        gated=False,
        least_capability=(7, 5),
        rank=80,
        known_from=_SNAPSHOTS.format(6)
        + "; 5.68 GiB and its Marlin kernel on an RTX 3060 12GB in a public runbook (vLLM 0.25)",
        config=_quantized(_QWEN_3_8B, _AWQ_INT4),
        **_QWEN_3_FAMILY,
    ),
    Model(
        id="llama-3.1-8b-awq",
        repository="hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
        commit="db1f81ad4b8c7e39777509fac66c652eb0a52f91",
        title="Llama 3.1 8B",
        gated=False,
        least_capability=(7, 5),
        rank=70,
        known_from=_SNAPSHOTS.format(4),
        config=_quantized(_LLAMA_3_1_8B, _AWQ_INT4),
        **_LLAMA_3_1_FAMILY,
    ),
    Model(
        id="llama-3.1-8b-gptq",
        repository="ModelCloud/Meta-Llama-3.1-8B-Instruct-gptq-4bit",
        commit="8148b4d",
        title="Llama 3.1 8B",
        gated=False,
        least_capability=(7, 5),
        rank=69,
        known_from="a stored copy of its page: g128, desc_act false at main (older revisions true)",
        config=_quantized(_LLAMA_3_1_8B, _GPTQ_INT4),
        **_LLAMA_3_1_FAMILY,
    ),
    Model(
        id="qwen2.5-7b-awq",
        repository="Qwen/Qwen2.5-7B-Instruct-AWQ",
        commit="b25037543e9394b818fdfca67ab2a00ecc7dd641",
        title="Qwen2.5 7B",
        gated=False,
        least_capability=(7, 5),
        rank=65,
        known_from=_SNAPSHOTS.format(8),
        config=_quantized(_QWEN_2_5_7B, _AWQ_INT4),
        **_QWEN_FAMILY,
    ),
    Model(
        id="qwen2.5-7b-gptq",
        repository="Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4",
        commit="e9c932ac1893a49ae0fc497ad6e1e86e2e39af20",
        title="Qwen2.5 7B",
        gated=False,
        least_capability=(7, 5),
        rank=64,
        known_from=_SNAPSHOTS.format(2) + "; desc_act false is from memory: checked at download",
        config=_quantized(_QWEN_2_5_7B, _GPTQ_INT4),
        **_QWEN_FAMILY,
    ),
    Model(
        id="llama-3-8b",
        repository="meta-llama/Meta-Llama-3-8B-Instruct",
        commit="8afb486c1db24fe5011ec46dfbe5b5dccdb575c2",
        title="Llama 3 8B",
        gated=True,
        least_capability=(7, 5),
        rank=61,
        known_from=_SNAPSHOTS.format(2) + "; older commits are seen as well",
        config=_LLAMA_3_8B,
        **_LLAMA_3_FAMILY,
    ),
    Model(
        id="llama-3-8b-gptq",
        repository="OxxoCodes/Meta-Llama-3-8B-Instruct-GPTQ",
        commit="dda0b64",
        title="Llama 3 8B",
        gated=False,
        least_capability=(7, 5),
        rank=60,
        known_from="a stored copy of its quantize_config.json: 4 bit, g128, desc_act false, sym",
        config=_quantized(_LLAMA_3_8B, _GPTQ_INT4),
        **_LLAMA_3_FAMILY,
    ),
    Model(
        id="qwen3-4b",
        repository="Qwen/Qwen3-4B-Instruct-2507",
        commit="cdbee75f17c01a7cc42f958dc650907174af0554",
        title="Qwen3 4B Instruct 2507",
        gated=False,
        least_capability=(7, 5),
        rank=58,
        known_from=_SNAPSHOTS.format(10),
        config={**_QWEN_3_4B, "max_position_embeddings": 262144, "rope_theta": 5000000.0},
        **_QWEN_3_INSTRUCT_FAMILY,
    ),
    Model(
        id="qwen3-4b-awq",
        repository="Qwen/Qwen3-4B-AWQ",
        commit="136f16ffdca9c9e49527391169e042634b9ad0d6",
        title="Qwen3 4B",
        gated=False,
        least_capability=(7, 5),
        rank=55,
        known_from=_SNAPSHOTS.format(1),
        config=_quantized(_QWEN_3_4B, _AWQ_INT4),
        **_QWEN_3_FAMILY,
    ),
    Model(
        id="gemma-3-4b",
        repository="google/gemma-3-4b-it",
        commit="093f9f388b31de276ce2de164bdc2081324b9767",
        title="Gemma 3 4B",
        gated=True,
        least_capability=(8, 0),
        rank=52,
        known_from=_SNAPSHOTS.format(6),
        config=_GEMMA_3_4B,
        **_GEMMA_FAMILY,
    ),
    Model(
        id="mistral-7b-awq",
        repository="solidrust/Mistral-7B-Instruct-v0.3-AWQ",
        commit="95b1295ddd1a8673117cdc7bd2a4da2a457bb3f7",
        title="Mistral 7B v0.3",
        gated=False,
        least_capability=(7, 5),
        rank=50,
        known_from=_SNAPSHOTS.format(1) + "; group size 128 is AutoAWQ's default, not seen",
        config=_quantized(_MISTRAL_7B, _AWQ_INT4),
        **_MISTRAL_FAMILY,
    ),
    Model(
        id="qwen3-1.7b",
        repository="Qwen/Qwen3-1.7B",
        commit="70d244cc86ccca08cf5af4e1e306ecf908b1ad5e",
        title="Qwen3 1.7B",
        gated=False,
        least_capability=(7, 5),
        rank=30,
        known_from=_SNAPSHOTS.format(8),
        config=_QWEN_3_1_7B,
        **_QWEN_3_FAMILY,
    ),
)

# What the article that this project makes true wanted, in a copy that current vLLM serves.
DEFAULT: t.Final = "llama-3-8b-gptq"


def find(wanted: str) -> Model:
    """Find an entry by its id or repository."""
    for model in MODELS:
        if wanted in {model.id, model.repository}:
            return model
    known = ", ".join(model.id for model in MODELS)
    raise CatalogueError(f"{wanted!r} is not in the catalogue. It holds {known}.")


def smallest() -> Model:
    """Take the smallest: what a processor can bear."""
    return min(MODELS, key=lambda model: model.rank)
