# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts that must fail with a name, and the remedies with which they start."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing as t
import urllib.error

from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    ALLOCATOR,
    ALLOCATOR_SETTINGS,
    GIB,
    MIB,
    Plan,
    Use,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import explain
from gpu.cases import ARTICLE_GIB, Case, base, of_catalogue, sized
from gpu.engine import Engine, FailedError, Setup, Start, flags_here, gpus_mib, make_model

if t.TYPE_CHECKING:
    from pathlib import Path

_SMALL = Case("qwen3-1.7b", base("qwen3-1.7b"), None, 8)
_QUICK = [
    *("--max-model-len", "8192", "--max-num-seqs", "16", "--enforce-eager"),
    *("--gpu-memory-utilization", "0.12"),
]
_PLENTY = 40 * GIB
_TOOLS = ["--enable-auto-tool-choice", "--tool-call-parser", "llama3_json"]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A start that must fail with a name, and where given the remedy with which it starts."""

    id: str
    start: Start
    remedy: Start | None = None
    case: Case = _SMALL
    changes: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)  # of config.json
    ask: t.Sequence[dict[str, t.Any]] = ()  # chats to send once the remedy has started it


def _planned_start(made: Plan, held: int = 0) -> Start:
    """Start as planned, on a card of which somebody else holds so many bytes more."""
    return Start(flags_here(made, gpus_mib()[0]), made.pytorch - held)


def _split(start: Start) -> Start:
    """Let PyTorch split what the compiler leaves, as it does by default."""
    share = start.pytorch / (gpus_mib()[0] * MIB)
    settings = ALLOCATOR_SETTINGS.format(share=share).replace("max_split_size_mb:128,", "")
    return dataclasses.replace(start, env={ALLOCATOR: settings})


def failures() -> t.Iterator[Failure]:
    """List the failures; each start's memory is that of the case's card."""
    yield Failure(
        "tool-parser-unsuitable",
        Start([*_QUICK, *_TOOLS], _PLENTY),
        Start(_QUICK, _PLENTY),
        ask=CHATS,
    )
    gemma = sized(of_catalogue(catalogue.find("gemma-3-4b")), ARTICLE_GIB)
    start = _planned_start(gemma.plan)
    yield Failure("kv-cache-exceeds-memory", _split(start), start, gemma)
    llama = sized(of_catalogue(catalogue.find("llama-3-8b-gptq")), ARTICLE_GIB)
    held = 700 * MIB
    reserved = dataclasses.replace(llama, use=Use(reserve_mib=768))
    yield Failure(
        "kv-cache-exceeds-memory",
        _planned_start(llama.plan, held),
        _planned_start(reserved.plan),
        llama,
    )
    awq = sized(of_catalogue(catalogue.find("qwen3-8b-awq")), 8)
    eager = dataclasses.replace(awq, use=Use(context=2048, enforce_eager=True))
    start = _planned_start(eager.plan)
    yield Failure(
        "no-room-to-compile",
        dataclasses.replace(
            start, flags=[flag for flag in start.flags if flag != "--enforce-eager"]
        ),
        start,
        awq,
    )
    for identifier, flags, cap, changes in _BY_FLAGS:
        yield Failure(identifier, Start([*_QUICK, *flags], cap), changes=changes)


_BY_FLAGS: tuple[tuple[str, list[str], int, dict[str, t.Any]], ...] = (
    ("context-exceeds-model", ["--max-model-len", "65536"], _PLENTY, {}),
    ("context-exceeds-kv-cache", ["--kv-cache-memory-bytes", "100000000"], _PLENTY, {}),
    ("memory-held-by-others", ["--gpu-memory-utilization", "0.999"], _PLENTY, {}),
    ("no-room-for-kv-cache", ["--gpu-memory-utilization", "0.02"], _PLENTY, {}),
    ("weights-exceed-memory", [], GIB, {}),
    ("activations-exceed-memory", ["--max-num-batched-tokens", "65536"], 4 * GIB, {}),
    ("quantization-unsupported", ["--quantization", "gptq"], _PLENTY, {}),
    ("architecture-unknown", [], _PLENTY, {"architectures": ["UnheardOfForCausalLM"]}),
)


def provoke(failure: Failure, setup: Setup, gpu: int) -> dict[str, t.Any]:
    """Let a start fail, see whether its log is explained, and whether the remedy starts."""
    folder = setup.work / f"{failure.id}-{id(failure)}"
    make_model({**failure.case.full_config, **failure.changes}, folder)
    ending, log = try_start(setup, folder, dataclasses.replace(failure.start, gpu=gpu))
    found = explain(log)
    answer = {
        "expected": failure.id,
        "case": failure.case.title,
        "found": found and found.id,
        "ending": ending,
        "log": log[-30_000:],
    }
    if failure.remedy:
        remedy = dataclasses.replace(failure.remedy, gpu=gpu)
        answer["remedy"], log = try_start(setup, folder, remedy, failure.ask, answer)
        if answer["remedy"] != _STARTED:
            answer["remedy_log"] = log[-30_000:]
    sys.stdout.write(f"{failure.id}: {answer['found']}, {ending}, {answer.get('remedy')}\n")
    sys.stdout.flush()
    return answer


def try_start(
    setup: Setup,
    folder: Path,
    start: Start,
    bodies: t.Iterable[dict[str, t.Any]] = (),
    answer: dict[str, t.Any] | None = None,
) -> tuple[str, str]:
    """Start an engine, send it chats, and end it: how that went, and its log."""
    engine = Engine(setup, folder, start)
    try:
        engine.wait()
        if answer is not None:
            answer["chats"] = [chat(engine, body) for body in bodies]
        ending = _STARTED
    except FailedError as error:
        ending = str(error)
    finally:
        engine.stop()
    return ending, engine.log


def chat(engine: Engine, body: dict[str, t.Any]) -> dict[str, t.Any]:
    """Send one chat as the page does; give the status and the beginning of the answer."""
    try:
        said = engine.post("/v1/chat/completions", {"model": "m", "max_tokens": 8, **body})
    except urllib.error.HTTPError as error:
        return {"asked": sorted(body), "status": error.code, "said": error.read().decode()[:500]}
    return {"asked": sorted(body), "status": 200, "said": json.dumps(said)[:500]}


_MESSAGES = {"messages": [{"role": "user", "content": "t5 t6 t7"}]}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHATS = (
    _MESSAGES,
    {**_MESSAGES, "tools": [_TOOL]},
    {**_MESSAGES, "tools": [_TOOL], "tool_choice": "auto"},
)

_STARTED = "it started"


def named_and_cured(answer: dict[str, t.Any]) -> bool:
    """Whether a failure got its name, and its remedy started the engine."""
    named = bool(answer.get("found") == answer.get("expected", ""))
    return named and answer.get("remedy", _STARTED) == _STARTED
