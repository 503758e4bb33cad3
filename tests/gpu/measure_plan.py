# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold the memory plan against real vLLM on a real GPU.

For each case: a model directory is made (config.json and a tokenizer; weights are random), the
plan for a card of the case's size is worked out, vLLM is started with the plan's flags and
PyTorch's memory capped to that card's, full-length chats fill the KV cache, and what vLLM and the
driver say is printed beside the plan, one JSON object per line. Several cases share a large GPU:
with the KV cache's size given, vLLM measures nothing that a neighbour could disturb, except the
CUDA graphs, of which --parallel 1 gives the truth.

    PYTHONPATH=collections python3 tests/gpu/measure_plan.py --out measured

Needs vLLM, an NVIDIA GPU with at least 24 GiB and nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._memory.comparison import Actual, compare
from ansible_collections.sparerig.llm.plugins.module_utils._memory.report import result
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    GIB,
    MIB,
    Card,
    Plan,
    Use,
    plan,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import parse
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.arguments import command_line
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import explain, observed
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.metrics import cache_config

HERE = Path(__file__).parent
START_LIMIT_S = 420
ANSWER_TOKENS = 32
TOKENS = 30_000  # ids that the tokenizer of every case knows

# --- cases ------------------------------------------------------------------------------------

# vLLM takes a GPTQ model with random weights for unquantised unless its modules are listed.
GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
    "modules_in_block_to_quantize": [
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    ],
}
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": ["lm_head"],
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def compressed(bits: int) -> dict[str, t.Any]:
    """Make a compressed-tensors config: INT4 weights in groups, or INT8 weights and activations."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    by_token = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
    }
    int4 = bits == 4
    how = {"strategy": "group", "group_size": 128} if int4 else {"strategy": "channel"}
    group = {
        "targets": ["Linear"],
        "weights": weights | how,
        "input_activations": None if int4 else by_token,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if int4 else "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def base(catalogue_id: str) -> dict[str, t.Any]:
    """Take a model's dimensions from the catalogue."""
    config = dict(catalogue.find(catalogue_id).config)
    config.pop("quantization_config", None)
    return config


LLAMA = base("llama-3-8b")
GEMMA_2_9B = {
    "architectures": ["Gemma2ForCausalLM"],
    "num_hidden_layers": 42,
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "torch_dtype": "bfloat16",
}
GEMMA_3_4B = {
    "architectures": ["Gemma3ForCausalLM"],
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    **base("gemma-3-4b")["text_config"],
    "torch_dtype": "bfloat16",
}
MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model on a card of one size."""

    name: str
    config: dict[str, t.Any]
    quantization: dict[str, t.Any] | None
    gib: int
    use: Use = dataclasses.field(default_factory=Use)

    @property
    def full_config(self) -> dict[str, t.Any]:
        """Its config.json."""
        config = {"model_type": MODEL_TYPES[self.config["architectures"][0]], **self.config}
        config |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
        if self.quantization:
            config["quantization_config"] = self.quantization
        return config

    @property
    def title(self) -> str:
        """What tells it apart."""
        return f"{self.name}-{self.gib}GiB"


SHORT = Use(context=4096)
# The first runs alone. Then in an order that fills 80 GiB well.
CASES = (
    Case("llama-3-8b-gptq-int4", LLAMA, GPTQ, 12),
    Case("llama-3-8b-fp16", LLAMA, None, 24),
    Case("llama-3-8b-gptq-int8", LLAMA, {**GPTQ, "bits": 8}, 12),
    Case("llama-3-8b-gptq-int4", LLAMA, GPTQ, 16),
    Case("llama-3-8b-gptq-int4", LLAMA, GPTQ, 8, SHORT),
    Case("gemma-2-9b-bf16", GEMMA_2_9B, None, 24),
    Case("qwen3-8b-awq-int4", base("qwen3-8b"), AWQ, 12),
    Case("qwen2.5-7b-gptq-int4", base("qwen2.5-7b-awq"), GPTQ, 12),
    Case("qwen3-8b-fp8", base("qwen3-8b"), FP8, 16),
    Case("qwen3-14b-awq-int4", base("qwen3-14b-awq"), AWQ, 16),
    Case("mistral-7b-ct-int4", base("mistral-7b-awq"), compressed(4), 12),
    Case("gemma-3-4b-bf16", GEMMA_3_4B, None, 12),
    Case("qwen3-1.7b-bf16", base("qwen3-1.7b"), None, 8),
    Case(
        "llama-3-8b-gptq-int4-16k",
        LLAMA,
        GPTQ,
        12,
        Use(context=16384, extend_context=True),
    ),
    Case("qwen2.5-7b-bf16", base("qwen2.5-7b-awq"), None, 24),
    Case("llama-3-8b-ct-int8", LLAMA, compressed(8), 12),
    Case("qwen3-8b-awq-int4", base("qwen3-8b"), AWQ, 8, Use(context=2048, enforce_eager=True)),
    Case("llama-3-8b-gptq-int4", LLAMA, GPTQ, 24),
    Case("qwen3-32b-awq-int4", base("qwen3-32b-awq"), AWQ, 24),
    Case("qwen2.5-7b-awq-int4", base("qwen2.5-7b-awq"), AWQ, 8),
)

# What a small card would do: its kernels, its attention, no measuring by trial runs.
SMALL_CARD_ENV = {
    "VLLM_DISABLED_KERNELS": "MacheteLinearKernel,CutlassW4A8LinearKernel",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_USE_DEEP_GEMM": "0",
}
SMALL_CARD_FLAGS = [
    *("--attention-config", '{"flash_attn_version": 2}'),
    "--no-enable-flashinfer-autotune",  # a minute for kernels that a small card does not have
]

# --- model directories ------------------------------------------------------------------------


def make_model(config: dict[str, t.Any], folder: Path) -> None:
    """Write config.json and a tokenizer that knows every token id as a word of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {f"t{number}": number for number in range(config["vocab_size"])}
    tokenizer: dict[str, t.Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "t0",
        "pad_token": "t0",
        "eos_token": "t1",
        "bos_token": "t2",
        "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}{{ message['content'] }} {% endfor %}",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


# --- one engine -------------------------------------------------------------------------------


class FailedError(Exception):
    """The case came to an end before its figures."""


class Setup:
    """What all engines share."""

    def __init__(self, vllm: str, work: Path, *, native: bool) -> None:
        self.vllm = shlex.split(vllm)
        self.work = work
        self.native = native
        self.total_mib = _total_mib()

    @staticmethod
    def free_port() -> int:
        """Give a port that nobody listens on: an engine of an earlier run may still be there."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


class Engine:
    """A running vLLM."""

    def __init__(self, setup: Setup, folder: Path, flags: t.Sequence[str], cap: int) -> None:
        self.port = setup.free_port()
        self.log_file = folder / "log"
        self.command = [
            *(*setup.vllm, "serve", str(folder), "--served-model-name", "m"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--load-format", "dummy"),
            *("--worker-extension-cls", "measure_worker.Measured"),
            *flags,
            *([] if setup.native else SMALL_CARD_FLAGS),
        ]
        self._log = self.log_file.open("wb")
        self._process = subprocess.Popen(
            self.command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                **({} if setup.native else SMALL_CARD_ENV),
                "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_SERVER_DEV_MODE": "1",
                "VLLM_CACHE_ROOT": os.environ.get("VLLM_CACHE_ROOT", str(setup.work / "cache")),
                "SPARERIG_TORCH_CAP": str(cap),
            },
        )

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_file.read_text(errors="replace")

    def wait(self) -> float:
        """Wait until it answers; give the seconds it took."""
        start = time.monotonic()
        while time.monotonic() - start < START_LIMIT_S:
            if self._process.poll() is not None:
                raise FailedError(f"ended with {self._process.returncode} while starting")
            try:
                self.get("/health")
            except OSError:
                time.sleep(0.5)
            else:
                return time.monotonic() - start
        raise FailedError(f"not ready after {START_LIMIT_S} s")

    def get(self, path: str) -> bytes:
        """Ask for a page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
            return t.cast("bytes", reply.read())

    def post(self, path: str, body: dict[str, t.Any], timeout: float = 240) -> dict[str, t.Any]:
        """Send JSON, get JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as reply:  # noqa: S310
            return t.cast("dict[str, t.Any]", json.load(reply))

    def memory(self) -> dict[str, int]:
        """Ask the worker what it uses."""
        results = self.post("/collective_rpc", {"method": "sparerig_memory"})["results"]
        return t.cast("dict[str, int]", results[0])

    def driver_mib(self) -> int:
        """Ask the driver what the engine's processes hold; 0 where it does not tell."""
        said = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
            check=False,
            capture_output=True,
            text=True,
        ).stdout
        return sum(
            int(used)
            for pid, used in re.findall(r"^(\d+), (\d+)$", said, re.MULTILINE)
            if _group_of(int(pid)) == self._process.pid
        )

    def stop(self) -> None:
        """End it and all it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._process.pid, number)
                self._process.wait(20)
        self._log.close()


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def fill(engine: Engine, case: Case, made: Plan) -> dict[str, t.Any]:
    """Send as many full-length chats as fit at once, then a crowd of short ones."""
    full = max(1, min(int(made.full_chats), case.use.max_num_seqs))
    sizes = [case.use.context - ANSWER_TOKENS] * full + [200] * 2 * case.use.max_num_seqs
    dice = random.Random(case.title)  # noqa: S311 - only to defeat the prefix cache
    bodies = [
        {
            "model": "m",
            "prompt": [dice.randrange(3, TOKENS) for _token in range(size)],
            "max_tokens": ANSWER_TOKENS,
            "ignore_eos": True,
            "temperature": 1.0,
            "top_p": 0.9,
            "top_k": 40,
        }
        for size in sizes
    ]
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        replies = list(pool.map(lambda body: _completion(engine, body), bodies))
    wrong = [reply for reply in replies if reply != "ok"]
    return {
        "full_chats": full,
        "short_chats": len(bodies) - full,
        "wrong": wrong[:3],
        "seconds": round(time.monotonic() - start, 1),
    }


def _completion(engine: Engine, body: dict[str, t.Any]) -> str:
    try:
        used = engine.post("/v1/completions", body)["usage"]["completion_tokens"]
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read()[:300]!r}"
    except (OSError, KeyError, ValueError) as error:
        return repr(error)
    return "ok" if used == ANSWER_TOKENS else f"{used} tokens"


# --- one case ---------------------------------------------------------------------------------


def measure(case: Case, setup: Setup) -> dict[str, t.Any]:
    """Run a case and hold the actual against the plan."""
    card = Card(f"{case.gib} GiB", case.gib * 1024, (8, 6))
    made = plan(parse(case.full_config), card, case.use, model=case.name)
    answer: dict[str, t.Any] = {"case": case.title, "fits": made.fits, "plan": _planned(made)}
    if not made.fits:
        return {**answer, "error": "the plan says that it does not fit"}
    folder = setup.work / case.title
    make_model(case.full_config, folder)
    cap = made.free - made.driver_context - made.non_torch
    engine = Engine(setup, folder, flags_here(made, setup.total_mib), cap)
    answer["command"] = shlex.join(engine.command)
    try:
        answer["ready_s"] = round(engine.wait(), 1)
        answer["after_start"] = engine.memory()
        answer["burst"] = fill(engine, case, made)
        answer["after_burst"] = engine.memory()
        answer["driver_mib"] = engine.driver_mib()
        answer["actual"] = actual_checks(made, engine, answer["driver_mib"])
        engine.get("/health")
    except (FailedError, OSError) as error:
        known = explain(engine.log)
        answer["error"] = str(error)
        answer["explained"] = known and dataclasses.asdict(known)
        answer["log_tail"] = engine.log[-6000:]
    finally:
        engine.stop()
    answer["log"] = [line for line in engine.log.splitlines() if re.search(TELLING, line)]
    answer["observed"] = dataclasses.asdict(observed(engine.log))
    answer["errors"] = _errors(made, answer)
    return answer


def actual_checks(made: Plan, engine: Engine, driver_mib: int) -> list[str]:
    """Make the checks that inference_health makes after a deployment."""
    evidence = Evidence({"unit": "none"})
    labels = cache_config(engine.get("/metrics").decode())
    length = json.loads(engine.get("/v1/models"))["data"][0]["max_model_len"]
    actual = Actual.of(observed(engine.log), labels, length, driver_mib or None)
    compare(result(made), actual, evidence)
    return evidence.report()


# The lines that the figures are read from, kept as they were.
TELLING = (
    r"Model loading took|KV [Cc]ache|Maximum concurrency|Graph capturing|LinearKernel"
    r"|attention backend|init engine|for peak activation"
)


def flags_here(made: Plan, total_mib: int) -> list[str]:
    """Turn the plan's share of the small card into the same memory's share of this GPU."""
    arguments = dict(made.vllm_arguments)
    taken = made.weights + made.activations + made.cuda_graphs + made.non_torch + made.kv_cache
    arguments["gpu-memory-utilization"] = f"{taken / (total_mib * MIB):.4f}"
    return command_line(arguments)


def _planned(made: Plan) -> dict[str, t.Any]:
    return {
        **{name: round(size / GIB, 3) for name, size in made.terms.items()},
        "free": round(made.free / GIB, 3),
        "kv_cache_tokens": made.kv_cache_tokens,
        "full_chats": round(made.full_chats, 2),
    }


def _errors(made: Plan, answer: dict[str, t.Any]) -> dict[str, t.Any]:
    """Give percent by which the plan is above the actual, and GiB left of the imagined card."""
    seen = answer["observed"]
    errors: dict[str, t.Any] = {}
    if seen["weights_gib"]:
        errors["weights_%"] = round(100 * (made.weights / GIB / seen["weights_gib"] - 1), 2)
    if seen["kv_cache_tokens"]:
        errors["kv_tokens_%"] = round(100 * (made.kv_cache_tokens / seen["kv_cache_tokens"] - 1), 2)
    after = answer.get("after_burst")
    if after:
        beyond_kv = after["torch_reserved_peak"] - made.weights - made.kv_cache
        errors["activations_and_graphs_planned_gib"] = round(
            (made.activations + made.cuda_graphs) / GIB, 3
        )
        errors["activations_and_graphs_seen_gib"] = round(beyond_kv / GIB, 3)
        errors["torch_left_gib"] = round(
            (after["torch_cap"] - after["torch_reserved_peak"]) / GIB, 3
        )
    if answer.get("driver_mib"):
        other = answer["driver_mib"] * MIB - answer["after_burst"]["torch_reserved"]
        errors["context_and_libraries_planned_gib"] = round(
            (made.driver_context + made.non_torch) / GIB, 3
        )
        errors["context_and_libraries_seen_gib"] = round(other / GIB, 3)
        errors["card_left_gib"] = round((made.free - answer["driver_mib"] * MIB) / GIB, 3)
    return errors


# --- failures on purpose ----------------------------------------------------------------------

_SMALL = Case("qwen3-1.7b-bf16", base("qwen3-1.7b"), None, 8)
_QUICK = ["--max-model-len", "8192", "--max-num-seqs", "16", "--enforce-eager"]
_PLENTY = 40 * GIB

# (the identifier that must be found, flags, PyTorch's cap, changes of config.json)
_Failure = tuple[str, list[str], int, dict[str, t.Any]]
FAILURES: tuple[_Failure, ...] = (
    ("context-exceeds-model", [*_QUICK, "--max-model-len", "65536"], _PLENTY, {}),
    ("context-exceeds-kv-cache", [*_QUICK, "--kv-cache-memory-bytes", "100000000"], _PLENTY, {}),
    ("memory-held-by-others", [*_QUICK, "--gpu-memory-utilization", "0.999"], _PLENTY, {}),
    ("no-room-for-kv-cache", [*_QUICK, "--gpu-memory-utilization", "0.02"], _PLENTY, {}),
    ("weights-exceed-memory", _QUICK, GIB, {}),
    ("activations-exceed-memory", [*_QUICK, "--max-num-batched-tokens", "65536"], 4 * GIB, {}),
    ("quantization-unsupported", [*_QUICK, "--quantization", "gptq"], _PLENTY, {}),
    ("architecture-unknown", _QUICK, _PLENTY, {"architectures": ["UnheardOfForCausalLM"]}),
)


def provoke(failure: _Failure, setup: Setup) -> dict[str, t.Any]:
    """Let a start fail, and see whether its log is explained."""
    expected, flags, cap, changes = failure
    folder = setup.work / expected
    make_model({**_SMALL.full_config, **changes}, folder)
    engine = Engine(setup, folder, flags, cap)
    try:
        engine.wait()
        ending = "it started"
    except FailedError as error:
        ending = str(error)
    finally:
        engine.stop()
    log = engine.log
    found = explain(log)
    good = found is not None and found.id == expected
    sys.stdout.write(f"{expected}: {'ok' if good else found or ending}\n")
    return {"expected": expected, "found": found and found.id, "ending": ending, "log": log[-8000:]}


# --- all cases --------------------------------------------------------------------------------


class Bench:
    """Runs cases side by side as long as they fit the GPU, and none after the deadline."""

    def __init__(self, setup: Setup, results: Path, parallel: int, deadline: float) -> None:
        self._setup = setup
        self._results = results
        self._until = time.monotonic() + deadline
        self._slots = threading.Condition()
        self._free_gib = setup.total_mib / 1024 - 4
        self._free_engines = parallel

    def run(self, cases: t.Sequence[Case]) -> list[dict[str, t.Any]]:
        """Run all, in their order as far as there is room."""
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            return list(pool.map(self._in_turn, cases))

    def _in_turn(self, case: Case) -> dict[str, t.Any]:
        with self._slots:
            self._slots.wait_for(lambda: self._free_engines and self._free_gib >= case.gib)
            self._free_engines -= 1
            self._free_gib -= case.gib
        try:
            return self._one(case)
        finally:
            with self._slots:
                self._free_engines += 1
                self._free_gib += case.gib
                self._slots.notify_all()

    def _one(self, case: Case) -> dict[str, t.Any]:
        if time.monotonic() > self._until:
            answer: dict[str, t.Any] = {"case": case.title, "error": "no time left"}
        else:
            answer = measure(case, self._setup)
        with self._slots, self._results.open("a") as results:
            results.write(json.dumps(answer) + "\n")
            sys.stdout.write(f"{case.title}: {answer.get('error') or answer.get('errors')}\n")
            sys.stdout.flush()
        return answer


def _total_mib() -> int:
    said = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return int(said.split()[0])


_HEADINGS = (
    *("model and card", "weights, GiB: plan / vLLM", "KV tokens: plan / vLLM"),
    *("activations and graphs, GiB: plan / seen", "left of the card, GiB", "full chats served"),
)


def table(answers: t.Iterable[dict[str, t.Any]]) -> str:
    """Write the table for docs/what-fits.md."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *(_row(answer) for answer in answers)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(answer: dict[str, t.Any]) -> tuple[str, ...]:
    if "after_burst" not in answer:
        return answer["case"], str(answer.get("error")), "", "", "", ""
    seen, errors, planned = answer["observed"], answer["errors"], answer["plan"]
    burst = answer["burst"]
    served = f"{burst['full_chats']} and {burst['short_chats']} short"
    return (
        answer["case"],
        _against(f"{planned['weights']:.2f}", seen["weights_gib"], errors.get("weights_%")),
        _against(planned["kv_cache_tokens"], seen["kv_cache_tokens"], errors.get("kv_tokens_%")),
        f"{errors[_WORK + 'planned_gib']:.2f} / {errors[_WORK + 'seen_gib']:.2f}",
        f"{errors.get('card_left_gib', errors['torch_left_gib']):.2f}",
        str(burst["wrong"] or served),
    )


_WORK = "activations_and_graphs_"


def _against(planned: object, seen: object, percent: float | None) -> str:
    return f"{planned} / not told" if percent is None else f"{planned} / {seen} ({percent:+.1f} %)"


def main() -> int:
    """Run the cases whose title matches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--only", default="", help="regular expression on the cases' titles")
    parser.add_argument("--parallel", type=int, default=4, help="engines at once")
    parser.add_argument("--deadline", type=float, default=3600, help="start none after (s)")
    parser.add_argument("--native", action="store_true", help="this GPU's own kernels")
    parser.add_argument("--failures", action="store_true", help="let starts fail instead")
    parser.add_argument("--vllm", default="vllm", help="how vLLM is called")
    parser.add_argument("--list", action="store_true", help="only list the cases")
    options = parser.parse_args()
    cases = [case for case in CASES if re.search(options.only, case.title)]
    if options.list or not cases:
        sys.stdout.writelines(f"{case.title}\n" for case in cases or CASES)
        return 0 if cases else 2
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        setup = Setup(options.vllm, Path(work), native=options.native)
        if options.failures:
            return _provoke_all(setup, options.out)
        bench = Bench(setup, options.out / "results.jsonl", options.parallel, options.deadline)
        answers = bench.run(cases)
    (options.out / "table.md").write_text(table(answers))
    good = [answer for answer in answers if "error" not in answer and not answer["burst"]["wrong"]]
    sys.stdout.write(f"\n{table(answers)}\n{len(good)} of {len(answers)} cases measured\n")
    return 0 if len(good) == len(answers) else 1


def _provoke_all(setup: Setup, out: Path) -> int:
    with concurrent.futures.ThreadPoolExecutor(len(FAILURES)) as pool:
        found = list(pool.map(lambda failure: provoke(failure, setup), FAILURES))
    lines = [json.dumps(answer) + "\n" for answer in found]
    (out / "failures.jsonl").write_text("".join(lines))
    return 0 if all(answer["found"] == answer["expected"] for answer in found) else 1


if __name__ == "__main__":
    sys.exit(main())
