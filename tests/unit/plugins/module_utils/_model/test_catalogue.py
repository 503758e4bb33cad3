# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue is complete, and cards are found by their names."""

from __future__ import annotations

import dataclasses
import re
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    GIB,
    weight_bytes,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.catalogue import (
    MODELS,
    CatalogueError,
    Model,
    find,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import parsers

EMPTY_ALLOWED = {"license_notice", "tool_parser", "reasoning_parser"}


@pytest.mark.parametrize("model", MODELS, ids=[model.id for model in MODELS])
def test_an_entry_is_complete(model: Model) -> None:
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        assert value is not None
        assert value or field.name in EMPTY_ALLOWED or isinstance(value, bool), field.name
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.repository)
    assert re.fullmatch(r"[0-9a-f]{7,40}", model.commit)
    assert model.revision in {model.commit, "main"}
    assert (len(model.commit) == 40) is (model.revision == model.commit)
    assert model.least_capability >= (7, 5)
    assert model.context >= 8192
    assert not model.architecture.quantization.act_order
    assert 1 < weight_bytes(model.architecture) / GIB < 24


@pytest.mark.parametrize("model", MODELS, ids=[model.id for model in MODELS])
@pytest.mark.parametrize("table", parsers.TABLES.values(), ids=list(parsers.TABLES))
def test_an_entrys_parsers_go_with_its_tokenizer(model: Model, table: parsers.Table) -> None:
    for kind, name in (
        (parsers.TOOL, model.tool_parser),
        (parsers.REASONING, model.reasoning_parser),
    ):
        if name:
            assert name in table.of(kind)
            assert not parsers.why_not(kind, name, table, model.tokenizer)
    assert set(model.stop_tokens) <= set(model.tokens)


def test_llama_3_has_no_tool_parser_and_3_1_has() -> None:
    old, new = find("llama-3-8b-gptq"), find("llama-3.1-8b-gptq")
    assert (old.tool_parser, new.tool_parser) == ("", "llama3_json")
    table = parsers.NEWEST
    assert parsers.why_not(parsers.TOOL, "llama3_json", table, old.tokenizer)
    assert not parsers.why_not(parsers.TOOL, "llama3_json", table, new.tokenizer)


def test_a_missing_field_is_an_error() -> None:
    fields: dict[str, t.Any] = {
        field.name: getattr(MODELS[0], field.name) for field in dataclasses.fields(Model)
    }
    for name in fields:
        with pytest.raises(TypeError, match=name):
            Model(**{key: value for key, value in fields.items() if key != name})


def test_ids_and_ranks_are_unique() -> None:
    assert len({model.id for model in MODELS}) == len(MODELS)
    assert len({model.rank for model in MODELS}) == len(MODELS)


def test_the_license_of_llama_3_is_shown() -> None:
    assert find("llama-3-8b-gptq").license_notice == "Built with Meta Llama 3"


def test_the_default_is_there_open_and_served_by_current_vllm() -> None:
    default = find(catalogue.DEFAULT)
    assert not default.gated
    assert default.architecture.quantization.group_size == 128
    assert find(default.repository) is default


def test_an_unknown_model_is_named_with_the_known() -> None:
    with pytest.raises(CatalogueError, match="'TheBloke/Llama-3-8B-Instruct-GPTQ' is not in") as no:
        find("TheBloke/Llama-3-8B-Instruct-GPTQ")
    assert "llama-3-8b-gptq" in str(no.value)
