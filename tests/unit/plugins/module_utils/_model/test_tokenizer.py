# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tokenizer is read from whichever files it comes in, and damage is a typed error."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model.files import DamagedFileError
from ansible_collections.sparerig.llm.plugins.module_utils._model.tokenizer import Tokenizer, read

if t.TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}


def write(directory: Path, files: dict[str, t.Any]) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_text(text)
    return directory


def test_nothing_is_there(tmp_path: Path) -> None:
    assert read(tmp_path) == Tokenizer()
    assert Tokenizer().has("a") is None
    assert Tokenizer().template == Tokenizer().template_with_tools == ""


def test_as_transformers_4_writes_it(tmp_path: Path) -> None:
    found = read(
        write(
            tmp_path,
            {
                "tokenizer_config.json": {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "added_tokens_decoder": {
                        "7": {"content": "<|eot_id|>", "special": True},
                        "8": {"content": "<tool_call>", "special": False},
                    },
                    "additional_special_tokens": ["<|eot_id|>", "<|more|>"],
                    "eos_token": {"content": "<|eot_id|>"},
                    "bos_token": None,
                    "chat_template": "hello",
                },
                "special_tokens_map.json": {"bos_token": "<|begin|>", "eos_token": "<old>"},
            },
        )
    )
    assert found.class_name == "PreTrainedTokenizerFast"
    assert found.added == {"<|eot_id|>": 7, "<tool_call>": 8}
    assert found.special == {"<|eot_id|>", "<|more|>"}
    # tokenizer_config.json goes before the map
    assert found.named == {"bos_token": "<|begin|>", "eos_token": "<|eot_id|>"}
    assert (found.template, found.template_file) == ("hello", "tokenizer_config.json")
    # without the vocabulary, what is not seen is not known
    assert found.vocabulary is None
    assert (found.has("<tool_call>"), found.has("<|begin|>"), found.has("x")) == (True, True, None)
    assert found.lacking() == ([], [])


def test_as_transformers_5_writes_it(tmp_path: Path) -> None:
    found = read(
        write(
            tmp_path,
            {
                "tokenizer.json": {
                    "added_tokens": [{"id": 2, "content": "<|im_end|>", "special": True}],
                    "model": VOCABULARY,
                },
                "tokenizer_config.json": {
                    "eos_token": "<|im_end|>",
                    "extra_special_tokens": {"image": "<|image|>"},
                    "response_template": {"fields": {}},
                },
                "chat_template.jinja": "{{ bos }}<|im_start|><|im_end|><|image|><|other|>",
                "chat_template.json": {"chat_template": "not this one"},
            },
        )
    )
    assert found.vocabulary == frozenset(("a", "b", "<|im_end|>", "<|image|>"))
    assert (found.has("a"), found.has("<|im_start|>")) == (True, False)
    assert found.has_response_template
    assert found.template_file == "chat_template.jinja"
    assert found.lacking() == (["<|im_start|>"], ["<|other|>"])
    assert not found.mistral_only


@pytest.mark.parametrize(
    "template",
    [
        [{"name": "tool_use", "template": "with"}, {"name": "default", "template": "plain"}],
        {"tool_use": "with", "default": "plain"},
    ],
    ids=["list", "object"],
)
def test_templates_by_name(tmp_path: Path, template: object) -> None:
    found = read(write(tmp_path, {"tokenizer_config.json": {"chat_template": template}}))
    assert (found.template, found.template_with_tools) == ("plain", "with")


def test_a_vocabulary_of_pairs(tmp_path: Path) -> None:
    model = {"type": "Unigram", "vocab": [["<s>", 0.0], ["[TOOL_CALLS]", -1.0]]}
    found = read(write(tmp_path, {"tokenizer.json": {"model": model}}))
    assert found.has("[TOOL_CALLS]")
    assert found.has("[INST]") is False


def test_tekken(tmp_path: Path) -> None:
    special = [{"rank": 5, "token_str": "[TOOL_CALLS]", "is_control": True}]
    found = read(write(tmp_path, {"tekken.json": {"special_tokens": special, "vocab": []}}))
    assert found.mistral_only
    assert (found.has("[TOOL_CALLS]"), found.has("<|python_tag|>")) == (True, False)
    # the first ones name none
    old = read(write(tmp_path, {"tekken.json": {"vocab": []}}))
    assert old.has("[TOOL_CALLS]") is None


def test_a_template_that_is_empty_is_none(tmp_path: Path) -> None:
    files = {"chat_template.jinja": " \n", "tokenizer_config.json": {"chat_template": ""}}
    assert read(write(tmp_path, files)).templates == {}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", "", "it is empty"),
        ("tokenizer.json", "{", "not valid JSON"),
        ("tokenizer.json", "[" * 100_000, "not valid JSON"),
        ("tokenizer.json", "[]", "not an object"),
        ("tokenizer.json", {"model": []}, "it has no vocabulary"),
        ("tokenizer.json", {"model": VOCABULARY, "added_tokens": {}}, "is not a list"),
        ("tokenizer.json", {"model": VOCABULARY, "added_tokens": ["x"]}, "is not an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "is not an object"),
        ("tokenizer_config.json", {"additional_special_tokens": "x"}, "neither a list nor"),
        ("tokenizer_config.json", {"chat_template": 3}, "neither a text nor"),
        ("special_tokens_map.json", "version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("chat_template.jinja", "version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ("tekken.json", {"special_tokens": {}}, "is not a list"),
    ],
)
def test_damage_is_told_by_file(tmp_path: Path, name: str, content: t.Any, says: str) -> None:
    with pytest.raises(DamagedFileError, match=says) as error:
        read(write(tmp_path, {name: content}))
    assert error.value.path.name == name
