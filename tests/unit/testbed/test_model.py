# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny model: its tokenizer, its biases, its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model.inspection import inspect
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.numpy import load_file
from testbed import gptq, model
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    patch.setattr(model, "CACHE", tmp_path_factory.mktemp("cache"))
    yield model.make()
    patch.undo()


def test_twins_hold_the_same_numbers(folder: Path) -> None:
    plain = load_file(folder / "tiny-llama" / "model.safetensors")
    packed = load_file(folder / "tiny-llama-gptq" / "model.safetensors")
    layers = [name.removesuffix(".qweight") for name in packed if name.endswith(".qweight")]
    assert len(layers) == 7 * model.LAYERS
    for layer in layers:
        parts = {
            part: packed[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")
        }
        assert np.array_equal(gptq.dequantise(parts), plain[f"{layer}.weight"])


def test_made_once(folder: Path) -> None:
    before = (folder / "tiny-llama" / "config.json").stat().st_mtime_ns
    assert model.make() == folder
    assert (folder / "tiny-llama" / "config.json").stat().st_mtime_ns == before


MODELS = {
    "tiny-llama": model.LLAMA_3,
    "tiny-llama-gptq": model.LLAMA_3,
    "tiny-llama-3.1-gptq": model.LLAMA_3_1,
}


@pytest.mark.parametrize("name", MODELS)
def test_vocabulary_is_full_and_ends_with_the_special_tokens(folder: Path, name: str) -> None:
    special = MODELS[name]
    tokenizer = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == model.VOCABULARY
    first = model.VOCABULARY - len(special)
    assert [tokenizer.id_to_token(first + token) for token in range(256)] == list(special)
    text = "Grüße, 世界! <|eot_id|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_special_tokens_are_those_of_the_originals() -> None:
    """Numbers that public copies of both tokenizers give, less the 128000 words before them."""
    seen = {
        model.LLAMA_3: {5: "reserved_special_token_3", 8: "reserved_special_token_4"},
        model.LLAMA_3_1: {
            4: "finetune_right_pad_id",
            5: "reserved_special_token_2",
            8: "eom_id",
            10: "python_tag",
            16: "reserved_special_token_8",
            252: "reserved_special_token_244",
        },
    }
    both = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id"}
    both |= {9: "eot_id", 2: "reserved_special_token_0", 3: "reserved_special_token_1"}
    last = {
        model.LLAMA_3: "reserved_special_token_250",
        model.LLAMA_3_1: "reserved_special_token_247",
    }
    for special, numbers in seen.items():
        assert len(special) == len(set(special)) == 256
        for number, name in {**both, **numbers, 255: last[special]}.items():
            assert special[number] == f"<|{name}|>"
    assert model.TOOL_TAG not in model.LLAMA_3


@pytest.mark.parametrize(
    ("name", "parser"), [("tiny-llama-gptq", ""), ("tiny-llama-3.1-gptq", "llama3_json")]
)
def test_its_parser_is_that_of_the_original(folder: Path, name: str, parser: str) -> None:
    found = inspect(folder / name)
    assert not found.reasons
    assert found.facts["tool_call_parser"] == parser


def test_bias_avoids_what_nobody_wants_to_read() -> None:
    tokenizer = model.train_tokenizer(model.TEXT.read_text(encoding="utf-8"))
    bias = model.output_bias(tokenizer)
    avoided = {tokenizer.id_to_token(int(token)) for token in np.flatnonzero(bias < 0)}
    assert set(model.LLAMA_3) - {model.TURN_END} <= avoided
    assert "the" not in avoided
    assert bias[tokenizer.token_to_id(model.TURN_END)] == 0


def test_configuration_says_what_the_numbers_are(folder: Path) -> None:
    plain = json.loads((folder / "tiny-llama" / "config.json").read_text())
    packed = json.loads((folder / "tiny-llama-gptq" / "config.json").read_text())
    assert packed.pop("quantization_config") == model.QUANTISATION
    assert packed == plain
    ends = json.loads((folder / "tiny-llama" / "generation_config.json").read_text())[
        "eos_token_id"
    ]
    first = model.VOCABULARY - len(model.LLAMA_3)
    assert ends == [first + model.LLAMA_3.index(token) for token in (model.END, model.TURN_END)]


BOTH = (model.TEMPLATE, model.TEMPLATE_WITH_TOOLS)


def render(path: Path, **context: object) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(path.read_text(encoding="utf-8"))
    return template.render(bos_token=model.BEGIN, add_generation_prompt=True, **context)


ASK = {"role": "user", "content": " Hello "}
ASKED = "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
YOURS = "<|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([ASK], ASKED, id="one question"),
        pytest.param(
            [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], ASKED, id="in parts"
        ),
        pytest.param(
            [{"role": "system", "content": "Be brief."}, ASK],
            "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>" + ASKED,
            id="system prompt",
        ),
    ],
)
@pytest.mark.parametrize("template", BOTH, ids=lambda path: path.stem)
def test_chat_template(template: Path, messages: list[dict[str, object]], expected: str) -> None:
    assert render(template, messages=messages) == model.BEGIN + expected + YOURS


def test_the_answer_of_a_tool() -> None:
    expected = ASKED + "<|start_header_id|>ipython<|end_header_id|>\n\n42<|eot_id|>"
    asked = [ASK, {"role": "tool", "content": "42"}]
    assert render(model.TEMPLATE_WITH_TOOLS, messages=asked) == model.BEGIN + expected + YOURS


def test_only_the_newer_chat_template_lists_tools() -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    assert '"name": "clock"' in render(model.TEMPLATE_WITH_TOOLS, messages=[ASK], tools=[tool])
    assert "clock" not in render(model.TEMPLATE, messages=[ASK], tools=[tool])
