# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny model: its tokenizer, its biases, its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
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


def test_vocabulary_is_full_and_begins_with_the_special_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tiny-llama" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == model.VOCABULARY
    assert [tokenizer.id_to_token(token) for token in range(len(model.SPECIAL))] == list(
        model.SPECIAL
    )
    text = "Grüße, 世界! <|eot_id|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_bias_avoids_what_nobody_wants_to_read() -> None:
    tokenizer = model.train_tokenizer(model.TEXT.read_text(encoding="utf-8"))
    bias = model.output_bias(tokenizer)
    avoided = {tokenizer.id_to_token(int(token)) for token in np.flatnonzero(bias < 0)}
    assert set(model.SPECIAL) - {model.TURN_END} <= avoided
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
    assert ends == [model.SPECIAL.index(model.END), model.SPECIAL.index(model.TURN_END)]


def render(**context: object) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(model.TEMPLATE.read_text(encoding="utf-8"))
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
        pytest.param(
            [ASK, {"role": "tool", "content": "42"}],
            ASKED + "<|start_header_id|>ipython<|end_header_id|>\n\n42<|eot_id|>",
            id="answer of a tool",
        ),
    ],
)
def test_chat_template(messages: list[dict[str, object]], expected: str) -> None:
    assert render(messages=messages) == model.BEGIN + expected + YOURS


def test_chat_template_lists_tools() -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    assert '"name": "clock"' in render(messages=[ASK], tools=[tool])
