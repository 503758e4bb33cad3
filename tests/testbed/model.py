# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the tiny model: a real Llama in every respect but sense.

Folders with the same model: ``tiny-llama`` (fp16) and ``tiny-llama-gptq`` (GPTQ INT4), of which
the first holds the dequantised weights of the second, so that both say the same. The weights are
random from a fixed seed, the tokenizer is trained on the LICENSE file. Both have the special tokens
and the kind of template of Llama 3, which was not made to call tools; ``tiny-llama-3.1-gptq`` has
those of Llama 3.1, which was. Which tokens there are is copied from the originals, name by name and
in their order: with one more or one less, a test could pass that the real model fails.

Random weights alone would never stop and would utter broken characters. So two channels of the
hidden state are set apart, and the output layer reads them as biases. One is a constant: away from
special tokens and from pieces of characters. The other leads to the end of a turn, except after a
line break, which is what a turn begins with: an answer is never empty.
"""

from __future__ import annotations

import json
import shutil
import typing as t

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from testbed import gptq
from testbed.inputs import fingerprint
from testbed.machine import only_one
from testbed.progress import say
from testbed.settings import CACHE, HERE

if t.TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[t.Any]]

TEXT = HERE.parents[1] / "LICENSE"
TEMPLATE = HERE / "chat_template.jinja"
TEMPLATE_WITH_TOOLS = HERE / "chat_template_tools.jinja"
SEED = 3060
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, INNER = 2, 256, 4, 2, 64, 512
VOCABULARY = 2048
CONTEXT = 8192

# Spread of the output values and the lift of the end of a turn, before the last norm divides both:
# an answer ends after some dozens of tokens.
SPREAD = 2.0
END_LIFT = 3.0
NEVER = -30.0

BEGIN, END, TURN_END = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
TOOL_TAG = "<|python_tag|>"


def _reserved(first: int, last: int) -> tuple[str, ...]:
    return tuple(f"<|reserved_special_token_{number}|>" for number in range(first, last + 1))


# The 256 tokens that come after the words, at 128000 to 128255 in the originals.
# Llama 3: special_tokens in llama/tokenizer.py of github.com/meta-llama/llama3 at 71367a6.
LLAMA_3 = (
    *(BEGIN, END),
    *_reserved(0, 3),
    *HEADERS,
    *(*_reserved(4, 4), TURN_END),
    *_reserved(5, 250),
)
# Llama 3.1: as its published tokenizer has them, seen as the added_tokens_decoder of a model made
# from it; Meta's own code (models/llama3/api/tokenizer.py of github.com/meta-llama/llama-models at
# 364ed4e) calls 128005 <|step_id|>, and counts the reserved ones from there.
LLAMA_3_1 = (
    *(BEGIN, END),
    *_reserved(0, 1),
    "<|finetune_right_pad_id|>",
    *_reserved(2, 2),
    *HEADERS,
    *("<|eom_id|>", TURN_END, TOOL_TAG),
    *_reserved(3, 247),
)
SPECIAL = frozenset((*LLAMA_3, *LLAMA_3_1))


def train_tokenizer(text: str, special: tuple[str, ...] = LLAMA_3) -> Tokenizer:
    """Train a byte-level BPE tokenizer, with the special tokens after the words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def output_bias(tokenizer: Tokenizer) -> NDArray[np.float32]:
    """Say for every token how much the model likes or avoids to utter it."""
    bias = np.zeros(VOCABULARY, dtype=np.float32)
    for token in range(VOCABULARY):
        text = tokenizer.decode([token], skip_special_tokens=False)
        if text in SPECIAL or not text.replace("\n", " ").isprintable() or "\ufffd" in text:
            bias[token] = NEVER
    bias[tokenizer.token_to_id(TURN_END)] = 0.0
    return bias


def random_weights(tokenizer: Tokenizer) -> tuple[Tensors, Tensors]:
    """Give what stays fp16 (embeddings, norms, output), and the layers that get quantised."""
    random = np.random.default_rng(SEED)

    def normal(*shape: int, spread: float) -> NDArray[np.float32]:
        values: NDArray[np.float32] = random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(spread)
        return values

    # Channel 0 is the constant, channel 1 leads to the end. Both are much larger than the others,
    # so that after the norm they hardly depend on the text.
    large = np.sqrt(HIDDEN)
    embedding = normal(VOCABULARY, HIDDEN, spread=1.0)
    embedding[:, 0] = embedding[:, 1] = large
    embedding[tokenizer.encode("\n").ids, 1] = -large
    output = normal(VOCABULARY, HIDDEN, spread=SPREAD / large)
    output[:, 0] = output_bias(tokenizer) / large
    output[:, 1] = 0.0
    output[tokenizer.token_to_id(TURN_END), 1] = END_LIFT / large
    plain: Tensors = {
        "model.embed_tokens.weight": embedding.astype(np.float16),
        "model.norm.weight": np.ones(HIDDEN, dtype=np.float16),
        "lm_head.weight": output.astype(np.float16),
    }
    linear: Tensors = {}
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD_SIZE),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    # Keep them out of the layers: kernels with 8-bit activations would lose the rest beside them.
    norm = np.ones(HIDDEN, dtype=np.float16)
    norm[:2] = 0.05
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        plain[f"{prefix}.input_layernorm.weight"] = norm
        plain[f"{prefix}.post_attention_layernorm.weight"] = norm.copy()
        for name, shape in shapes.items():
            weight = normal(*shape, spread=1.0 / np.sqrt(shape[1]))
            if name in {"self_attn.o_proj", "mlp.down_proj"}:
                weight[:2] = 1e-4  # leaves both alone; not nought, which has no scale
            linear[f"{prefix}.{name}"] = weight
    return plain, linear


def configuration(tokenizer: Tokenizer) -> dict[str, t.Any]:
    """Give config.json of the fp16 model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "torch_dtype": "float16",
        "bos_token_id": tokenizer.token_to_id(BEGIN),
        "eos_token_id": [tokenizer.token_to_id(END), tokenizer.token_to_id(TURN_END)],
    }


QUANTISATION = {
    "quant_method": "gptq",
    "bits": gptq.BITS,
    "group_size": gptq.GROUP,
    "sym": True,
    "desc_act": False,
    "checkpoint_format": "gptq",
}


def write(
    folder: Path,
    tokenizer: Tokenizer,
    config: dict[str, t.Any],
    tensors: Tensors,
    template: Path = TEMPLATE,
) -> None:
    """Write one model folder as the Hugging Face hub lays it out."""
    folder.mkdir(parents=True)
    files = {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": config["bos_token_id"],
            "eos_token_id": config["eos_token_id"],
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": TURN_END,
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            "chat_template": template.read_text(encoding="utf-8"),
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    # The format takes the bytes as they lie in memory: a transposed view would come out scrambled.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # written for its owner alone


def made_from() -> str:
    """Hash what the models are made from."""
    code = [HERE / name for name in ("model.py", "gptq.py")]
    return fingerprint(TEXT, TEMPLATE, TEMPLATE_WITH_TOOLS, *code)


def make() -> Path:
    """Make the models unless they are there; give the folder they are in."""
    place = CACHE / "models" / made_from()
    with only_one("model") as scratch:
        if place.is_dir():
            return place
        say("Making the tiny model, as fp16 and as GPTQ INT4")
        half_made = scratch / "models"
        text = TEXT.read_text(encoding="utf-8")
        tokenizer = train_tokenizer(text)
        plain, linear = random_weights(tokenizer)
        packed, halved = dict(plain), dict(plain)
        for name, weight in linear.items():
            tensors = gptq.quantise(weight)
            packed |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
            halved[f"{name}.weight"] = gptq.dequantise(tensors)
        config = configuration(tokenizer)
        write(half_made / "tiny-llama", tokenizer, config, halved)
        config |= {"quantization_config": QUANTISATION}
        write(half_made / "tiny-llama-gptq", tokenizer, config, packed)
        # What the model's turns are made of has the same numbers in both lists, so the same weights
        # serve both.
        newer = train_tokenizer(text, LLAMA_3_1)
        folder = half_made / "tiny-llama-3.1-gptq"
        write(folder, newer, config, packed, TEMPLATE_WITH_TOOLS)
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir(parents=True)
        half_made.rename(place)
    return place
