# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the files of a small but complete model, as a hub or a disk would hold them."""

from __future__ import annotations

import json
import struct
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Files = dict[str, bytes]

TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|eot_id|>{% endfor %}"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def as_json(value: object) -> bytes:
    """Write a value as the hub's files do."""
    return json.dumps(value, indent=2).encode() + b"\n"


def safetensors(name: str, data: bytes) -> bytes:
    """Write one tensor of bytes in the safetensors format."""
    entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, name: entry}).encode()
    return struct.pack("<Q", len(header)) + header + data


def model_files(shard_bytes: int = 4096) -> Files:
    """Return a Llama-3-like chat model, GPTQ with 4 bits, in two shards."""
    return {
        "config.json": as_json(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "max_position_embeddings": 8192,
                "torch_dtype": "float16",
                "eos_token_id": 128001,
                "quantization_config": {
                    "quant_method": "gptq",
                    "bits": 4,
                    "group_size": 128,
                    "desc_act": False,
                    "sym": True,
                },
            }
        ),
        "generation_config.json": as_json({"eos_token_id": [128001, 128009]}),
        "tokenizer.json": as_json(
            {
                "version": "1.0",
                "added_tokens": [
                    {"id": 128001, "content": "<|end_of_text|>"},
                    {"id": 128009, "content": "<|eot_id|>"},
                ],
                "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
            }
        ),
        "tokenizer_config.json": as_json(
            {"eos_token": "<|end_of_text|>", "chat_template": TEMPLATE}
        ),
        INDEX: as_json(
            {"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1]}},
        ),
        SHARDS[0]: safetensors("a", bytes(range(256)) * (shard_bytes // 256)),
        SHARDS[1]: safetensors("b", bytes(reversed(range(256))) * (shard_bytes // 256)),
    }


def changed(files: Mapping[str, bytes], **values: object) -> Files:
    """Return the files with values of config.json replaced, or left out where None."""
    config = json.loads(files["config.json"]) | values
    kept = {key: value for key, value in config.items() if value is not None}
    return {**files, "config.json": as_json(kept)}


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory
