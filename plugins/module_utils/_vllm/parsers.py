# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vLLM's parsers of tool calls and of reasoning: which there are, what each asks, which to take.

At its start vLLM makes the parsers it was told of with the model's tokenizer, and ends where one of
them does not find its tokens (vllm/parser/parser_manager.py, validate_parser_tokenizer). The
tables say for each measured version what each parser asks; they are held to
tests/fixtures/vllm_parsers, which tests/vllm_parsers.py records by that very check. Another version
gets the table of the newest measured one (versions.py warns of it).

Which parser a model needs is what it was trained to write: its catalogue entry says so, else its
own chat template, in which earlier calls are written back, and config.json's model_type. Where
these do not tell, there is none: a parser of another family finds no call, or takes text for one.
"""

from __future__ import annotations

import difflib
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.versions import vllm_version

if t.TYPE_CHECKING:
    from collections.abc import Mapping

TOOL: t.Final = "tool"
REASONING: t.Final = "reasoning"
AUTO: t.Final = "auto"
NONE: t.Final = ""
FLAGS: t.Final = {TOOL: "--tool-call-parser", REASONING: "--reasoning-parser"}
VARIABLES: t.Final = {TOOL: "model_tool_call_parser", REASONING: "model_reasoning_parser"}


class ParserError(ValueError):
    """A parser that was asked for cannot be used: ``explanation`` is its failure, as seen here."""

    def __init__(self, failure: str, seen: str, *, cause: str, advice: str) -> None:
        self.explanation = describe(failure, cause=cause, advice=advice)
        super().__init__(self.explanation.message(f"{seen}."))
        self.failure = failure
        self.seen = seen


class Tokenizer(t.Protocol):
    """What a parser asks of a tokenizer. _model/tokenizer.py reads one; _model stands above."""

    @property
    def vocabulary(self) -> frozenset[str] | None:
        """All tokens; None where no file has them all."""

    @property
    def has_response_template(self) -> bool:
        """Whether its files say how the model writes an answer."""

    @property
    def template(self) -> str:
        """The template for plain chats; empty if there is none."""

    @property
    def template_with_tools(self) -> str:
        """The template for a request that offers tools; empty if there is none."""

    @property
    def mistral_only(self) -> bool:
        """Whether only Mistral's own library reads it."""

    def has(self, token: str) -> bool | None:
        """Whether the vocabulary has a token; None where the files do not tell."""


@dataclass(frozen=True)
class Condition:
    """What a parser asks at the start.

    ``tokens``: all of them have to be in the vocabulary. ``response_template``: its
    tokenizer_config.json has to have that. ``package``: a Python package that vLLM's own
    requirements do not name.
    """

    tokens: tuple[str, ...] = ()
    response_template: bool = False
    package: str = ""
    # The tokens may have a suffix that the tokenizer names, as in <think:opensource>.
    suffixed: bool = False


@dataclass(frozen=True)
class Table:
    """The parsers of one version, each with its condition."""

    version: str
    tool: Mapping[str, Condition]
    reasoning: Mapping[str, Condition]

    def of(self, kind: str) -> Mapping[str, Condition]:
        """Return the parsers of one kind, TOOL or REASONING."""
        return self.tool if kind == TOOL else self.reasoning


# --- the tables -------------------------------------------------------------------------------

_THINK: t.Final = Condition(("<think>", "</think>"))
_PYTHON_TAG: t.Final = Condition(("<|python_tag|>",))
_TOOL_CALLS: t.Final = Condition(("<tool_calls>", "</tool_calls>"))
_HY_TOOL_CALLS: t.Final = Condition(_TOOL_CALLS.tokens, suffixed=True)
_HY_THINK: t.Final = Condition(_THINK.tokens, suffixed=True)
_DEEPSEEK: t.Final = Condition(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"))  # noqa: RUF001
_MISTRAL: t.Final = Condition(("[TOOL_CALLS]",))
_TEMPLATE: t.Final = Condition(response_template=True)
_MELODY: t.Final = Condition(package="cohere_melody")


def _without_condition(names: str) -> dict[str, Condition]:
    return dict.fromkeys(names.split(), Condition())


_V0_32: t.Final = Table(
    version="0.32",
    tool={
        **_without_condition(
            "apertus deepseek_v32 deepseek_v4 deepseek_v41 dots ernie45 functiongemma gemma4"
            " gigachat3 glm45 glm47 granite granite-20b-fc granite4 hermes hunyuan_a13b inkling"
            " internlm k2_horizon kimi_k2 kimi_k3 ling3 llama4_pythonic longcat mimo minicpm5"
            " minimax_m2 minimax_m3 muse_glimmer olmo3 openai phi4_mini_json plamo3 poolside_v1"
            " pythonic qwen3_coder qwen3_json qwen3_xml seed_oss step3 step3p5 xlam"
        ),
        "cohere_command3": _MELODY,
        "cohere_command4": _MELODY,
        "deepseek_v3": _DEEPSEEK,
        "deepseek_v31": _DEEPSEEK,
        "hf": _TEMPLATE,
        "hy_v3": _HY_TOOL_CALLS,
        "hy_v4": _HY_TOOL_CALLS,
        "jamba": _TOOL_CALLS,
        "lfm2": Condition(("<|tool_call_start|>", "<|tool_call_end|>")),
        "llama3_json": _PYTHON_TAG,
        "llama4_json": _PYTHON_TAG,
        "mistral": _MISTRAL,
    },
    reasoning={
        **_without_condition(
            "deepseek_v3 deepseek_v4 deepseek_v41 gemma4 glm45 glm47 granite"
            " granite_thinking_parser hunyuan_a13b inkling kimi_k2 kimi_k3 ling3 mimo minicpmv"
            " minimax_m2 minimax_m2_append_think muse_glimmer nemotron_v3 openai_gptoss plamo3"
            " qwen3 seed_oss step3p5"
        ),
        "cohere_command3": _MELODY,
        "cohere_command4": _MELODY,
        "deepseek_r1": _THINK,
        "ernie45": _THINK,
        "hf": _TEMPLATE,
        "holo2": _THINK,
        "hy_v3": _HY_THINK,
        "hy_v4": _HY_THINK,
        "k2_horizon": Condition(("<ifm|think>", "</ifm|think>")),
        "minimax_m3": Condition(("<mm:think>", "</mm:think>")),
        "mistral": _MISTRAL,
        # Looked up as whole words of the vocabulary: the end of thinking, split as OLMo splits it.
        "olmo3": Condition(("</", "think", "Ġ</")),
        "poolside_v1": Condition(("<assistant>",)),
        "step3": Condition(("</think>",)),
    },
)
_V0_33: t.Final = Table(
    version="0.33",
    tool={**_V0_32.tool, **_without_condition("muse musespark1x step5"), "beam": _TEMPLATE},
    reasoning={
        **_V0_32.reasoning,
        **_without_condition("muse musespark1x"),
        "beam": _TEMPLATE,
        "step5": _THINK,
    },
)
TABLES: t.Final = {table.version: table for table in (_V0_32, _V0_33)}
NEWEST: t.Final = _V0_33


def table_for(image: str) -> Table:
    """Return the table of an image's vLLM; of a version that was not looked at, the newest."""
    version = vllm_version(image) or ""
    return TABLES.get(version.rpartition(".")[0], NEWEST)


# --- may it be used? --------------------------------------------------------------------------


def refuse_name(kind: str, name: str, table: Table) -> None:
    """Raise ParserError for a name that the version does not know."""
    known = table.of(kind)
    if name in known:
        return
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=3, cutoff=0.5)
    raise ParserError(
        "parser-unknown",
        f"vLLM {table.version} knows no {FLAGS[kind]} {name!r}",
        cause=f"Perhaps {' or '.join(near)} is meant." if near else "It is of another version.",
        advice=f"Set {VARIABLES[kind]}: auto, so that the parser of the model is taken, or one of"
        f" {', '.join(sorted(known))}.",
    )


def why_not(kind: str, name: str, table: Table, tokenizer: Tokenizer) -> str:
    """Say why vLLM would end its start with this parser and tokenizer; empty if it would not.

    What the files do not tell speaks neither for nor against it.
    """
    condition = table.of(kind)[name]
    if condition.response_template and not tokenizer.has_response_template:
        return f"{name} needs a response_template in tokenizer_config.json, and there is none"
    missing = [token for token in condition.tokens if tokenizer.has(token) is False]
    if condition.suffixed:
        missing = [token for token in missing if not _has_with_suffix(tokenizer, token)]
    if missing:
        return f"{name} needs {' and '.join(missing)} in the vocabulary, and the tokenizer has none"
    return ""


def _has_with_suffix(tokenizer: Tokenizer, token: str) -> bool:
    start = token.removesuffix(">") + ":"
    return any(other.startswith(start) for other in tokenizer.vocabulary or ())


def _usable(kind: str, name: str, table: Table, tokenizer: Tokenizer | None) -> bool:
    known = table.of(kind).get(name)
    if known is None or known.package:
        return False
    return tokenizer is None or not why_not(kind, name, table, tokenizer)


# --- which to take ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Syntax:
    """How a parser is known by a chat template: all of ``marks``, none of ``not_marks``."""

    parser: str
    marks: tuple[str, ...]
    not_marks: tuple[str, ...] = ()
    # Beginnings of config.json's model_type; empty: the marks are nobody else's.
    types: tuple[str, ...] = ()

    def fits(self, template: str, model_type: str) -> bool:
        return (
            all(mark in template for mark in self.marks)
            and not any(mark in template for mark in self.not_marks)
            and (not self.types or model_type.startswith(self.types))
        )


# What each parser looks for stands in its source, vllm/tool_parsers and vllm/parser, alike in 0.32
# and 0.33. The more particular first. Where several families write the same marks, model_type
# decides. A parser that no mark tells (pythonic, xlam, phi4_mini_json) is taken only where somebody
# names it.
_TOOL_SYNTAX: t.Final = (
    Syntax("gemma4", ("<|tool_call>",)),
    Syntax("functiongemma", ("<start_function_call>",)),
    Syntax("kimi_k2", ("<|tool_calls_section_begin|>",)),
    Syntax("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),  # noqa: RUF001
    Syntax("deepseek_v31", ("<｜tool▁calls▁begin｜>",), ("```json",)),  # noqa: RUF001
    Syntax("step3", ("<｜tool_calls_begin｜>",)),  # noqa: RUF001
    Syntax("lfm2", ("<|tool_call_start|>",)),
    Syntax("apertus", ("<|tools_prefix|>",)),
    Syntax("internlm", ("<|action_start|>",)),
    Syntax("seed_oss", ("<seed:tool_call>",)),
    Syntax("minimax_m2", ("<minimax:tool_call>",)),
    Syntax("longcat", ("<longcat_tool_call>",)),
    Syntax("k2_horizon", ("<ifm|tool_calls>",)),
    Syntax("dots", ("<dots_function_call>",)),
    Syntax("plamo3", ("<|plamo:begin_tool_request:plamo|>",)),
    Syntax("mistral", ("[TOOL_CALLS]",)),
    Syntax("olmo3", ("<function_calls>",), types=("olmo3",)),
    Syntax("jamba", ("<tool_calls>",), types=("jamba",)),
    Syntax("hunyuan_a13b", ("<tool_calls>",), ("<arg_key>",), types=("hunyuan",)),
    Syntax("granite4", ("<tool_call>",), types=("granitemoehybrid",)),
    Syntax("granite", ("<|tool_call|>",), types=("granite",)),
    Syntax("granite", ("<tool_call>",), types=("granite",)),
    Syntax("glm47", ("<tool_call>", "<arg_key>", "<arg_value>"), types=("glm",)),
    Syntax("mimo", ("<tool_call>", "<function="), types=("mimo",)),
    Syntax("qwen3_coder", ("<tool_call>", "<function=", "<parameter="), types=("qwen3",)),
    Syntax("ernie45", ("<tool_call>",), types=("ernie4_5",)),
    Syntax("hermes", ("<tool_call>", "arguments"), ("<function=", "<arg_key>", "<tool_calls>")),
    # Llama 3.1 writes a call as plain JSON, with "parameters" for what others call arguments.
    Syntax("llama3_json", ("<|start_header_id|>", '"parameters"'), types=("llama", "mllama")),
    Syntax("llama3_json", ("<|start_header_id|>", "'parameters'"), types=("llama", "mllama")),
)
_REASONING_SYNTAX: t.Final = (
    Syntax("gemma4", ("<|channel>",), types=("gemma4",)),
    Syntax("mistral", ("[THINK]",)),
    Syntax("seed_oss", ("<seed:think>",)),
    Syntax("minimax_m2", ("<think>",), types=("minimax_m2",)),
    Syntax("kimi_k2", ("<think>",), types=("kimi_k2",)),
    Syntax("hunyuan_a13b", ("<think>",), types=("hunyuan",)),
    Syntax("glm45", ("<think>",), types=("glm4_moe", "glm4v_moe")),
    Syntax("nemotron_v3", ("<think>",), types=("nemotron_h",)),
    Syntax("step3", ("</think>",), types=("step3",)),
    # R1 and its distillations to other families keep DeepSeek's turns.
    Syntax("deepseek_r1", ("<｜Assistant｜>", "</think>"), ("thinking",)),  # noqa: RUF001
    Syntax("deepseek_v3", ("<｜Assistant｜>", "</think>", "thinking")),  # noqa: RUF001
    Syntax("qwen3", ("<think>",), types=("qwen3",)),
    Syntax("deepseek_r1", ("<think>", "</think>"), types=("qwen2", "llama")),
)
SYNTAX: t.Final = {TOOL: _TOOL_SYNTAX, REASONING: _REASONING_SYNTAX}
# gpt-oss is not written with its template but by vLLM itself (Harmony), with parsers of its own.
BY_TYPE: t.Final = {TOOL: {"gpt_oss": "openai"}, REASONING: {"gpt_oss": "openai_gptoss"}}


@dataclass(frozen=True)
class Parser:
    """The parser that was chosen; its name is empty if there is none. ``why`` is for people."""

    name: str
    why: str


def choose(
    kind: str, table: Table, tokenizer: Tokenizer | None, model_type: str, entry: str | None = None
) -> Parser:
    """Choose the parser of a model: its catalogue entry's, else what its files tell.

    ``entry`` is what the catalogue says, None where the model is not in it. ``tokenizer`` is None
    where its files are not known. Never takes one whose condition is not met.
    """
    if entry is not None:
        name, source = entry, "by the catalogue"
    elif model_type in BY_TYPE[kind]:
        name, source = BY_TYPE[kind][model_type], f"for {model_type}"
    elif tokenizer and tokenizer.mistral_only:
        # No template: Mistral's own library writes the chats, with tools and (newer ones) thoughts.
        known = kind == TOOL or tokenizer.has("[THINK]")
        name, source = "mistral" if known else NONE, "by Mistral's own tokenizer"
    else:
        template = _template_of(kind, tokenizer)
        fitting = (syntax.parser for syntax in SYNTAX[kind] if syntax.fits(template, model_type))
        name, source = next(fitting, NONE), "by the model's chat template"
    if not name:
        return Parser(NONE, _NONE_TOLD[kind] if entry is None else _NONE_IN_ENTRY[kind])
    if not _usable(kind, name, table, tokenizer):
        reason = _why_unusable(kind, name, table, tokenizer)
        return Parser(NONE, f"{reason}.")
    return Parser(name, f"{name}, {source}.")


def wanted(kind: str, name: str, table: Table, tokenizer: Tokenizer | None) -> Parser:
    """Take the parser that somebody named; raise ParserError where vLLM would refuse it."""
    if not name:
        return Parser(NONE, "none, as was asked.")
    refuse_name(kind, name, table)
    reason = why_not(kind, name, table, tokenizer) if tokenizer else ""
    if reason:
        raise ParserError(
            "parser-not-for-tokenizer",
            f"{FLAGS[kind]} {name} cannot be used with the tokenizer of this model: {reason}",
            cause="The parser is of another family of models;"
            f" vLLM {table.version} would not start.",
            advice=f"Set {VARIABLES[kind]}: auto.",
        )
    return Parser(name, f"{name}, as was asked.")


_NONE_TOLD: t.Final = {
    TOOL: "neither its chat template nor its kind tells how it writes a call.",
    REASONING: "its chat template writes no reasoning.",
}
_NONE_IN_ENTRY: t.Final = {
    TOOL: "the model was not trained to call tools in a way that vLLM reads.",
    REASONING: "the model does not reason aloud.",
}


def _template_of(kind: str, tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return ""
    return tokenizer.template_with_tools if kind == TOOL else tokenizer.template


def _why_unusable(kind: str, name: str, table: Table, tokenizer: Tokenizer | None) -> str:
    condition = table.of(kind).get(name)
    if condition is None:
        return f"vLLM {table.version} has no {FLAGS[kind]} {name}"
    if condition.package:
        return f"{name} needs the Python package {condition.package}, which the image may not have"
    return why_not(kind, name, table, tokenizer) if tokenizer else ""


@dataclass(frozen=True)
class Parsers:
    """Both parsers of a model, and what people should know of them."""

    tool: Parser
    reasoning: Parser

    @property
    def report(self) -> str:
        """Say in one line whether the model can use tools, and why."""
        if self.tool.name:
            return f"Tools: the engine reads the model's calls with {self.tool.why}"
        works = "Chats work; the engine refuses requests that offer tools."
        return f"Tools: none: {self.tool.why} {works}"


def choose_both(
    image: str,
    tokenizer: Tokenizer | None,
    model_type: str,
    *,
    asked: Mapping[str, str],
    entry: Mapping[str, str] | None = None,
) -> Parsers:
    """Choose both parsers of a model for the vLLM of an image; without one, for the newest.

    ``asked`` has what somebody named by kind: a parser, AUTO or NONE. ``entry`` is the catalogue's,
    by kind. Raises ParserError where a parser that was named cannot be used.
    """
    table = table_for(image)
    found = {
        kind: choose(kind, table, tokenizer, model_type, entry[kind] if entry else None)
        if asked[kind] == AUTO
        else wanted(kind, asked[kind], table, tokenizer)
        for kind in (TOOL, REASONING)
    }
    return Parsers(found[TOOL], found[REASONING])
