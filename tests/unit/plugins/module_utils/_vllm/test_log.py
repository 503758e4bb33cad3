# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures are named, and figures read, from what vLLM writes."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    FAILURES as REGISTRY,
)
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import log as vllm_log
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import (
    IDENTIFIERS,
    Observed,
    explain,
    observed,
)

if t.TYPE_CHECKING:
    from pathlib import Path

LOADED = "INFO [gpu_model_runner.py:5150] Model loading took 5.35 GiB memory and 2.1 seconds\n"
OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total"
    " capacity of 11.63 GiB of which 101.00 MiB is free."
)

# (what vLLM writes, the identifier, what the remedy must name)
FAILURES = [
    (
        "RuntimeError: Failed to infer device type, please set ...",
        "container-without-gpu",
        "nvidia-smi",
    ),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12080).",
        "driver-too-old-for-image",
        "nvidia_driver_branch",
    ),
    (
        (
            "TypeError: --tool-call-parser llama3_json and --reasoning-parser qwen3 cannot be used"
            " with the tokenizer of '/models/a': Llama3JsonToolParser could not locate the bot"
            " token '<|python_tag|>' in the tokenizer."
        ),
        "parser-not-for-tokenizer",
        "model_tool_call_parser: auto and model_reasoning_parser: auto",
    ),
    (  # by name alone, as vLLM said it before it checked at the start
        "RuntimeError: Mistral parser could not locate the tool call token in the tokenizer!",
        "parser-not-for-tokenizer",
        "model_tool_call_parser: auto",
    ),
    (
        (
            "RuntimeError: DeepSeekR1ReasoningParser reasoning parser could not locate think"
            " start/end tokens in the tokenizer!"
        ),
        "parser-not-for-tokenizer",
        "Set model_reasoning_parser: auto,",
    ),
    (
        (
            "TypeError: --reasoning-parser hf requires `response_template` metadata in the"
            " tokenizer configuration"
        ),
        "parser-not-for-tokenizer",
        "Set model_reasoning_parser: auto,",
    ),
    (
        "TypeError: --reasoning-parser hf and --tool-call-parser hermes cannot be combined",
        "parser-not-for-tokenizer",
        "model_tool_call_parser: auto and model_reasoning_parser: auto",
    ),
    (
        "KeyError: 'invalid reasoning parser: r1 (chose from { deepseek_r1,qwen3 })'",
        "parser-unknown",
        "Set model_reasoning_parser: auto,",
    ),
    (
        "TypeError: reasoning_parser_name='r1' has not been registered",
        "parser-unknown",
        "Set model_reasoning_parser: auto,",
    ),
    (
        (
            "ValueError: Free memory on device cuda:0 (10.41/11.63 GiB) on startup is less than"
            " desired GPU memory utilization (0.92, 10.7 GiB). Decrease GPU memory utilization or"
            " reduce GPU memory used by other processes."
        ),
        "memory-held-by-others",
        "model_max_num_seqs",
    ),
    (  # 0.9 to 0.10: no device name
        (
            "ValueError: Free memory on device (6.2/11.63 GiB) on startup is less than desired GPU"
            " memory utilization (0.9, 10.47 GiB). Decrease GPU memory utilization or reduce GPU"
            " memory used by other processes."
        ),
        "memory-held-by-others",
        "model_context",
    ),
    (
        (
            "AssertionError: Error in memory profiling. Initial free memory 10.2 GiB, current free"
            " memory 10.9 GiB. This happens when other processes sharing the same container release"
            " GPU memory while vLLM is profiling during initialization."
        ),
        "memory-changed-while-measuring",
        "nvidia-smi",
    ),
    (
        (
            "Value error, User-specified max_model_len (16384) is greater than the derived"
            " max_model_len (max_position_embeddings=8192.0 or model_max_length=None in model's"
            " config.json). To allow overriding this maximum, set the env var"
            " VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
        ),
        "context-exceeds-model",
        "model_context: 8192",
    ),
    (
        (
            "ValueError: To serve at least one request with the model's max seq len (8192), (1.0"
            " GiB KV cache is needed, which is larger than the available KV cache memory (0.41"
            " GiB). Based on the available memory, the estimated maximum model length is 3344. Try"
            " increasing `gpu_memory_utilization`"
        ),
        "context-exceeds-kv-cache",
        "model_context: 3328",
    ),
    (  # before 0.32
        (
            "ValueError: To serve at least one request with the models's max seq len (40960),"
            " (5.62 GiB KV cache is needed, which is larger than the available KV cache memory"
            " (0.01 GiB). Based on the available memory, the estimated maximum model length is 80."
        ),
        "context-exceeds-kv-cache",
        "model_context: a lower number",
    ),
    (  # up to 0.8
        (
            "ValueError: The model's max seq len (131072) is larger than the maximum number of"
            " tokens that can be stored in KV cache (89440). Try increasing"
            " `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        ),
        "context-exceeds-kv-cache",
        "model_context: 89344",
    ),
    (
        (
            "ValueError: No available memory for the cache blocks. Try increasing"
            " `gpu_memory_utilization` when initializing the engine."
        ),
        "no-room-for-kv-cache",
        "INT4",
    ),
    (
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy"
            " requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when"
            " initializing the engine."
        ),
        "graphs-exceed-memory",
        "model_max_num_seqs: 16",
    ),
    (
        LOADED
        + "RuntimeError: CUDA out of memory occurred when warming up sampler with 8 dummy requests",
        "graphs-exceed-memory",
        "model_max_num_seqs: 4",
    ),
    (
        LOADED + "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  41%|####\n" + OOM,
        "graphs-exceed-memory",
        "model_enforce_eager: true",
    ),
    (
        LOADED + "INFO:     Application startup complete.\n" + OOM,
        "memory-ran-out-serving",
        "nvidia-smi",
    ),
    (LOADED + OOM, "activations-exceed-memory", "model_reserve_mib: 768"),
    (OOM, "weights-exceed-memory", "docs/what-fits.md"),
    (
        (
            "OSError: You are trying to access a gated repo.\nMake sure to have access to it at"
            " ...\n401 Client Error. (Request ID: Root=1)\n\nCannot access gated repo for url ..."
        ),
        "hub-license-not-accepted",
        "model_token",
    ),
    (
        (
            "ValueError: GPTQ group activation ordering (desc_act=True) is no longer supported."
            " Use a checkpoint with static activation ordering or desc_act=False."
        ),
        "act-order-refused",
        "desc_act false",
    ),
    (
        "Value error, Unsupported quantization config: bits=3, sym=True",
        "quantization-unsupported",
        "quantization from vllm_arguments",
    ),
    (
        "Value error, Cannot find the config file for gptq",
        "quantization-unsupported",
        "quantization from vllm_arguments",
    ),
    (
        (
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least"
            " 8.0. Your NVIDIA GeForce RTX 2080 Ti GPU has compute capability 7.5. You can use"
            " float16 instead by explicitly setting the `dtype` flag in CLI, for example:"
            " --dtype=half."
        ),
        "bfloat16-unsupported",
        "dtype: half in vllm_arguments",
    ),
    (
        (
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum"
            " capability: 75. Current capability: 61."
        ),
        "card-too-old-for-quantization",
        "INT4",
    ),
    (
        (
            "RuntimeError: Quantization scheme is not supported for the current GPU. Min"
            " capability: 80. Current capability: 75."
        ),
        "card-too-old-for-quantization",
        "INT4",
    ),
    (
        (
            "ValueError: FP8 KV cache is not supported by the Triton attention backend on NVIDIA"
            " GeForce RTX 3060 (compute capability 8.6); native FP8 (fp8e4nv) requires SM89+."
        ),
        "fp8-kv-cache-unsupported",
        "model_kv_cache_dtype: auto",
    ),
    (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "card-too-old",
        "GTX 16 or RTX",
    ),
    (
        "Value error, Model architectures ['Zephyr9ForCausalLM'] are not supported for now.",
        "architecture-unknown",
        "vllm_image",
    ),
    (
        (
            "As of transformers v4.44, default chat template is no longer allowed, so you must"
            " provide a chat template if the tokenizer does not define one."
        ),
        "chat-template-missing",
        "chat-template in vllm_arguments",
    ),
    (
        (
            "INFO gptq_marlin.py:112] Detected that the model can run with gptq_marlin, however"
            " you specified quantization=gptq explicitly, so forcing gptq. Use"
            " quantization=gptq_marlin for faster inference"
        ),
        "gptq-kernel-slow",
        "quantization from vllm_arguments",
    ),
]


@pytest.mark.parametrize(
    ("log", "identifier", "remedy"),
    FAILURES,
    ids=[f"{n}-{row[1]}" for n, row in enumerate(FAILURES)],
)
def test_a_failure_has_a_name_and_a_remedy(log: str, identifier: str, remedy: str) -> None:
    found = explain("INFO something before\n" + log + "\nINFO something after\n")
    assert found is not None
    assert found.id == identifier
    said = describe(found.id, found.words)
    assert remedy in said.remedy
    assert said.cause
    assert "{" not in said.cause + said.remedy


def test_whole_logs_of_failed_starts(fixtures: Path) -> None:
    logs = sorted((fixtures / "vllm_log").glob("*.log"))
    found = {log.stem: explain(log.read_text()) for log in logs}
    assert {name: explanation and explanation.id for name, explanation in found.items()} == {
        log.stem: log.stem for log in logs
    }
    assert len(logs) >= 5
    small = found["shared-memory-too-small"]
    assert small is not None
    assert describe(small.id, small.words).cause.startswith(
        "vLLM needs 160 MiB in /dev/shm, there are 64 MiB. "
    )


@pytest.mark.parametrize(
    ("identifier", "figures"),
    [
        ("memory-held-by-others", "10.41 GiB of 11.63 GiB were free"),
        ("context-exceeds-model", "16384 tokens, the model was made for 8192"),
        ("context-exceeds-kv-cache", "needs 1.0 GiB of KV cache, there are 0.41"),
        ("graphs-exceed-memory", "rehearsed 1024 chats"),
        ("quantization-unsupported", "config: bits=3, sym=True"),
        ("bfloat16-unsupported", "NVIDIA GeForce RTX 2080 Ti"),
        ("card-too-old-for-quantization", "capability 75, the card has 61"),
        ("architecture-unknown", "['Zephyr9ForCausalLM']"),
        ("parser-unknown", "vLLM says: invalid reasoning parser: r1."),
        ("parser-not-for-tokenizer", "could not locate the bot token '<|python_tag|>' in the"),
    ],
)
def test_the_figures_of_the_log_are_said(identifier: str, figures: str) -> None:
    founds = [explain(log) for log, expected, _remedy in FAILURES if expected == identifier]
    said = [describe(found.id, found.words).cause for found in founds if found]
    assert any(figures in cause for cause in said), said


def test_memory_is_not_asked_back_from_what_the_plan_gives_away() -> None:
    """With a plan the KV cache gets what other settings save; only its reserve leaves room."""
    for name in ("memory-ran-out-serving", "activations-exceed-memory", "kv-cache-exceeds-memory"):
        remedy = describe(name).remedy
        assert "`nvidia-smi`" in remedy
        assert "model_reserve_mib: " in remedy
    assert not [
        failure.id
        for failure in REGISTRY.values()
        if "vllm_gpu_memory_utilization" in failure.cause + failure.remedy.advice
    ]


def test_every_identifier_is_in_the_registry() -> None:
    assert set(IDENTIFIERS) <= REGISTRY.keys()


@pytest.mark.parametrize("log", ["", "INFO nothing of note\n", LOADED])
def test_a_good_log_is_not_explained(log: str) -> None:
    assert explain(log) is None


def test_only_the_last_start_counts() -> None:
    log = f"INFO non-default args: {{}}\n{OOM}\nINFO non-default args: {{}}\n{LOADED}"
    assert explain(log) is None
    assert observed(log).weights_gib == pytest.approx(5.35)


def test_what_stops_a_start_is_told_before_what_slows_it() -> None:
    slow = FAILURES[-1][0]
    found = explain(f"{slow}\nNo available memory for the cache blocks")
    assert found is not None
    assert found.id == "no-room-for-kv-cache"


def test_figures_of_recorded_starts(fixtures: Path) -> None:
    starts = (fixtures / "vllm_log" / "starts-0.26.0.jsonl").read_text().splitlines()
    logs = {start["tag"]: "\n".join(start["log"]) for start in map(json.loads, starts)}
    kernel = "MacheteLinearKernel"
    assert {tag: observed(log) for tag, log in logs.items()} == {
        "allow16k": Observed(5.35, None, None, 1.01, 4.08, 33376, 16384, kernel),
        "fp16_24": Observed(14.96, None, None, 0.98, 5.21, 42704, 8192, None),
        "gptq12": Observed(5.35, None, None, 1.01, 4.34, 35504, 8192, kernel),
        "int8_12": Observed(8.62, None, None, 1.01, 1.06, 8672, 8192, kernel),
        "marlin12": Observed(5.35, None, None, 1.01, 4.08, 33376, 8192, kernel),
        "yarn16k": Observed(5.35, None, None, 1.01, 4.07, 33360, 16384, kernel),
    }


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (  # one line since 0.32
            (
                "GPU KV cache size: 33,376 tokens, Maximum concurrency for 8,192 tokens per"
                " request: 4.07x"
            ),
            Observed(kv_cache_tokens=33376, max_model_len=8192),
        ),
        ("CPU KV cache size: 1,024 tokens", Observed(kv_cache_tokens=1024)),
        (
            (
                "Initial free memory 11.2 GiB, reserved 3.5 GiB memory for KV Cache as specified by"
                " kv_cache_memory_bytes config and skipped memory profiling."
            ),
            Observed(kv_cache_gib=3.5),
        ),
        (
            (
                "Actual usage is 5.35 GiB for weight, 1.1 GiB for peak activation, 0.22 GiB for"
                " non-torch memory, and 1.01 GiB for CUDAGraph memory."
            ),
            Observed(activation_gib=1.1, non_torch_gib=0.22),
        ),
        ("Model loading took 14.9889 GiB and 3.9 seconds", Observed(weights_gib=14.9889)),
        ("nothing", Observed()),
    ],
)
def test_figures_in_every_wording(log: str, expected: Observed) -> None:
    assert observed(log) == expected


def test_the_supervisor_can_import_it_without_ansible() -> None:
    program = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('v', {vllm_log.__file__!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['v'] = module;"
        "spec.loader.exec_module(module);"
        "print(module.explain('No available memory for the cache blocks').id);"
        "print([name for name in sys.modules if 'ansible' in name])"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    assert said.stdout.splitlines() == ["no-room-for-kv-cache", "[]"]
