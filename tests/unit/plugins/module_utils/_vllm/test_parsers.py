# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of parsers is vLLM's own, and a model gets the parser that it can use, or none."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model.tokenizer import Tokenizer
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import parsers
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.parsers import (
    REASONING,
    TOOL,
    Condition,
    ParserError,
    choose,
    choose_both,
    table_for,
    wanted,
    why_not,
)

RECORDS = Path(__file__).parents[4] / "fixtures" / "vllm_parsers"
RECORDED = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob("*.json")
}


def conditions(record: dict[str, t.Any]) -> dict[str, Condition]:
    """Turn what was recorded of one kind into the table's form."""
    found = {}
    for name, parser in record.items():
        refusal = parser.get("refusal", "")
        tokens = parser["tokens"]
        found[name] = Condition(
            tokens=tuple(sorted(tokens[0])) if tokens else (),
            response_template="response_template" in refusal,
            package="cohere_melody" if "cohere_melody" in refusal else "",
        )
        # A refusal that no token helps must be one of the two that the table has words for.
        assert tokens or found[name] != Condition(), (name, refusal)
        assert len(tokens) < 2, f"{name} takes one of several sets: the table cannot say that"
    return found


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize("kind", [TOOL, REASONING])
def test_the_table_is_what_the_version_itself_checks(version: str, kind: str) -> None:
    table = parsers.TABLES[version.rpartition(".")[0]]
    mine = {
        name: Condition(
            tuple(sorted(condition.tokens)), condition.response_template, condition.package
        )
        for name, condition in table.of(kind).items()
    }
    assert mine == conditions(RECORDED[version][kind + "_parsers"])


def test_every_table_was_recorded() -> None:
    assert {version.rpartition(".")[0] for version in RECORDED} == parsers.TABLES.keys()
    for version, record in RECORDED.items():
        assert record["version"] == version


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/vllm/vllm-openai:v0.33.0", "0.33"),
        ("docker.io/vllm/vllm-openai-cpu:v0.32.0", "0.32"),
        ("registry.example:5000/vllm/vllm-openai-cpu:v0.32.0-x86_64@sha256:aa", "0.32"),
        ("vllm/vllm-openai:v0.34", "0.33"),
        ("vllm/vllm-openai:latest", "0.33"),
        ("registry.example:5000/vllm", "0.33"),
        ("vllm/vllm-openai@sha256:0123", "0.33"),
        ("", "0.33"),
    ],
)
def test_the_table_is_that_of_the_tag(image: str, version: str) -> None:
    assert table_for(image) is parsers.TABLES[version]


def test_a_newer_version_knows_more() -> None:
    assert parsers.TABLES["0.32"].tool.keys() < parsers.TABLES["0.33"].tool.keys()


# --- tokenizers -------------------------------------------------------------------------------

HEADERS = "<|start_header_id|>user<|end_header_id|>"
LLAMA_3 = Tokenizer(
    vocabulary=frozenset(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    templates={"default": HEADERS},
)
LLAMA_3_1 = Tokenizer(
    vocabulary=frozenset((*(LLAMA_3.vocabulary or ()), "<|python_tag|>")),
    templates={"default": HEADERS + '{"name": function name, "parameters": dictionary}'},
)


def chatml(template: str, *tokens: str) -> Tokenizer:
    return Tokenizer(
        vocabulary=frozenset(("<|im_start|>", "<|im_end|>", *tokens)),
        templates={"default": "<|im_start|>" + template},
    )


def tekken(*tokens: str) -> Tokenizer:
    return Tokenizer(files=("tekken.json",), vocabulary=frozenset(tokens))


HERMES = chatml('<tool_call>\n{"name": "x", "arguments": {}}\n</tool_call>')
NEW = parsers.NEWEST


def test_llama_3_has_no_tool_parser_and_3_1_has_one() -> None:
    assert choose(TOOL, NEW, LLAMA_3, "llama").name == ""
    assert choose(TOOL, NEW, LLAMA_3_1, "llama").name == "llama3_json"
    reason = why_not(TOOL, "llama3_json", NEW, LLAMA_3)
    assert reason == (
        "llama3_json needs <|python_tag|> in the vocabulary, and the tokenizer has none"
    )
    assert not why_not(TOOL, "llama3_json", NEW, LLAMA_3_1)


def test_a_template_of_tools_without_the_token_gets_none() -> None:
    told = Tokenizer(vocabulary=LLAMA_3.vocabulary, templates=LLAMA_3_1.templates)
    found = choose(TOOL, NEW, told, "llama")
    assert found.name == ""
    assert "needs <|python_tag|>" in found.why


def test_what_the_files_do_not_tell_is_no_refusal() -> None:
    assert not why_not(TOOL, "llama3_json", NEW, Tokenizer())


@pytest.mark.parametrize(
    ("tokenizer", "model_type", "tool", "reasoning"),
    [
        (HERMES, "qwen2", "hermes", ""),
        (HERMES, "llama", "hermes", ""),
        (chatml("<tool_call>{'arguments'}<think>"), "qwen3", "hermes", "qwen3"),
        (chatml("<tool_call><function=f><parameter=p>"), "qwen3_moe", "qwen3_coder", ""),
        (chatml("<tool_call>f<arg_key>k</arg_key><arg_value>"), "glm4_moe", "glm47", ""),
        (chatml("<tool_call>f<arg_key>k</arg_key><arg_value>"), "somebody_new", "", ""),
        (chatml("<tool_call>[]"), "granite", "granite", ""),
        (chatml("<tool_call>{arguments}"), "granitemoehybrid", "granite4", ""),
        (chatml("[TOOL_CALLS]", "[TOOL_CALLS]"), "mistral", "mistral", ""),
        (chatml("[TOOL_CALLS]"), "mistral", "", ""),
        (chatml("<|tool_call>call:f{}<tool_call|>"), "gemma4", "gemma4", ""),
        (chatml("<start_of_turn>user"), "gemma3", "", ""),
        (chatml("<think></think>", "<think>", "</think>"), "qwen2", "", "deepseek_r1"),
        (chatml("<think></think>"), "qwen2", "", ""),
        (chatml("<think></think>", "<think>", "</think>"), "somebody_new", "", ""),
        (Tokenizer(), "gpt_oss", "openai", "openai_gptoss"),
        (tekken("[TOOL_CALLS]"), "mistral", "mistral", ""),
        (tekken("[TOOL_CALLS]", "[THINK]"), "mistral3", "mistral", "mistral"),
        (tekken("[INST]"), "mistral", "", ""),
        (Tokenizer(files=("tekken.json",)), "mistral", "mistral", ""),
        (Tokenizer(), "llama", "", ""),
        (
            chatml("<｜Assistant｜></think>", "<think>", "</think>"),  # noqa: RUF001
            "qwen3",
            "",
            "deepseek_r1",
        ),
    ],
)
def test_the_parser_is_what_the_template_writes(
    tokenizer: Tokenizer, model_type: str, tool: str, reasoning: str
) -> None:
    assert choose(TOOL, NEW, tokenizer, model_type).name == tool
    assert choose(REASONING, NEW, tokenizer, model_type).name == reasoning


def test_the_template_for_tools_counts_where_there_are_several() -> None:
    several = Tokenizer(
        vocabulary=frozenset(), templates={"default": "", "tool_use": HERMES.template}
    )
    assert choose(TOOL, NEW, several, "llama").name == "hermes"


def test_every_syntax_names_a_parser_of_every_measured_version() -> None:
    for table in parsers.TABLES.values():
        for kind in (TOOL, REASONING):
            assert {syntax.parser for syntax in parsers.SYNTAX[kind]} <= table.of(kind).keys()
            assert set(parsers.BY_TYPE[kind].values()) <= table.of(kind).keys()


# --- named by somebody ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        (TOOL, "llama3-json", "llama3_json"),
        (TOOL, "Hermes", "hermes"),
        (TOOL, "qwen3", "qwen3_"),
        (REASONING, "deepseek-r1", "deepseek_r1"),
    ],
)
def test_an_unknown_name_is_told_with_what_may_be_meant(kind: str, name: str, near: str) -> None:
    with pytest.raises(ParserError, match=f"Perhaps .*{near}") as refused:
        wanted(kind, name, NEW, None)
    assert refused.value.failure == "parser-unknown"
    assert f"Set {parsers.VARIABLES[kind]}: auto" in str(refused.value)


def test_a_name_like_no_other_is_told_with_all() -> None:
    with pytest.raises(ParserError, match="one of apertus, beam") as refused:
        wanted(TOOL, "zzzz", NEW, None)
    assert "Perhaps" not in str(refused.value)


def test_a_name_of_a_later_version_is_unknown() -> None:
    assert wanted(TOOL, "step5", NEW, None).name == "step5"
    with pytest.raises(ParserError, match=r"vLLM 0\.32 knows no"):
        wanted(TOOL, "step5", parsers.TABLES["0.32"], None)


def test_a_named_parser_whose_condition_is_not_met_is_refused() -> None:
    with pytest.raises(ParserError, match=r"needs <\|python_tag\|> in the vocabulary") as refused:
        wanted(TOOL, "llama3_json", NEW, LLAMA_3)
    assert refused.value.failure == "parser-not-for-tokenizer"
    assert "Set model_tool_call_parser: auto." in str(refused.value)
    assert wanted(TOOL, "llama3_json", NEW, LLAMA_3_1).name == "llama3_json"
    assert wanted(TOOL, "llama3_json", NEW, None).name == "llama3_json"
    assert wanted(TOOL, "", NEW, LLAMA_3).name == ""


def test_a_suffix_that_the_tokenizer_names_counts() -> None:
    suffixed = chatml("", "<tool_calls:open>", "</tool_calls:open>")
    assert not why_not(TOOL, "hy_v3", NEW, suffixed)
    assert why_not(TOOL, "jamba", NEW, suffixed)
    assert why_not(TOOL, "hy_v3", NEW, HERMES)


def test_the_parser_of_a_response_template() -> None:
    assert "response_template" in why_not(TOOL, "hf", NEW, HERMES)
    assert not why_not(TOOL, "hf", NEW, Tokenizer(has_response_template=True))


# --- both -------------------------------------------------------------------------------------

IMAGE = "docker.io/vllm/vllm-openai:v0.33.0"
ALL_AUTO = {TOOL: "auto", REASONING: "auto"}


def test_the_report_has_one_line_where_there_is_no_parser() -> None:
    found = choose_both(IMAGE, LLAMA_3, "llama", asked=ALL_AUTO)
    assert found.report == (
        "Tools: none: neither its chat template nor its kind tells how it writes a call. Chats"
        " work; the engine refuses requests that offer tools."
    )


def test_a_version_that_was_not_looked_at_is_taken_for_the_newest() -> None:
    found = choose_both("vllm:v9.9.9", LLAMA_3_1, "llama", asked=ALL_AUTO)
    assert found.tool.name == "llama3_json"
    assert found.report.startswith("Tools: the engine reads the model's calls with llama3_json")


def test_the_catalogue_goes_before_the_template_but_not_before_the_condition() -> None:
    entry = {TOOL: "", REASONING: ""}
    assert choose_both(IMAGE, HERMES, "qwen2", asked=ALL_AUTO, entry=entry).tool.name == ""
    entry = {TOOL: "llama3_json", REASONING: ""}
    found = choose_both(IMAGE, LLAMA_3, "llama", asked=ALL_AUTO, entry=entry)
    assert found.tool.name == ""
    assert "python_tag" in found.report
    entry = {TOOL: "no_longer_there", REASONING: ""}
    found = choose_both(IMAGE, LLAMA_3, "llama", asked=ALL_AUTO, entry=entry)
    assert "has no --tool-call-parser no_longer_there" in found.report


def test_who_names_a_parser_gets_it() -> None:
    asked = {TOOL: "pythonic", REASONING: ""}
    found = choose_both(IMAGE, HERMES, "qwen3", asked=asked)
    assert (found.tool.name, found.reasoning.name) == ("pythonic", "")
