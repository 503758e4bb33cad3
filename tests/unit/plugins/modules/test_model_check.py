# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""model_check: what it says of good and of bad model directories."""

from __future__ import annotations

import json
import os
import typing as t
import zipfile

import pytest
from ansible_collections.sparerig.llm.plugins.modules import model_check
from model_files import INDEX, SHARDS, Files, as_json, changed, model_files, write

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4096\n"


def without(*names: str) -> Files:
    return {name: content for name, content in model_files().items() if name not in names}


def with_file(name: str, content: bytes) -> Files:
    return {**model_files(), name: content}


def status(answer: dict[str, t.Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in answer["checks"]}


def test_complete_model(run_module: RunModule, tmp_path: Path) -> None:
    write(tmp_path, model_files()).chmod(0o755)

    answer = run_module(model_check, path=str(tmp_path), user=2000)

    assert "failed" not in answer, answer.get("msg")
    assert not answer["changed"]
    assert list(status(answer)) == [
        "directory",
        "config",
        "weights",
        "weights_whole",
        "readable",
        "quantization",
        "tokenizer",
        "chat_template",
        "template_tokens",
        "parsers",
        "stop_tokens",
    ]
    assert set(status(answer).values()) == {"pass"}
    facts = {
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "context_length": 8192,
        "dtype": "float16",
        "weights_format": "safetensors",
        "weights_bytes": sum(len(model_files()[name]) for name in SHARDS),
        "size_bytes": sum(map(len, model_files().values())),
        "has_chat_template": True,
        "tool_call_parser": "",
        "reasoning_parser": "",
        "stop_token_ids": [128001, 128009],
        "missing_stop_token_ids": [],
    }
    assert {name: answer[name] for name in facts} == facts
    assert answer["quantization"] == {
        "method": "gptq",
        "format": None,
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
    }


# What makes the directory, the check that must fail, and words that its failure must have.
FAILURES: dict[str, tuple[Files, str, tuple[str, ...]]] = {
    "no config": (without("config.json"), "config", ("no config.json", "ls -l")),
    "config cut short": (
        with_file("config.json", b'{"architectures": ['),
        "config",
        ("config.json: it is not valid JSON", "Fetch"),
    ),
    "config is a list": (with_file("config.json", b"[]"), "config", ("not an object",)),
    "config is not text": (
        with_file("config.json", b"\xff\xfe\x00"),
        "config",
        ("not valid JSON",),
    ),
    "config of something else": (
        with_file("config.json", b'{"a": 1}'),
        "config",
        ("neither architectures nor model_type",),
    ),
    "an adapter": (
        {"adapter_config.json": b"{}", "adapter_model.safetensors": b""},
        "config",
        ("LoRA adapter",),
    ),
    "gguf": ({"model-q4.gguf": b"GGUF"}, "config", ("llama.cpp", "safetensors")),
    "no weights": (without(INDEX, *SHARDS), "weights", ("there are none", "*.safetensors")),
    "weights of others": (
        {**without(INDEX, *SHARDS), "m.gguf": b""},
        "weights",
        ("made for other programs", "m.gguf"),
    ),
    "only an adapter's weights": (
        {**without(INDEX, *SHARDS), "adapter_model.safetensors": b""},
        "weights",
        ("there are none",),
    ),
    "a shard is missing": (
        without(SHARDS[1]),
        "weights",
        ("1 of 2 files", SHARDS[1], "Copy the missing files"),
    ),
    "index without a map": (with_file(INDEX, b"{}"), "weights", (INDEX, "no weight_map")),
    "index cut short": (with_file(INDEX, b'{"weight'), "weights", (INDEX, "not valid JSON")),
    "a shard is cut short": (
        with_file(SHARDS[1], model_files()[SHARDS[1]][:-1]),
        "weights_whole",
        (SHARDS[1], "by its header", "Fetch again"),
    ),
    "a shard is too long": (
        with_file(SHARDS[0], model_files()[SHARDS[0]] + b"x"),
        "weights_whole",
        (SHARDS[0], "by its header"),
    ),
    "a shard ends in its header": (
        with_file(SHARDS[0], model_files()[SHARDS[0]][:20]),
        "weights_whole",
        (SHARDS[0], "ends within its header"),
    ),
    "a shard is empty": (with_file(SHARDS[0], b""), "weights_whole", ("0 bytes, too few",)),
    "a shard is a pointer": (
        with_file(SHARDS[0], LFS_POINTER),
        "weights_whole",
        (SHARDS[0], "Git LFS pointer", "git-lfs"),
    ),
    "a shard is zeros": (
        with_file(SHARDS[0], bytes(4096)),
        "weights_whole",
        (SHARDS[0], "header is not valid"),
    ),
    "a shard is a web page": (
        with_file(SHARDS[0], b"<!DOCTYPE html><html>"),
        "weights_whole",
        ("does not start with a safetensors header",),
    ),
    "pytorch file cut short": (
        {**without(INDEX, *SHARDS), "pytorch_model.bin": b"PK\x03\x04 and nothing more"},
        "weights_whole",
        ("pytorch_model.bin", "not a complete PyTorch file"),
    ),
    "desc_act with groups": (
        changed(model_files(), quantization_config={**GPTQ, "desc_act": True}),
        "quantization",
        ("desc_act True", "vLLM 0.30", "desc_act false"),
    ),
    "desc_act in quantize_config.json": (
        {
            **changed(model_files(), quantization_config=None),
            "quantize_config.json": as_json({"bits": 4, "group_size": 32, "desc_act": True}),
        },
        "quantization",
        ("(quantize_config.json)", "vLLM 0.30"),
    ),
    "asymmetric": (
        changed(model_files(), quantization_config={**GPTQ, "sym": False}),
        "quantization",
        ("symmetric", "AWQ"),
    ),
    "three bits": (
        changed(model_files(), quantization_config={**GPTQ, "bits": 3}),
        "quantization",
        ("4 or 8 bits, and this has 3",),
    ),
    "ExLlama": (
        changed(model_files(), quantization_config={"quant_method": "exl2", "bits": 4.0}),
        "quantization",
        ("ExLlamaV2",),
    ),
    "quantize_config.json cut short": (
        {**changed(model_files(), quantization_config=None), "quantize_config.json": b"{"},
        "quantization",
        ("quantize_config.json: it is not valid JSON",),
    ),
    "no tokenizer": (without("tokenizer.json"), "tokenizer", ("there is none", "original model")),
    "tokenizer cut short": (
        with_file("tokenizer.json", model_files()["tokenizer.json"][:-10]),
        "tokenizer",
        ("tokenizer.json: it is not valid JSON", "Fetch"),
    ),
    "tokenizer is a pointer": (
        with_file("tokenizer.json", LFS_POINTER),
        "tokenizer",
        ("Git LFS pointer",),
    ),
    "tokenizer is empty": (with_file("tokenizer.json", b""), "tokenizer", ("it is empty",)),
    "half a tokenizer": (
        {**without("tokenizer.json"), "vocab.json": b"{}"},
        "tokenizer",
        ("there is none",),
    ),
    "a tokenizer without a vocabulary": (
        with_file("tokenizer.json", b'{"added_tokens": []}'),
        "tokenizer",
        ("tokenizer.json: it has no vocabulary",),
    ),
    "added tokens that are none": (
        with_file("tokenizer_config.json", b'{"added_tokens_decoder": [1], "chat_template": "x"}'),
        "tokenizer",
        ("added_tokens_decoder is not an object",),
    ),
    "a chat template that is a number": (
        with_file("tokenizer_config.json", b'{"chat_template": 1}'),
        "tokenizer",
        ("chat_template is neither",),
    ),
    "a chat template that is no text": (
        with_file("chat_template.jinja", bytes((255, 254))),
        "tokenizer",
        ("chat_template.jinja: it cannot be read as text",),
    ),
    "a template of another family": (
        with_file("chat_template.jinja", b"<start_of_turn>{{ m }}<end_of_turn>"),
        "template_tokens",
        ("(chat-template-token-missing)", "<start_of_turn>", "chat-template in vllm_arguments"),
    ),
    "no chat template": (
        with_file("tokenizer_config.json", b"{}"),
        "chat_template",
        ("base model", "chat_template.jinja"),
    ),
    "empty chat template": (
        {**model_files(), "tokenizer_config.json": b"{}", "chat_template.jinja": b" \n"},
        "chat_template",
        ("base model",),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_names_thing_cause_and_mend(
    run_module: RunModule, tmp_path: Path, case: str
) -> None:
    files, name, words = FAILURES[case]

    answer = run_module(model_check, path=str(write(tmp_path, files)))

    assert answer["failed"]
    failed = [check for check in answer["checks"] if check["status"] == "fail"]
    assert name in [check["name"] for check in failed]
    assert all(check["cause"] and check["remedy"] for check in failed)
    assert str(tmp_path) in answer["msg"]
    for word in words:
        assert word in answer["msg"]


# The directory's checks themselves: made by hand in each test.
def test_nothing_there(run_module: RunModule, tmp_path: Path) -> None:
    answer = run_module(model_check, path=str(tmp_path / "a" / "b"))
    assert status(answer) == {"directory": "fail"}
    assert f"{tmp_path} is the nearest that exists" in answer["msg"]


def test_a_file_of_the_model(run_module: RunModule, tmp_path: Path) -> None:
    write(tmp_path, model_files())
    answer = run_module(model_check, path=str(tmp_path / "config.json"))
    assert f"Name the directory around it: {tmp_path}." in answer["msg"]


def test_one_level_too_high(run_module: RunModule, tmp_path: Path) -> None:
    inner = write(tmp_path / "llama", model_files())
    answer = run_module(model_check, path=str(tmp_path))
    assert f"Name {inner} instead." in answer["msg"]


def test_folder_of_the_cache(run_module: RunModule, tmp_path: Path) -> None:
    snapshot = write(tmp_path / "snapshots" / "abc", model_files())
    answer = run_module(model_check, path=str(tmp_path))
    assert f"cp -rL {snapshot}" in answer["msg"]


def test_snapshot_in_the_cache_is_links_out(run_module: RunModule, tmp_path: Path) -> None:
    blobs = write(tmp_path / "blobs", model_files())
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(os.path.relpath(blob, snapshot))
    answer = run_module(model_check, path=str(snapshot))
    assert status(answer)["readable"] == "fail"
    assert f"cp -rL {snapshot}" in answer["msg"]


def test_link_to_nowhere_is_a_missing_file(run_module: RunModule, tmp_path: Path) -> None:
    write(tmp_path, without(SHARDS[0]))
    (tmp_path / SHARDS[0]).symlink_to("gone")
    answer = run_module(model_check, path=str(tmp_path))
    assert status(answer)["weights"] == "fail"
    assert SHARDS[0] in answer["msg"]


@pytest.mark.parametrize(
    ("mode", "reader", "expected"),
    [
        (0o600, (0, 0), "pass"),
        (0o600, (12345, 12345), "fail"),
        (0o604, (12345, 12345), "pass"),
        (0o640, (12345, os.getgid()), "pass"),
        (0o604, (12345, os.getgid()), "fail"),
        (0o404, (os.getuid(), 12345), "pass"),
    ],
)
def test_readable_for_the_container(
    run_module: RunModule, tmp_path: Path, mode: int, reader: tuple[int, int], expected: str
) -> None:
    write(tmp_path, model_files()).chmod(0o755)
    (tmp_path / SHARDS[0]).chmod(mode)
    answer = run_module(model_check, path=str(tmp_path), user=reader[0], group=reader[1])
    assert status(answer)["readable"] == expected
    if expected == "fail":
        assert f"chmod -R a+rX {tmp_path}" in answer["msg"]


def test_other_tokens_of_a_template_do_not_fail(run_module: RunModule, tmp_path: Path) -> None:
    files = with_file("chat_template.jinja", b"{# <|im_end|> #}<|eot_id|>{{ m }}<|a_tool|>")
    answer = run_module(model_check, path=str(write(tmp_path, files)))
    assert "failed" not in answer, answer.get("msg")
    assert status(answer)["template_tokens"] == "unknown"
    seen = next(c["seen"] for c in answer["checks"] if c["name"] == "template_tokens")
    assert "<|a_tool|>" in seen
    assert "<|im_end|>" not in seen


def test_mistrals_own_tokenizer_writes_the_chats(run_module: RunModule, tmp_path: Path) -> None:
    tekken = {"special_tokens": [{"rank": 9, "token_str": "[TOOL_CALLS]", "is_control": True}]}
    files = without("tokenizer.json", "tokenizer_config.json")
    write(tmp_path, {**files, "tekken.json": as_json(tekken)})
    answer = run_module(model_check, path=str(tmp_path), tool_call_parser="mistral")
    assert "failed" not in answer, answer.get("msg")
    assert answer["has_chat_template"]
    assert answer["tool_call_parser"] == "mistral"


@pytest.mark.parametrize(
    ("options", "failure", "word"),
    [
        ({"tool_call_parser": "lama3_json"}, "parser-unknown", "Perhaps llama3_json"),
        ({"tool_call_parser": "mistral"}, "parser-not-for-tokenizer", "[TOOL_CALLS]"),
        ({"reasoning_parser": "deepseek_r1"}, "parser-not-for-tokenizer", "<think> and </think>"),
    ],
)
def test_parsers_that_cannot_be_used(
    run_module: RunModule, tmp_path: Path, options: dict[str, str], failure: str, word: str
) -> None:
    answer = run_module(model_check, path=str(write(tmp_path, model_files())), **options)
    assert answer["failed"]
    (check,) = (check for check in answer["checks"] if check["status"] == "fail")
    assert check["failure"] == failure
    assert word in answer["msg"]
    assert f"({failure})" in answer["msg"]


def test_closed_directory(run_module: RunModule, tmp_path: Path) -> None:
    model = write(tmp_path / "model", model_files())
    model.chmod(0o700)
    answer = run_module(model_check, path=str(model), user=12345)
    assert status(answer)["readable"] == "fail"
    assert f"user 12345, group 12345 may not read {model}." in answer["msg"]


# Other good models: what differs, and the facts that follow.
VARIANTS: dict[str, tuple[Files, dict[str, t.Any]]] = {
    "plain": (
        changed(model_files(), quantization_config=None),
        {"quantization": {"method": "none"}},
    ),
    "desc_act without groups": (
        changed(model_files(), quantization_config={**GPTQ, "desc_act": True, "group_size": -1}),
        {},
    ),
    "AWQ of old": (
        {
            **changed(model_files(), quantization_config=None),
            "quant_config.json": as_json({"w_bit": 4, "q_group_size": 128}),
        },
        {
            "quantization": {
                "method": "awq",
                "format": None,
                "bits": 4,
                "group_size": 128,
                "desc_act": None,
                "sym": None,
            }
        },
    ),
    "compressed-tensors": (
        changed(
            model_files(),
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
        ),
        {
            "quantization": {
                "method": "compressed-tensors",
                "format": "pack-quantized",
                "bits": 4,
                "group_size": 128,
                "desc_act": None,
                "sym": None,
            }
        },
    ),
    "one file of weights": (
        {**without(INDEX, *SHARDS), "model.safetensors": model_files()[SHARDS[0]]},
        {"weights_bytes": len(model_files()[SHARDS[0]])},
    ),
    "a model that sees": (
        changed(
            model_files(),
            max_position_embeddings=None,
            text_config={"max_position_embeddings": 131072},
        ),
        {"context_length": 131072},
    ),
    "no context given": (
        changed(model_files(), max_position_embeddings=None),
        {"context_length": None},
    ),
    "templates by name": (
        with_file(
            "tokenizer_config.json",
            as_json(
                {
                    "chat_template": [
                        {"name": "tool_use", "template": "x"},
                        {"name": "default", "template": "y<|eot_id|>"},
                    ]
                }
            ),
        ),
        {"has_chat_template": True},
    ),
    "template in its own file": (
        {
            **model_files(),
            "tokenizer_config.json": b"{}",
            "chat_template.jinja": b"{{ messages }}",
        },
        {"has_chat_template": True},
    ),
    "stop token of the tokenizer": (
        {
            **model_files(),
            "generation_config.json": b"{}",
            "tokenizer_config.json": as_json(
                {
                    "chat_template": "<|eot_id|>",
                    "eos_token": {"content": "<|eot_id|>"},
                    "added_tokens_decoder": {"128009": {"content": "<|eot_id|>"}},
                }
            ),
        },
        {"stop_token_ids": [128001, 128009], "missing_stop_token_ids": []},
    ),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_other_good_models(run_module: RunModule, tmp_path: Path, case: str) -> None:
    files, facts = VARIANTS[case]
    answer = run_module(model_check, path=str(write(tmp_path, files)))
    assert "failed" not in answer, answer.get("msg")
    assert set(status(answer).values()) == {"pass"}
    assert {name: answer[name] for name in facts} == facts


def test_complete_pytorch_file(run_module: RunModule, tmp_path: Path) -> None:
    write(tmp_path, without(INDEX, *SHARDS))
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    answer = run_module(model_check, path=str(tmp_path))
    assert status(answer)["weights_whole"] == "pass"
    assert answer["weights_format"] == "bin"


# Doubts: they are said, with what to do, and stop nothing.
def test_turn_end_that_does_not_stop(run_module: RunModule, tmp_path: Path) -> None:
    files = with_file("generation_config.json", as_json({"eos_token_id": 128001}))
    answer = run_module(model_check, path=str(write(tmp_path, files)))
    assert "failed" not in answer
    assert status(answer)["stop_tokens"] == "unknown"
    assert answer["missing_stop_token_ids"] == [128009]
    assert json.dumps({"eos_token_id": [128001, 128009]}) in answer["checks"][-1]["remedy"]


def test_no_stop_token_at_all(run_module: RunModule, tmp_path: Path) -> None:
    files = changed(model_files(), eos_token_id=None) | {
        "generation_config.json": b"{}",
        "tokenizer_config.json": as_json({"chat_template": "{{ messages }}"}),
    }
    answer = run_module(model_check, path=str(write(tmp_path, files)))
    assert status(answer)["stop_tokens"] == "unknown"
    assert answer["stop_token_ids"] == []


def test_unknown_format(run_module: RunModule, tmp_path: Path) -> None:
    files = changed(model_files(), quantization_config={"quant_method": "brand-new"})
    answer = run_module(model_check, path=str(write(tmp_path, files)))
    assert "failed" not in answer
    assert status(answer)["quantization"] == "unknown"


def test_base_model_on_request(run_module: RunModule, tmp_path: Path) -> None:
    files = with_file("tokenizer_config.json", b"{}")
    answer = run_module(model_check, path=str(write(tmp_path, files)), chat_template="optional")
    assert "failed" not in answer
    assert status(answer)["chat_template"] == "skipped"
    assert not answer["has_chat_template"]


# What the unit's restart hangs on.
def test_fingerprint_follows_the_content(run_module: RunModule, tmp_path: Path) -> None:
    write(tmp_path, model_files())

    def fingerprint() -> str:
        return str(run_module(model_check, path=str(tmp_path))["fingerprint"])

    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "generation_config.json").write_bytes(as_json({"eos_token_id": [128009, 128001]}))
    second = fingerprint()
    assert second != first
    os.utime(tmp_path / SHARDS[0], (1, 1))
    assert fingerprint() not in {first, second}
