# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's config.json, read into the numbers that decide how much memory it takes.

Field names and their defaults are those of the transformers library's configuration classes;
where a config.json leaves a field out (Gemma 3 leaves out most), the class's default holds.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.sparerig.llm.plugins.module_utils._model.files import (
    DamagedFileError,
    read_object,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.quantization import (
    GPTQ_BITS,
    SEPARATE_FILES,
    describe_quantization,
    quantization_settings,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.safetensors import (
    safetensors_header,
    tensor_bytes,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class ModelConfigError(ValueError):
    """The config.json cannot be planned with; the text says what to do about it."""


@dataclass(frozen=True)
class Linear:
    """One matrix as vLLM holds it: the parts that share an input are fused into one."""

    parts: tuple[str, ...]
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Quantization:
    """How the matrices are stored. Embeddings, norms and biases are always in 16 bit."""

    method: str = "none"
    bits: int = 16
    group_size: int | None = None  # None: one scale per output column
    block: tuple[int, int] | None = None  # FP8 with one scale per block of the matrix
    zero_points: bool = False
    act_order: bool = False
    lm_head: bool = False
    kept: tuple[str, ...] = ()  # names or patterns of the modules left in 16 bit

    def keeps(self, linear: Linear) -> bool:
        """Whether the matrix stays in 16 bit (vLLM wants all fused parts treated alike)."""
        return any(_names(pattern, part) for pattern in self.kept for part in linear.parts)

    @property
    def label(self) -> str:
        """The format as people call it."""
        if self.method == "none":
            return "16 bit"
        kind = "FP8" if self.method in {"fp8", "compressed-tensors-fp8"} else f"INT{self.bits}"
        family = self.method.removesuffix("-fp8")
        return kind if family == "fp8" else f"{_SPELLING.get(family, family)} {kind}"


@dataclass(frozen=True)
class Architecture:
    """A decoder as its memory sees it. Sizes are elements, not bytes."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    dtype: str
    quantization: Quantization
    window: int | None = None  # tokens that a sliding layer remembers
    sliding_layers: int = 0
    norms: int = 2  # norms of hidden size, each layer
    qk_norm: bool = False
    bias: int = 0  # bias elements, each layer
    rotary_tables: int = 1
    rope_linear_factor: float = 1.0  # by which positions are scaled already, of type linear
    rope_theta: float | None = None  # None where positions are stretched already
    vision_elements: int = 0  # in 16 bit; loaded only if pictures are wanted
    known_weights: int | None = None  # bytes, from the files themselves

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Return the matrices of one layer."""
        attention, mlp = "self_attn.", "mlp."
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            Linear(
                tuple(attention + name for name in ("q_proj", "k_proj", "v_proj", "qkv_proj")),
                self.hidden,
                queries + 2 * keys,
            ),
            Linear((attention + "o_proj",), queries, self.hidden),
            Linear(
                tuple(mlp + name for name in ("gate_proj", "up_proj", "gate_up_proj")),
                self.hidden,
                2 * self.intermediate,
            ),
            Linear((mlp + "down_proj",), self.intermediate, self.hidden),
        )


def parse(
    config: Mapping[str, t.Any], quantize_config: Mapping[str, t.Any] | None = None
) -> Architecture:
    """Read a config.json (and AutoGPTQ's quantize_config.json, where a model still has one).

    Raises ModelConfigError for what is not a config.json, and UnknownArchitectureError for a
    family that is not known.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelConfigError(
            "This is not the config.json of a model: it has no list 'architectures'."
            " Give the folder that holds config.json, tokenizer.json and the weights."
        )
    family = _FAMILIES.get(names[0])
    if family is None:
        raise UnknownArchitectureError(names[0])
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise ModelConfigError(f"config.json: text_config is {text!r}, not an object.")
    return _architecture(family, config, text, _quantization(config, text, quantize_config))


class UnknownArchitectureError(ModelConfigError):
    """The family is not known; its memory can only be estimated from the weight files."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"config.json names the architecture {name!r}, which the memory plan does not know."
            f" It knows {', '.join(sorted(_FAMILIES))}. With the weight files beside config.json"
            " it can give an estimate."
        )
        self.name = name


def read_directory(folder: Path) -> tuple[Architecture, bool]:
    """Read a model's folder; the second value is True where the plan can only be an estimate."""
    config = _read_json(folder / "config.json")
    try:
        return parse(config, _separate_settings(folder)), False
    except UnknownArchitectureError:
        weights = stored_weights(folder)
        if not weights:
            raise
        return guessed(config, weights), True


def stored_weights(folder: Path) -> int:
    """Sum the tensors that the headers of the safetensors files list, in bytes."""
    return sum(_tensor_bytes(file) for file in sorted(folder.glob("*.safetensors")))


# --- families ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Family:
    name: str
    defaults: Mapping[str, t.Any]
    norms: int = 2
    qk_norm: bool = False
    qkv_bias: bool = False
    full_every: int | None = None  # of n layers, the n-th sees the whole context
    rotary_tables: int = 1


_COMMON: t.Final = {"tie_word_embeddings": False}
# MistralConfig's and Gemma2Config's default; a config.json that says null has no window.
_WINDOW: t.Final = {"sliding_window": 4096}
_GEMMA: t.Final = {"tie_word_embeddings": True, "head_dim": 256}
# Gemma3TextConfig's defaults, which the published config.json files rely on
_GEMMA3: t.Final = _GEMMA | {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}

_FAMILIES: t.Final = {
    "LlamaForCausalLM": _Family("Llama", _COMMON),
    "MistralForCausalLM": _Family("Mistral", _COMMON | _WINDOW),
    "Qwen2ForCausalLM": _Family("Qwen2", _COMMON, qkv_bias=True),
    "Qwen3ForCausalLM": _Family("Qwen3", _COMMON | {"head_dim": 128}, qk_norm=True),
    "Gemma2ForCausalLM": _Family("Gemma 2", _GEMMA | _WINDOW, norms=4, full_every=2),
    "Gemma3ForCausalLM": _Family(
        "Gemma 3", _GEMMA3, norms=4, qk_norm=True, full_every=6, rotary_tables=2
    ),
    "Gemma3ForConditionalGeneration": _Family(
        "Gemma 3", _GEMMA3, norms=4, qk_norm=True, full_every=6, rotary_tables=2
    ),
    "Phi3ForCausalLM": _Family("Phi-3", _COMMON),
}
_SPELLING: t.Final = {"gptq": "GPTQ", "awq": "AWQ"}

# What a field may be. Far beyond every published model, and far below a typing error's damage.
_LIMITS: t.Final = {
    "num_hidden_layers": 1_000,
    "hidden_size": 100_000,
    "intermediate_size": 1_000_000,
    "num_attention_heads": 1_000,
    "num_key_value_heads": 1_000,
    "head_dim": 10_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
    "sliding_window": 100_000_000,
}


def _architecture(
    family: _Family,
    config: Mapping[str, t.Any],
    text: Mapping[str, t.Any],
    quantization: Quantization,
) -> Architecture:
    given = {name: value for name, value in text.items() if value is not None}
    fields = {**family.defaults, **given}
    if "sliding_window" in text and text["sliding_window"] is None:
        fields.pop("sliding_window", None)  # said in so many words: no window
    layers = _count(fields, "num_hidden_layers")
    hidden = _count(fields, "hidden_size")
    heads = _count(fields, "num_attention_heads")
    kv_heads = _count({"num_key_value_heads": heads, **fields}, "num_key_value_heads")
    head_dim = _count({"head_dim": hidden // heads, **fields}, "head_dim")
    if heads % kv_heads:
        raise ModelConfigError(
            f"config.json: num_attention_heads {heads} is no multiple of num_key_value_heads"
            f" {kv_heads}; the file is damaged, get it again."
        )
    window, sliding_layers = _sliding(family, fields, layers)
    bias = 0
    if fields.get("attention_bias", family.qkv_bias):
        bias += (heads + 2 * kv_heads) * head_dim
    return Architecture(
        family=family.name,
        layers=layers,
        hidden=hidden,
        intermediate=_count(fields, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_count(fields, "vocab_size"),
        context=_count(fields, "max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", fields["tie_word_embeddings"])),
        dtype=_dtype(config, text),
        quantization=quantization,
        window=window,
        sliding_layers=sliding_layers,
        norms=family.norms,
        qk_norm=family.qk_norm,
        bias=bias,
        rotary_tables=family.rotary_tables,
        rope_linear_factor=_rope_linear_factor(fields),
        rope_theta=_rope_theta(fields),
        vision_elements=_vision_elements(config),
    )


def _count(fields: Mapping[str, t.Any], name: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LIMITS[name]:
        raise ModelConfigError(
            f"config.json: {name} is {value!r}, where a whole number from 1 to {_LIMITS[name]} is"
            " needed; the file is damaged or not a model's, get it again."
        )
    return value


def _sliding(family: _Family, fields: Mapping[str, t.Any], layers: int) -> tuple[int | None, int]:
    """How many layers forget what is older than the window."""
    if not fields.get("sliding_window") or not fields.get("use_sliding_window", True):
        return None, 0
    types = fields.get("layer_types")
    if isinstance(types, list):
        sliding = sum(kind == "sliding_attention" for kind in types)
    elif family.full_every:
        every = fields.get("sliding_window_pattern", family.full_every)
        sliding = layers - layers // every
    else:
        sliding = layers
    window = _count(fields, "sliding_window")
    # A window as long as the context forgets nothing.
    if not sliding or window >= _count(fields, "max_position_embeddings"):
        return None, 0
    return window, sliding


def _rope_theta(fields: Mapping[str, t.Any]) -> float | None:
    """Read the base of the rotary positions, from the old field or the new object."""
    rope = _rope(fields)
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        return None
    theta = rope.get("rope_theta", fields.get("rope_theta"))
    return float(theta) if isinstance(theta, (int, float)) else None


def _rope(fields: Mapping[str, t.Any]) -> Mapping[str, t.Any]:
    """Take how positions are scaled: one object, or one for each type of layer (transformers 5).

    Layers that see the whole context are scaled, layers with a window are not (Gemma 3).
    """
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        return {}
    of_layers = rope.get("full_attention")
    return of_layers if isinstance(of_layers, dict) else rope


def _rope_linear_factor(fields: Mapping[str, t.Any]) -> float:
    """Read by how much positions are scaled linearly; 1 where they are not."""
    rope = _rope(fields)
    if rope.get("rope_type", rope.get("type")) != "linear":
        return 1.0
    factor = rope.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not _sane(factor):
        raise ModelConfigError(
            f"config.json: the factor of rope_scaling is {factor!r}, where a number from 1 to 1000"
            " is needed; the file is damaged, get it again."
        )
    return float(factor)


def _sane(factor: float) -> bool:
    return 1 <= factor <= 1000  # noqa: PLR2004 - as above: far beyond every published model


def _dtype(config: Mapping[str, t.Any], text: Mapping[str, t.Any]) -> str:
    for source in (text, config):
        name = source.get("dtype") or source.get("torch_dtype")
        if name in {"float16", "bfloat16"}:
            return str(name)
    return "bfloat16"  # what vLLM makes of float32, and of none for these families


def _vision_elements(config: Mapping[str, t.Any]) -> int:
    """Size the picture encoder: a plain transformer over patches (SigLIP in Gemma 3)."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return 0
    hidden, wide = vision.get("hidden_size", 0), vision.get("intermediate_size", 0)
    patch, image = vision.get("patch_size", 14), vision.get("image_size", 896)
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * wide + wide + hidden + 4 * hidden
    patches = (image // patch) ** 2 * hidden + (3 * patch * patch + 1) * hidden
    return int(vision.get("num_hidden_layers", 0) * layer + patches)


# --- quantisation -----------------------------------------------------------------------------


def _quantization(
    config: Mapping[str, t.Any],
    text: Mapping[str, t.Any],
    quantize_config: Mapping[str, t.Any] | None,
) -> Quantization:
    given = quantization_settings({**config, "text_config": text})
    if given is None and quantize_config is not None:
        given = {"quant_method": "gptq", **quantize_config}
    if given is None:
        return Quantization()
    if not isinstance(given, dict):
        raise ModelConfigError(f"config.json: quantization_config is {given!r}, not an object.")
    method = describe_quantization(given)["method"]
    reader = _READERS.get(method)
    if reader is None:
        raise ModelConfigError(
            f"config.json: the quantisation {method!r} cannot be planned; known are"
            f" {', '.join(sorted(_READERS))}. Choose another copy of the model."
        )
    return reader(given)


def _gptq(given: Mapping[str, t.Any]) -> Quantization:
    bits = given.get("bits")
    if bits not in GPTQ_BITS or given.get("sym", True) is not True:
        raise ModelConfigError(
            f"config.json: GPTQ with bits {bits!r} and sym {given.get('sym')!r} is not served by"
            " vLLM, which needs 4 or 8 bits and sym true. Choose another copy of the model."
        )
    group = _group(given.get("group_size"))
    kept = [rule[2:] for rule in given.get("dynamic") or {} if rule.startswith("-:")]
    listed = given.get("modules_in_block_to_quantize")
    if listed:
        wanted = {name for part in listed for name in ([part] if isinstance(part, str) else part)}
        kept += [name for parts in _FUSED for name in parts if not _any_listed(parts, wanted)]
    return Quantization(
        "gptq",
        bits=bits,
        group_size=group,
        zero_points=True,  # stored even where they are all alike
        act_order=bool(given.get("desc_act")) and group is not None,
        lm_head=bool(given.get("lm_head")),
        kept=tuple(kept),
    )


def _awq(given: Mapping[str, t.Any]) -> Quantization:
    described = describe_quantization(given)
    bits = described["bits"]
    if bits != 4:  # noqa: PLR2004 - vLLM: auto_awq.py serves 4 bits only
        raise ModelConfigError(
            f"config.json: AWQ with bits {bits!r} is not served by vLLM, which needs 4."
            " Choose another copy of the model."
        )
    return Quantization(
        "awq",
        bits=bits,
        group_size=_group(described["group_size"]),
        zero_points=bool(given.get("zero_point", True)),
        lm_head=bool(given.get("lm_head")),
        kept=tuple(given.get("modules_to_not_convert") or ()),
    )


def _compressed_tensors(given: Mapping[str, t.Any]) -> Quantization:
    groups = given.get("config_groups")
    weights = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict) and isinstance(group.get("weights"), dict)
    ]
    if len(weights) != 1:
        raise ModelConfigError(
            f"config.json: compressed-tensors with {len(weights)} kinds of quantised weights"
            " cannot be planned, only one kind. Choose another copy of the model."
        )
    kind, bits = weights[0].get("type", "int"), weights[0].get("num_bits")
    if (kind, bits) not in {("int", 4), ("int", 8), ("float", 8)}:
        raise ModelConfigError(
            f"config.json: compressed-tensors weights of type {kind!r} with {bits!r} bits cannot be"
            " planned; known are int 4, int 8 and float 8. Choose another copy of the model."
        )
    by_group = weights[0].get("strategy") == "group"
    return Quantization(
        "compressed-tensors-fp8" if kind == "float" else "compressed-tensors",
        bits=int(bits),
        group_size=_group(weights[0].get("group_size")) if by_group else None,
        block=_block(weights[0].get("block_structure")),
        zero_points=not weights[0].get("symmetric", True),
        kept=tuple(given.get("ignore") or ()),
    )


def _fp8(given: Mapping[str, t.Any]) -> Quantization:
    kept = given.get("ignored_layers") or given.get("modules_to_not_convert") or ()
    return Quantization(
        "fp8", bits=8, block=_block(given.get("weight_block_size")), kept=tuple(kept)
    )


_READERS: t.Final = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _fp8,
}
# The matrices of a layer; a list of modules may name the parts, or what vLLM fuses them into.
_FUSED: t.Final = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    ("mlp.down_proj",),
)


def _group(value: object) -> int | None:
    if value in {None, -1}:
        return None
    if not isinstance(value, int) or value <= 0:
        raise ModelConfigError(
            f"config.json: group_size is {value!r}, where -1 or a positive whole number is needed."
        )
    return value


def _block(value: object) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2:  # noqa: PLR2004 - rows, columns
        return int(value[0]), int(value[1])
    return None


def _names(pattern: str, part: str) -> bool:
    """Whether a pattern of a quantisation config covers a module of every layer.

    Entries for single layers ("model.layers.3.mlp...") do not: they would need per-layer sums,
    and no published model of these families has them.
    """
    pattern = pattern.removeprefix("re:")
    try:
        return bool(re.search(pattern, f"model.layers.0.{part}")) and "layers.0" not in pattern
    except re.error:
        return pattern in part


def _any_listed(parts: Iterable[str], listed: Iterable[str]) -> bool:
    return any(entry.endswith(name) for entry in listed for name in parts)


# --- files ------------------------------------------------------------------------------------


def _read_json(file: Path) -> dict[str, t.Any]:
    if not file.exists():
        raise ModelConfigError(
            f"{file} does not exist; give the folder that holds a model's config.json."
        )
    try:
        return read_object(file)
    except DamagedFileError as error:
        raise ModelConfigError(f"{file.parent / str(error)}; get it again.") from error


def _separate_settings(folder: Path) -> dict[str, t.Any] | None:
    """Read how the model is quantised where older tools wrote it, beside config.json."""
    for name, method in SEPARATE_FILES.items():
        if (folder / name).exists():
            return {"quant_method": method, **_read_json(folder / name)}
    return None


def _tensor_bytes(file: Path) -> int:
    """Sum the tensors of one file, in bytes."""
    try:
        return tensor_bytes(safetensors_header(file)[0])
    except DamagedFileError as error:
        raise ModelConfigError(f"{file.parent / str(error)}; get it again.") from error


def guessed(config: Mapping[str, t.Any], weights: int) -> Architecture:
    """Take an unknown family for a plain Llama-like decoder whose weights are the files' size."""
    text = config.get("text_config", config)
    llama = {
        "intermediate_size": 4 * int(text.get("hidden_size") or 1),
        **{name: value for name, value in text.items() if value is not None},
        "architectures": ["LlamaForCausalLM"],
        "sliding_window": None,
        "quantization_config": None,
    }
    family = str(config["architectures"][0])
    return replace(parse(llama), known_weights=weights, family=family)
