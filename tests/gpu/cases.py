# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured: models in their formats, each on a card of one size."""

from __future__ import annotations

import copy
import dataclasses
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    Card,
    Plan,
    Use,
    plan,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import guessed, parse

# vLLM takes a GPTQ model with random weights for unquantised unless its modules are listed.
GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
    "modules_in_block_to_quantize": [
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ],
}
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": ["lm_head"],
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def compressed(bits: int) -> dict[str, t.Any]:
    """Make a compressed-tensors config: INT4 weights in groups, or INT8 weights and activations."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    by_token = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
    }
    int4 = bits == 4
    how = {"strategy": "group", "group_size": 128} if int4 else {"strategy": "channel"}
    group = {
        "targets": ["Linear"],
        "weights": weights | how,
        "input_activations": None if int4 else by_token,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if int4 else "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def base(catalogue_id: str) -> dict[str, t.Any]:
    """Take a model's dimensions from the catalogue."""
    config = dict(catalogue.find(catalogue_id).config)
    config.pop("quantization_config", None)
    return config


LLAMA = base("llama-3-8b")
LLAMA_3_2_3B = {
    **LLAMA,
    "num_hidden_layers": 28,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
}
GEMMA_2_9B = {
    "architectures": ["Gemma2ForCausalLM"],
    "num_hidden_layers": 42,
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "torch_dtype": "bfloat16",
}
GEMMA_3_4B = {
    "architectures": ["Gemma3ForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    **base("gemma-3-4b")["text_config"],
    "torch_dtype": "bfloat16",
}
MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "GptOssForCausalLM": "gpt_oss",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model on a card of one size."""

    name: str
    config: dict[str, t.Any]
    quantization: dict[str, t.Any] | None
    gib: int
    use: Use = dataclasses.field(default_factory=Use)
    file_bytes: int | None = None  # of the weights, where the plan can only estimate

    @property
    def full_config(self) -> dict[str, t.Any]:
        """Its config.json."""
        config = {"model_type": MODEL_TYPES[self.config["architectures"][0]], **self.config}
        config |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
        if self.quantization:
            config["quantization_config"] = self.quantization
        return config

    @property
    def card(self) -> Card:
        """A card of its size, of the RTX 30 series."""
        return Card(f"{self.gib} GiB", self.gib * 1024, (8, 6))

    @property
    def plan(self) -> Plan:
        """Plan it as the product does."""
        guess = self.file_bytes is not None
        architecture = (
            guessed(self.full_config, self.file_bytes or 0) if guess else parse(self.full_config)
        )
        return plan(architecture, self.card, self.use, model=self.name, estimate=guess)

    @property
    def title(self) -> str:
        """What tells it apart."""
        return f"{self.name}-{self.gib}GiB"


GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "num_hidden_layers": 24,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "hidden_act": "silu",
    "attention_bias": True,
    "rms_norm_eps": 1e-05,
    "swiglu_limit": 7.0,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
GPT_OSS_20B_BYTES = 13_761_264_768  # its safetensors files, by their index
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        *("model.layers.*.self_attn", "model.layers.*.mlp.router"),
        *("model.embed_tokens", "lm_head"),
    ],
}

_FORMATS: dict[str, dict[str, t.Any] | None] = {
    "none": None,
    "gptq": GPTQ,
    "awq": AWQ,
    "fp8": FP8,
}

# The sizes of cards that people have.
CARDS_GIB = (6, 8, 10, 11, 12, 16, 20, 24, 32)
ARTICLE_GIB = 12


def of_catalogue(model: catalogue.Model) -> Case:
    """Make a model of the catalogue one that vLLM loads with random weights."""
    how = model.architecture.quantization.method
    config = GEMMA_3_4B if model.id == "gemma-3-4b" else copy.deepcopy(base(model.id))
    rope = config.get("rope_scaling")
    if rope and rope["rope_type"] == "llama3":
        config["rope_scaling"] = {**LLAMA_3_2_3B["rope_scaling"], "factor": rope["factor"]}
    return Case(model.id, config, _FORMATS[how], 0)


def sized(case: Case, gib: int) -> Case:
    """Put a case on a card of another size."""
    return dataclasses.replace(case, gib=gib)


def fits(case: Case) -> bool:
    """Whether the plan says so."""
    return case.plan.fits


def smallest(case: Case) -> Case:
    """Take the smallest card that the plan allows."""
    return next(small for gib in CARDS_GIB if fits(small := sized(case, gib)))


def catalogue_cases() -> t.Iterator[Case]:
    """Every model of the catalogue, on the smallest card that the plan allows, and on 12 GiB."""
    for model in catalogue.MODELS:
        case = of_catalogue(model)
        least = smallest(case)
        yield least
        article = sized(case, ARTICLE_GIB)
        if least.gib < ARTICLE_GIB:
            yield article


# Beside the catalogue: the article's other rows, and the models that once ran out of memory.
OTHERS = (
    Case("llama-3.2-3b", LLAMA_3_2_3B, None, 12),
    Case("llama-3-8b-gptq-int8", LLAMA, {**GPTQ, "bits": 8}, 12),
    Case("llama-3-8b-gptq-16k", LLAMA, GPTQ, 12, Use(context=16384, extend_context=True)),
    Case("qwen3-8b-awq-eager", base("qwen3-8b"), AWQ, 8, Use(context=2048, enforce_eager=True)),
    Case("mistral-7b-ct-int4", base("mistral-7b-awq"), compressed(4), 12),
    Case("llama-3-8b-ct-int8", LLAMA, compressed(8), 12),
    Case("gemma-2-9b", GEMMA_2_9B, None, 24),
    Case("qwen2.5-7b", base("qwen2.5-7b-awq"), None, 24),
    Case("gpt-oss-20b", GPT_OSS_20B, MXFP4, 24, file_bytes=GPT_OSS_20B_BYTES),
)
CASES = (*catalogue_cases(), *OTHERS)
# First those that ran out of memory at their first start under the plan of vLLM 0.26.
ORDER = ("gemma-3-4b", "qwen3-4b-1", "llama-3.2-3b", "qwen3-1.7b", "llama-3-8b-gptq", "qwen3-8b")
