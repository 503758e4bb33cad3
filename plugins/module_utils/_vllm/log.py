# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM's log says: which failure ended a start, and what a good start took.

Standard library only, and no import from Ansible: the supervisor of the service on the host
imports this file too, and says the failure in the words of the registry, _checks/failures.py.

Patterns were taken from vLLM 0.26 and 0.32 as released, and from public reports of older versions
where the wording differed.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Found:
    """A failure of the registry, and the words of the log that its texts have places for."""

    id: str
    words: dict[str, str]


@dataclass(frozen=True)
class Observed:
    """What a start reported of itself; None where the log does not say.

    Sizes are GiB as vLLM prints them, rounded to two digits (four in old versions).
    """

    weights_gib: float | None = None
    activation_gib: float | None = None
    non_torch_gib: float | None = None
    graphs_gib: float | None = None
    kv_cache_gib: float | None = None
    kv_cache_tokens: int | None = None
    max_model_len: int | None = None
    kernel: str | None = None


def observed(log_text: str) -> Observed:
    """Read the figures of the last start in the log."""
    log = _last_start(log_text)
    return Observed(
        weights_gib=_number(r"Model loading took ([\d.]+) GiB", log),
        activation_gib=_number(r"([\d.]+) GiB for peak activation", log),
        non_torch_gib=_number(r"([\d.]+) GiB for non-torch memory", log),
        graphs_gib=_number(r"Graph capturing finished in .*?took (-?[\d.]+) GiB", log),
        kv_cache_gib=_number(
            r"(?:Available KV cache memory: |reserved )(-?[\d.]+) GiB(?: memory for KV Cache)?", log
        ),
        kv_cache_tokens=_count(r"(?:GPU|CPU) KV cache size: ([\d,]+) tokens", log),
        max_model_len=_count(r"Maximum concurrency for ([\d,]+) tokens", log),
        kernel=_word(r"Using (\w+LinearKernel) for", log),
    )


def explain(log_text: str) -> Found | None:
    """Name the failure of the last start in the log; None if it is not a known one.

    What stopped the start is preferred to what only slowed it.
    """
    log = _last_start(log_text)
    for rule in _RULES:
        found = rule.pattern.search(log)
        if found:
            words = {name: word for name, word in found.groupdict().items() if word}
            return Found(rule.id, words | rule.also(words))
    return None


# --- one failure each -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """A text of vLLM's, and the failure that it stands for. Named groups become words."""

    id: str
    pattern: re.Pattern[str]
    also: Callable[[dict[str, str]], dict[str, str]] = lambda _words: {}


_CONTEXT_STEP = 256  # a number that people can read, never more than vLLM's estimate


def _shorter_context(words: dict[str, str]) -> dict[str, str]:
    """Take the longest context that vLLM itself says would fit, rounded down."""
    longest = int(words.get("estimate", 0)) // _CONTEXT_STEP * _CONTEXT_STEP
    return {"shorter": str(longest)} if longest else {}


def _fewer_chats(words: dict[str, str]) -> dict[str, str]:
    return {"fewer": str(max(1, min(16, int(words["seqs"]) // 2)))}


def _parser_settings(words: dict[str, str]) -> dict[str, str]:
    """Take what vLLM said, and the variables of the parsers that it is about."""
    complaint = words["complaint"]
    variables = [
        variable
        for variable, mark in (
            ("model_tool_call_parser", r"tool[-_ ](?:call[-_ ])?parser"),
            ("model_reasoning_parser", r"reasoning[-_ ]parser"),
        )
        if re.search(mark, complaint, re.IGNORECASE)
    ]
    settings = (f"{variable}: auto" for variable in variables or ["model_tool_call_parser"])
    return {"complaint": complaint.strip().rstrip(".!"), "settings": " and ".join(settings)}


_OOM = r"(?:CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED)"
_NEEDS = r"(?: Tried to allocate (?P<wanted>[\d.]+ [KMG]iB))?"

_RULES: t.Final = (
    _Rule(
        "container-without-gpu",
        re.compile(r"Failed to infer device type|No CUDA GPUs are available"),
    ),
    _Rule(
        "driver-too-old-for-image",
        re.compile(
            r"driver on your system is too old|unsatisfied condition: cuda\s*>="
            r"|CUDA driver version is insufficient"
        ),
    ),
    _Rule(
        "shared-memory-too-small",
        re.compile(
            r"Insufficient space in /dev/shm for shared-memory allocation:"
            r" (?P<need>[\d.]+ \w+) required, (?P<have>[\d.]+ \w+) free"
        ),
    ),
    _Rule(
        "memory-held-by-others",
        re.compile(
            r"Free memory on device[^(]*\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup"
            r" is less than desired GPU memory utilization \((?P<wanted>[\d.]+)[,)]"
        ),
    ),
    _Rule(
        "memory-changed-while-measuring",
        re.compile(r"Error in memory profiling\.? Initial free memory"),
    ),
    _Rule(
        "context-exceeds-model",
        re.compile(
            r"max_model_len \((?P<wanted>\d+)\) is greater than the derived max_model_len"
            r" \(\w+=(?P<context>\d+)"
        ),
    ),
    _Rule(
        "context-exceeds-kv-cache",
        re.compile(
            r"max seq len \((?P<wanted>\d+)\)[, ]+\(?(?P<need>[\d.]+) GiB KV\s+cache is needed"
            r".*?available KV cache\s+memory \((?P<have>[\d.]+) GiB\)"
            r"(?:.*?estimated maximum model length is (?P<estimate>\d+))?"
        ),
        _shorter_context,
    ),
    _Rule(
        "context-exceeds-kv-cache",
        re.compile(
            r"max seq len \((?P<wanted>\d+)\) is larger than the maximum number of tokens"
            r" that can be stored in KV cache \((?P<estimate>\d+)\)"
        ),
        _shorter_context,
    ),
    _Rule("no-room-for-kv-cache", re.compile(r"No available memory for the cache blocks")),
    _Rule(
        "graphs-exceed-memory",
        re.compile(rf"{_OOM} occurred when warming up sampler with (?P<seqs>\d+) dummy requests"),
        _fewer_chats,
    ),
    # Where in the start memory ran out says which term is too large. The last stage comes first.
    _Rule(
        "memory-ran-out-serving",
        re.compile(rf"Application startup complete.*{_OOM}", re.DOTALL),
    ),
    _Rule(
        "graphs-exceed-memory",
        re.compile(
            r"(?:Capturing CUDA graph|Profiling CUDA graph|in capture_model|_dummy_sampler_run)"
            rf".*{_OOM}",
            re.DOTALL,
        ),
    ),
    _Rule(
        "no-room-to-compile",
        re.compile(rf"Failed to run autotuning code block: {_OOM}\.?{_NEEDS}"),
    ),
    _Rule(
        "kv-cache-exceeds-memory",
        re.compile(rf"in allocate_kv_cache.*?{_OOM}\.?{_NEEDS}", re.DOTALL),
    ),
    _Rule(
        "activations-exceed-memory",
        re.compile(rf"Model loading took.*{_OOM}", re.DOTALL),
    ),
    _Rule("weights-exceed-memory", re.compile(_OOM)),
    _Rule(
        "hub-license-not-accepted",
        re.compile(
            r"gated repo|GatedRepoError|Access to model (?P<repository>\S+) is restricted"
            r"|(?:401|403) Client Error.*huggingface"
        ),
    ),
    _Rule("act-order-refused", re.compile(r"\(desc_act=True\) is no longer\s+supported")),
    _Rule(
        "quantization-unsupported",
        re.compile(
            r"(?P<what>Unsupported quantization config: [^\n[]+|Unknown quantization method[^\n]*"
            r"|Cannot find the config file for \w+"
            r"|does not match the quantization method specified in the `quantization` argument)"
        ),
        lambda words: {"what": f"vLLM says: {words['what'].strip().rstrip('.')}."},
    ),
    _Rule(
        "bfloat16-unsupported",
        re.compile(
            r"Bfloat16 is only supported on GPUs\s+with compute capability of at least 8\.0\."
            r"(?: Your (?P<card>.+?) GPU)?"
        ),
    ),
    _Rule(
        "card-too-old-for-quantization",
        re.compile(
            r"is not supported for the current GPU\. *\s*(?:Minimum|Min|Required) capability:"
            r" (?P<least>\d+)\.\s+Current capability: (?P<has>\d+)"
        ),
    ),
    _Rule(
        "fp8-kv-cache-unsupported",
        re.compile(r"FP8 KV cache[^\n]*requires SM89\+|an FP8 KV cache needs native fp8e4nv"),
    ),
    _Rule("card-too-old", re.compile(r"no kernel image is available for execution on the device")),
    _Rule(
        "architecture-unknown",
        re.compile(r"Model architectures (?P<names>\[[^\]]*\]) are not supported for now"),
    ),
    _Rule(
        "parser-not-for-tokenizer",
        re.compile(
            r"(?P<complaint>"
            r"--(?:tool-call|reasoning)-parser \S+(?: and --reasoning-parser \S+)?"
            r" cannot be used with the tokenizer of '[^']*': [^\n]+"
            r"|(?:--(?:tool-call|reasoning)-parser \S+ ?)+requires `response_template` metadata"
            r"|--reasoning-parser \S+ and --tool-call-parser \S+ cannot be combined"
            r"|The Cohere Command parser requires the `cohere_melody` package"
            # Without the words around it: vLLM before it checked this at the start.
            r"|[^\n:]*could not locate[^\n]*(?:token|tag)[^\n]* in the tokenizer[^\n]*)"
        ),
        _parser_settings,
    ),
    _Rule(
        "parser-unknown",
        re.compile(
            r"(?P<complaint>invalid (?:tool call|reasoning) parser: [^\s']+"
            r"|requires tool_parser:'[^']+' which has not been registered"
            r"|reasoning_parser_name='[^']+' has not been registered)"
        ),
        _parser_settings,
    ),
    _Rule("chat-template-missing", re.compile(r"default chat template is no longer\s+allowed")),
    # What runs, but not as it should: only where nothing above stopped the start.
    _Rule(
        "gptq-kernel-slow",
        re.compile(
            r"so forcing gptq\. Use quantization=gptq_marlin"
            r"|gptq quantization is not fully optimized yet"
        ),
    ),
)


# Every failure that a log can tell of, in the order in which they are looked for.
IDENTIFIERS: t.Final = tuple(dict.fromkeys(rule.id for rule in _RULES))


# --- reading ----------------------------------------------------------------------------------

# Every vLLM prints this once, early in each start; a service's log holds many starts.
_START = "non-default args:"


def _last_start(log_text: str) -> str:
    at = log_text.rfind(_START)
    return log_text if at < 0 else log_text[at:]


def _word(pattern: str, log: str) -> str | None:
    found = re.search(pattern, log)
    return found[1] if found else None


def _number(pattern: str, log: str) -> float | None:
    word = _word(pattern, log)
    return None if word is None else float(word)


def _count(pattern: str, log: str) -> int | None:
    word = _word(pattern, log)
    return None if word is None else int(word.replace(",", ""))
