# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM's log says: why a start failed, and what a good start took.

Standard library only, and no import from Ansible: the supervisor of the service on the host
imports this file too, to put the cause into ``systemctl status``.

Texts were taken from vLLM 0.26 and 0.32 as released, and from public reports of older versions
where the wording differed; docs/when-vllm-does-not-start.md lists the identifiers.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Explanation:
    """A known failure, in words for the person who has to fix it."""

    id: str
    title: str
    cause: str
    remedy: str


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


def explain(log_text: str) -> Explanation | None:
    """Name the failure of the last start in the log; None if it is not a known one.

    What stopped the start is preferred to what only slowed it.
    """
    log = _last_start(log_text)
    for rule in _RULES:
        found = rule.pattern.search(log)
        if found:
            return rule.explained(found)
    return None


# --- one failure each -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """A text of vLLM's, and what it means. Braces are filled from the pattern's named groups."""

    id: str
    title: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    also: Callable[[re.Match[str]], dict[str, t.Any]] = lambda _found: {}

    def explained(self, found: re.Match[str]) -> Explanation:
        words = found.groupdict(default="") | self.also(found)
        return Explanation(
            self.id, self.title, self.cause.format(**words), self.remedy.format(**words)
        )


_HEADROOM_GIB = 0.1  # a desktop's own use changes by this much from minute to minute
_CONTEXT_STEP = 256  # a number that people can read, never more than vLLM's estimate


def _utilization_that_fits(found: re.Match[str]) -> dict[str, t.Any]:
    free, total = float(found["free"]), float(found["total"])
    return {"fits": math.floor(max(0.0, free - _HEADROOM_GIB) / total * 100) / 100}


def _shorter_context(found: re.Match[str]) -> dict[str, t.Any]:
    """Take the longest context that vLLM itself says would fit, rounded down."""
    longest = int(found["estimate"] or 0) // _CONTEXT_STEP * _CONTEXT_STEP
    value = f"model_context: {longest}" if longest else "a shorter model_context"
    return {"setting": value}


def _fewer_chats(found: re.Match[str]) -> dict[str, t.Any]:
    return {"fewer": max(1, min(16, int(found["seqs"]) // 2))}


def _parser_variables(found: re.Match[str]) -> dict[str, t.Any]:
    """Name the variables of the parsers that a message is about."""
    words = found[0]
    variables = [
        variable
        for variable, mark in (
            ("model_tool_call_parser", r"tool[-_ ](?:call[-_ ])?parser"),
            ("model_reasoning_parser", r"reasoning[-_ ]parser"),
        )
        if re.search(mark, words, re.IGNORECASE)
    ]
    settings = (f"{variable}: auto" for variable in variables or ["model_tool_call_parser"])
    return {"settings": " and ".join(settings)}


_OOM = r"(?:CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED)"
_NEEDS = r"(?: Tried to allocate (?P<wanted>[\d.]+ [KMG]iB))?"

_RULES: t.Final = (
    _Rule(
        "no-gpu-seen",
        "vLLM sees no GPU",
        re.compile(r"Failed to infer device type|No CUDA GPUs are available"),
        "The container was started without the GPU, or lost it.",
        "Run `nvidia-smi` on the host; if it works, run the play again so that the container is"
        " made anew with its GPU.",
    ),
    _Rule(
        "driver-too-old",
        "The NVIDIA driver is too old for this image",
        re.compile(
            r"driver on your system is too old \(found version (?P<found>\d+)\)"
            r"|unsatisfied condition: cuda\s*>=\s*(?P<wants>[\d.]+)"
            r"|CUDA driver version is insufficient"
        ),
        "The image needs a newer CUDA than the driver offers.",
        "Install the driver branch that the role nvidia_driver installs by default, and reboot;"
        " or choose an older vllm_image.",
    ),
    _Rule(
        "shared-memory-too-small",
        "The container's shared memory is too small",
        re.compile(
            r"Insufficient space in /dev/shm for shared-memory allocation:"
            r" (?P<need>[\d.]+ \w+) required, (?P<have>[\d.]+ \w+) free"
        ),
        "vLLM needs {need} in /dev/shm, there are {have}.",
        "Set vllm_shm_size: 4g",
    ),
    _Rule(
        "memory-held-by-others",
        "Something else holds GPU memory",
        re.compile(
            r"Free memory on device[^(]*\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup"
            r" is less than desired GPU memory utilization"
            r" \((?P<wanted>[\d.]+)(?:, (?P<budget>[\d.]+) GiB)?\)"
        ),
        "{free} GiB of {total} GiB were free, vLLM was told to take {wanted} of the card."
        " A desktop session, a game or an older engine holds the rest.",
        "Run `nvidia-smi` to see which process holds memory and end it; or set"
        " gpu-memory-utilization: {fits} in vllm_arguments",
        _utilization_that_fits,
    ),
    _Rule(
        "memory-changed-while-measuring",
        "GPU memory changed hands while vLLM measured it",
        re.compile(r"Error in memory profiling\.? Initial free memory (?P<free>[\d.]+)"),
        "Another process gave back GPU memory during the start, so vLLM's own measurement failed.",
        "Start the service again; if it recurs, end the other process that `nvidia-smi` shows.",
    ),
    _Rule(
        "context-exceeds-model",
        "The context is longer than the model's",
        re.compile(
            r"max_model_len \((?P<wanted>\d+)\) is greater than the derived max_model_len"
            r" \(\w+=(?P<native>\d+)"
        ),
        "model_context is {wanted}, the model was made for {native} tokens.",
        "Set model_context: {native}, or choose a model with a longer context:"
        " docs/what-fits.md lists them.",
    ),
    _Rule(
        "context-exceeds-kv-cache",
        "One full-length chat does not fit into the KV cache",
        re.compile(
            r"max seq len \((?P<wanted>\d+)\)[, ]+\(?(?P<need>[\d.]+) GiB KV\s+cache is needed"
            r".*?available KV cache\s+memory \((?P<have>[\d.]+) GiB\)"
            r"(?:.*?estimated maximum model length is (?P<estimate>\d+))?"
        ),
        "A chat of {wanted} tokens needs {need} GiB of KV cache, there are {have} GiB.",
        "Set {setting}, or choose a smaller model or one in INT4.",
        _shorter_context,
    ),
    _Rule(
        "context-exceeds-kv-cache",
        "One full-length chat does not fit into the KV cache",
        re.compile(
            r"max seq len \((?P<wanted>\d+)\) is larger than the maximum number of tokens"
            r" that can be stored in KV cache \((?P<estimate>\d+)\)"
        ),
        "A chat may have {wanted} tokens, the KV cache holds {estimate}.",
        "Set {setting}, or choose a smaller model or one in INT4.",
        _shorter_context,
    ),
    _Rule(
        "no-room-for-kv-cache",
        "No memory is left for the KV cache",
        re.compile(r"No available memory for the cache blocks"),
        "Weights and working memory use all that vLLM may take.",
        "Choose a smaller model or one in INT4, or lower model_max_num_seqs; raise"
        " gpu-memory-utilization in vllm_arguments only if `nvidia-smi` shows memory that nobody"
        " uses.",
    ),
    _Rule(
        "graphs-exceed-memory",
        "Memory ran out while warming up",
        re.compile(rf"{_OOM} occurred when warming up sampler with (?P<seqs>\d+) dummy requests"),
        "vLLM rehearsed {seqs} chats at once, and the card has no room for so many.",
        "Set model_max_num_seqs: {fewer}; if that is not enough, model_enforce_eager: true.",
        _fewer_chats,
    ),
    # Where in the start memory ran out says which term is too large. The last stage comes first.
    _Rule(
        "memory-ran-out-serving",
        "Memory ran out while serving",
        re.compile(rf"Application startup complete.*{_OOM}{_NEEDS}", re.DOTALL),
        "The card had no room left for a request. Another program took memory after the start, or"
        " the working memory was planned too small.",
        "Run `nvidia-smi` to see who else holds memory; or set model_reserve_mib: 512 and run the"
        " play again: the plan is then made with a smaller KV cache.",
    ),
    _Rule(
        "graphs-exceed-memory",
        "Memory ran out while making CUDA graphs",
        re.compile(
            r"(?:Capturing CUDA graph|Profiling CUDA graph|in capture_model|_dummy_sampler_run)"
            rf".*{_OOM}{_NEEDS}",
            re.DOTALL,
        ),
        "CUDA graphs take memory on top of weights and KV cache, more for more chats at once.",
        "Set model_max_num_seqs: 8; if that is not enough, model_enforce_eager: true (slower, but"
        " without graphs).",
    ),
    _Rule(
        "no-room-to-compile",
        "Memory ran out while vLLM compiled the model",
        re.compile(rf"Failed to run autotuning code block: {_OOM}{_NEEDS}"),
        "To try its kernels, the compiler makes itself another embedding of {wanted}, beside the"
        " weights; the KV cache gets that place only afterwards.",
        "Free what `nvidia-smi` shows that other programs hold; or set model_enforce_eager: true"
        " (slower answers, nothing is compiled); or choose a smaller model.",
    ),
    _Rule(
        "kv-cache-exceeds-memory",
        "Memory ran out while making the KV cache",
        re.compile(rf"in allocate_kv_cache.*?{_OOM}{_NEEDS}", re.DOTALL),
        "The KV cache is one piece of {wanted}, and the card does not have it free any more:"
        " another program took memory since the plan was made, or the environment of the engine"
        " overrides PYTORCH_CUDA_ALLOC_CONF, without which the compiler's scratch stays in the"
        " way.",
        "End what `nvidia-smi` shows that other programs hold; or set model_reserve_mib: 768 and"
        " run the play again: the plan is then made with a smaller KV cache.",
    ),
    _Rule(
        "activations-exceed-memory",
        "Memory ran out in the trial run",
        re.compile(rf"Model loading took.*{_OOM}{_NEEDS}", re.DOTALL),
        "The weights fit, the working memory for a full batch does not.",
        "Set model_reserve_mib: 512 and run the play again: the plan is then made with a smaller KV"
        " cache. Smaller batches alone do not help: the plan gives what they save to the KV cache.",
    ),
    _Rule(
        "weights-exceed-memory",
        "The weights do not fit into the card's memory",
        re.compile(_OOM + _NEEDS),
        "The model is larger than the free memory of the card.",
        "Choose a smaller model or one in INT4: `ansible-playbook sparerig.llm.fit` lists what"
        " fits.",
    ),
    _Rule(
        "model-is-gated",
        "The model may not be downloaded without permission",
        re.compile(
            r"gated repo|GatedRepoError|Access to model (?P<repository>\S+) is restricted"
            r"|(?:401|403) Client Error.*huggingface"
        ),
        "Its license was not accepted on its page, or no token was given.",
        "Accept the license on the model's page, put a token into model_token (vaulted),"
        " and run the play again; or choose a model that is not gated.",
    ),
    _Rule(
        "act-order-refused",
        "This GPTQ file was made with act-order",
        re.compile(r"\(desc_act=True\) is no longer\s+supported"),
        "vLLM 0.30 and later refuses GPTQ files with desc_act true and a group size.",
        "Choose a copy of the model made with desc_act false; the catalogue holds only such.",
    ),
    _Rule(
        "quantization-unsupported",
        "vLLM cannot run this quantisation",
        re.compile(
            r"Unsupported quantization config: (?P<what>[^\n[]+)"
            r"|(?P<unknown>Unknown quantization method[^\n]*)"
            r"|Cannot find the config file for (?P<forced>\w+)"
            r"|does not match the quantization method specified in the `quantization` argument"
        ),
        "The files of the model and the wanted quantisation do not go together."
        " {what}{unknown}{forced}",
        "Remove quantization from vllm_arguments if it is there: vLLM reads the method from the"
        " model. Else choose another copy of the model, or the vllm_image that served it before.",
    ),
    _Rule(
        "gpu-too-old",
        "The card cannot calculate in bfloat16",
        re.compile(
            r"Bfloat16 is only supported on GPUs\s+with compute capability of at least 8\.0\."
            r"(?: Your (?P<card>.+?) GPU)?"
        ),
        "{card} has a compute capability below 8.0.",
        "Set dtype: half in vllm_arguments",
    ),
    _Rule(
        "gpu-too-old",
        "The card is too old for this quantisation",
        re.compile(
            r"is not supported for the current GPU\. *\s*(?:Minimum|Min|Required) capability:"
            r" (?P<least>\d+)\.\s+Current capability: (?P<has>\d+)"
        ),
        "The quantisation needs compute capability {least}, the card has {has} (both times ten).",
        "Choose a model in GPTQ or AWQ INT4: `ansible-playbook sparerig.llm.fit` lists what runs.",
    ),
    _Rule(
        "fp8-kv-cache-unsupported",
        "The card cannot keep its KV cache in FP8",
        re.compile(r"FP8 KV cache[^\n]*requires SM89\+|an FP8 KV cache needs native fp8e4nv"),
        "An FP8 KV cache needs compute capability 8.9.",
        "Set model_kv_cache_dtype: auto",
    ),
    _Rule(
        "gpu-too-old",
        "The card is too old for this vLLM",
        re.compile(r"no kernel image is available for execution on the device"),
        "vLLM 0.20 and later is built for compute capability 7.5 and newer.",
        "This card cannot serve with this image; a card from the RTX 20 series on can.",
    ),
    _Rule(
        "architecture-unknown",
        "vLLM does not know this kind of model",
        re.compile(r"Model architectures (?P<names>\[[^\]]*\]) are not supported for now"),
        "The config.json names {names}.",
        "Choose another model, or a newer vllm_image that knows it.",
    ),
    _Rule(
        "parser-not-for-tokenizer",
        "A parser does not go with the model's tokenizer",
        re.compile(
            r"(?P<flags>--(?:tool-call|reasoning)-parser \S+(?: and --reasoning-parser \S+)?)"
            r" cannot be used with the tokenizer of '(?P<model>[^']*)': (?P<reason>[^\n]+)"
            r"|(?P<needs>(?:--(?:tool-call|reasoning)-parser \S+ ?)+requires `response_template`"
            r" metadata)"
            r"|(?P<pair>--reasoning-parser \S+ and --tool-call-parser \S+ cannot be combined)"
            r"|(?P<package>The Cohere Command parser requires the `cohere_melody` package)"
            # Without the words around it: vLLM before it checked this at the start.
            r"|(?P<own>[^\n:]*could not locate[^\n]*(?:token|tag)[^\n]* in the tokenizer[^\n]*)"
        ),
        "vLLM was told {flags}{needs}{pair}{package}{own} {reason}. The model was made to write"
        " calls or thoughts in another way than this parser reads.",
        "Set {settings}, and run the play again: then the parser follows from the model.",
        _parser_variables,
    ),
    _Rule(
        "parser-unknown",
        "This vLLM knows no parser of that name",
        re.compile(
            r"invalid (?P<kind>tool call|reasoning) parser: (?P<name>\S+)"
            r"|requires tool_parser:'(?P<tool>[^']+)' which has not been registered"
            r"|reasoning_parser_name='(?P<reasoning>[^']+)' has not been registered"
        ),
        "The parser {name}{tool}{reasoning} is misspelt, or of another version of vLLM.",
        "Set {settings}, and run the play again: then the parser follows from the model.",
        _parser_variables,
    ),
    _Rule(
        "no-chat-template",
        "The model has no chat template",
        re.compile(r"default chat template is no longer\s+allowed"),
        "The tokenizer defines no template, so chats are refused.",
        "Give one as chat-template in vllm_arguments, or choose the model's Instruct version.",
    ),
    # What runs, but not as it should: only where nothing above stopped the start.
    _Rule(
        "gptq-kernel-slow",
        "GPTQ runs on its slow kernel",
        re.compile(
            r"so forcing gptq\. Use quantization=gptq_marlin"
            r"|gptq quantization is not fully optimized yet"
        ),
        "--quantization gptq was given, which keeps vLLM up to 0.21 from its faster Marlin kernel.",
        "Remove quantization from vllm_arguments.",
    ),
)

IDENTIFIERS: t.Final = frozenset(rule.id for rule in _RULES)


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
