# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A config.json is read as transformers would, and what is none is refused in words."""

from __future__ import annotations

import json
import struct
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import (
    Architecture,
    ModelConfigError,
    Quantization,
    UnknownArchitectureError,
    parse,
    read_directory,
    stored_weights,
)

if t.TYPE_CHECKING:
    from pathlib import Path

LLAMA = {
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
GEMMA_2 = {
    **LLAMA,
    "architectures": ["Gemma2ForCausalLM"],
    "num_hidden_layers": 42,
    "hidden_size": 3584,
    "num_attention_heads": 16,
    "sliding_window": 4096,
}
GEMMA_3 = {
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
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


def quantized(how: dict[str, t.Any]) -> Quantization:
    return parse({**LLAMA, "quantization_config": how}).quantization


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, {"family": "Llama", "kv_heads": 8, "head_dim": 128, "tied": False, "bias": 0}),
        ({**LLAMA, "num_key_value_heads": None}, {"kv_heads": 32}),
        ({**LLAMA, "head_dim": 96}, {"head_dim": 96}),
        ({**LLAMA, "tie_word_embeddings": True}, {"tied": True}),
        ({**LLAMA, "attention_bias": True}, {"bias": 48 * 128}),
        ({**LLAMA, "torch_dtype": "float16"}, {"dtype": "float16"}),
        ({**LLAMA, "torch_dtype": "float32"}, {"dtype": "bfloat16"}),
        ({**LLAMA, "dtype": "float16", "torch_dtype": None}, {"dtype": "float16"}),
        (LLAMA, {"rope_theta": 500000.0}),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, {"rope_theta": None}),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
            {"rope_theta": 7.0},
        ),
        (
            {
                **LLAMA,
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 4096,
                "use_sliding_window": False,
            },
            {"bias": 48 * 128, "window": None, "sliding_layers": 0},
        ),
        ({**LLAMA, "architectures": ["Qwen3ForCausalLM"]}, {"qk_norm": True, "head_dim": 128}),
        (
            {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": 4096},
            {"window": 4096, "sliding_layers": 32},
        ),
        (  # a window as long as the context forgets nothing
            {**LLAMA, "architectures": ["Phi3ForCausalLM"], "sliding_window": 8192},
            {"window": None, "sliding_layers": 0},
        ),
        (GEMMA_2, {"head_dim": 256, "tied": True, "sliding_layers": 21, "norms": 4}),
        (
            {**GEMMA_2, "layer_types": ["sliding_attention"] * 40 + ["full_attention"] * 2},
            {"sliding_layers": 40},
        ),
        (
            GEMMA_3,
            {
                "heads": 8,
                "kv_heads": 4,
                "vocab": 262208,
                "context": 131072,
                "window": 1024,
                "sliding_layers": 29,
                "rope_theta": None,
                "rotary_tables": 2,
            },
        ),
    ],
)
def test_an_architecture_is_read(config: dict[str, t.Any], expected: dict[str, t.Any]) -> None:
    found = parse(config)
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_picture_encoder_is_counted() -> None:
    # SigLIP so400m without its unused head, as its model card says: about 0.4 billion.
    assert parse(GEMMA_3).vision_elements == pytest.approx(417e6, rel=0.01)
    assert parse(LLAMA).vision_elements == 0


@pytest.mark.parametrize(
    ("how", "expected", "label"),
    [
        (
            GPTQ,
            Quantization("gptq", 4, 128, zero_points=True),
            "GPTQ INT4",
        ),
        (
            {**GPTQ, "bits": 8, "group_size": -1, "desc_act": True, "lm_head": True},
            Quantization("gptq", 8, None, zero_points=True, lm_head=True),
            "GPTQ INT8",
        ),
        (
            {**GPTQ, "desc_act": True},
            Quantization("gptq", 4, 128, zero_points=True, act_order=True),
            "GPTQ INT4",
        ),
        (
            {**GPTQ, "dynamic": {"-:.*down_proj": {}, "+:.*up_proj": {"bits": 8}}},
            Quantization("gptq", 4, 128, zero_points=True, kept=(".*down_proj",)),
            "GPTQ INT4",
        ),
        (
            {
                **GPTQ,
                "modules_in_block_to_quantize": [
                    ["mlp.up_proj", "mlp.gate_proj"],
                    ["mlp.down_proj"],
                ],
            },
            Quantization(
                "gptq",
                4,
                128,
                zero_points=True,
                kept=(
                    "self_attn.q_proj",
                    "self_attn.k_proj",
                    "self_attn.v_proj",
                    "self_attn.qkv_proj",
                    "self_attn.o_proj",
                ),
            ),
            "GPTQ INT4",
        ),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
            Quantization("awq", 4, 128, zero_points=True),
            "AWQ INT4",
        ),
        (
            {
                "quant_method": "awq",
                "w_bit": 4,
                "q_group_size": 64,
                "zero_point": False,
                "modules_to_not_convert": ["o_proj"],
            },
            Quantization("awq", 4, 64, kept=("o_proj",)),
            "AWQ INT4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {
                        "weights": {
                            "num_bits": 4,
                            "type": "int",
                            "strategy": "group",
                            "group_size": 128,
                            "symmetric": False,
                        }
                    }
                },
                "ignore": ["lm_head"],
            },
            Quantization("compressed-tensors", 4, 128, zero_points=True, kept=("lm_head",)),
            "compressed-tensors INT4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
                },
            },
            Quantization("compressed-tensors-fp8", 8),
            "compressed-tensors FP8",
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": ["lm_head"]},
            Quantization("fp8", 8, block=(128, 128), kept=("lm_head",)),
            "FP8",
        ),
    ],
)
def test_a_quantisation_is_read(how: dict[str, t.Any], expected: Quantization, label: str) -> None:
    assert quantized(how) == expected
    assert quantized(how).label == label


def test_the_old_file_of_autogptq_counts_where_config_json_is_silent() -> None:
    old = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    assert parse(LLAMA, old).quantization.label == "GPTQ INT4"
    assert parse(LLAMA).quantization.label == "16 bit"


@pytest.mark.parametrize(
    ("kept", "linear", "expected"),
    [
        (("lm_head",), 0, False),
        (("self_attn.o_proj",), 1, True),
        (("re:.*mlp\\..*",), 3, True),
        (("re:.*mlp\\..*",), 0, False),
        (("model.layers.0.mlp.down_proj",), 3, False),  # one layer is not all of them
        (("[",), 0, False),
    ],
)
def test_modules_left_in_16_bit(kept: tuple[str, ...], linear: int, expected: bool) -> None:  # noqa: FBT001
    linears = parse(LLAMA).linears
    assert Quantization("gptq", 4, 128, kept=kept).keeps(linears[linear]) is expected


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "no list 'architectures'"),
        ({"architectures": []}, "no list 'architectures'"),
        ({"architectures": "LlamaForCausalLM"}, "no list 'architectures'"),
        (
            {"architectures": ["MambaForCausalLM"]},
            "'MambaForCausalLM', which the memory plan does not know",
        ),
        ({**LLAMA, "num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({**LLAMA, "hidden_size": "4096"}, "hidden_size is '4096'"),
        ({**LLAMA, "hidden_size": True}, "hidden_size is True"),
        ({**LLAMA, "hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({**LLAMA, "vocab_size": None}, "vocab_size is None"),
        ({**LLAMA, "num_key_value_heads": 5}, "no multiple of num_key_value_heads 5"),
        ({**LLAMA, "text_config": 3}, "text_config is 3"),
        ({**LLAMA, "quantization_config": "gptq"}, "quantization_config is 'gptq'"),
        ({**LLAMA, "quantization_config": {"quant_method": "exl2"}}, "quantisation 'exl2'"),
        ({**LLAMA, "quantization_config": {**GPTQ, "bits": 3}}, "bits 3"),
        ({**LLAMA, "quantization_config": {**GPTQ, "sym": False}}, "sym False"),
        ({**LLAMA, "quantization_config": {**GPTQ, "group_size": 0}}, "group_size is 0"),
        ({**LLAMA, "quantization_config": {"quant_method": "awq", "bits": 8}}, "bits 8"),
        ({**LLAMA, "quantization_config": {"quant_method": "compressed-tensors"}}, "0 kinds"),
        (
            {
                **LLAMA,
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}},
                },
            },
            "type 'float' with 4 bits",
        ),
    ],
)
def test_what_is_no_config_json_is_refused(config: dict[str, t.Any], says: str) -> None:
    with pytest.raises(ModelConfigError, match=says.replace("(", r"\(")):
        parse(config)


# --- directories ------------------------------------------------------------------------------


def save_tensors(file: Path, sizes: dict[str, int]) -> None:
    """Write a safetensors file whose data is missing: only the header is ever read."""
    header: dict[str, t.Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


def test_a_known_model_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "quantize_config.json").write_text(json.dumps(GPTQ))
    found, estimate = read_directory(tmp_path)
    assert found.quantization.label == "GPTQ INT4"
    assert not estimate


def test_an_unknown_model_is_estimated_from_its_weights(tmp_path: Path) -> None:
    config = {**LLAMA, "architectures": ["NovelForCausalLM"], "intermediate_size": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_tensors(tmp_path / "model-1.safetensors", {"a": 1000, "b": 24})
    save_tensors(tmp_path / "model-2.safetensors", {"c": 6})
    assert stored_weights(tmp_path) == 1030
    found, estimate = read_directory(tmp_path)
    assert estimate
    assert isinstance(found, Architecture)
    assert (found.family, found.known_weights) == ("NovelForCausalLM", 1030)


def test_an_unknown_model_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "architectures": ["Novel"]}))
    with pytest.raises(UnknownArchitectureError, match="With the weight files"):
        read_directory(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "does not exist"), ("{", "cannot be read as JSON"), ("[]", "no JSON object")],
)
def test_a_directory_that_is_no_model_is_refused(
    tmp_path: Path, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelConfigError, match=says):
        read_directory(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no safetensors"),
        (struct.pack("<Q", 10**12), "no safetensors"),
        (struct.pack("<Q", 4) + b"{}..", "damaged header"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "damaged header"),
    ],
)
def test_damaged_weights_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelConfigError, match=says):
        stored_weights(tmp_path)
