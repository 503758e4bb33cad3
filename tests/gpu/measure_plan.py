# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold the memory plan against real vLLM on a real GPU.

For each case: a model directory is made (config.json and a tokenizer; weights are random), the
plan for a card of the case's size is worked out, vLLM is started with the plan's flags, empty
compile caches and PyTorch's memory capped to that card's, full-length chats fill the KV cache,
and what vLLM and the driver say is printed beside the plan, one JSON object per line. Each GPU
runs one engine after the other, in the order of the cases: with --parallel, vLLM's figure of the
CUDA graphs can be a neighbour's; all others are of the engine's own process.

    PYTHONPATH=collections python3 tests/gpu/measure_plan.py --out measured

Needs vLLM of the version that the plan is for, an NVIDIA GPU with at least 40 GiB and nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import copy
import dataclasses
import json
import os
import queue
import random
import re
import shlex
import shutil
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
from functools import partial
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._memory.comparison import Actual, compare
from ansible_collections.sparerig.llm.plugins.module_utils._memory.report import result
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    ALLOCATOR,
    ALLOCATOR_SETTINGS,
    GIB,
    MIB,
    Card,
    Plan,
    Use,
    allocator,
    plan,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import guessed, parse
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.arguments import command_line
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import explain, observed
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.metrics import cache_config

HERE = Path(__file__).parent
START_LIMIT_S = 420
ANSWER_TOKENS = 32
SHORT_CHATS = 32
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
LLAMA_3_2_3B = {
    **LLAMA,
    "num_hidden_layers": 28,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
}
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
    "GptOssForCausalLM": "gpt_oss",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One model on a card of one size."""

    name: str
    config: dict[str, t.Any]
    quantization: dict[str, t.Any] | None
    gib: int
    use: Use = dataclasses.field(default_factory=Use)
    file_bytes: int | None = None  # of the weights, where the plan can only estimate

    @property
    def full_config(self) -> dict[str, t.Any]:
        """Its config.json."""
        config = {"model_type": MODEL_TYPES[self.config["architectures"][0]], **self.config}
        config |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
        if self.quantization:
            config["quantization_config"] = self.quantization
        return config

    @property
    def card(self) -> Card:
        """A card of its size, of the RTX 30 series."""
        return Card(f"{self.gib} GiB", self.gib * 1024, (8, 6))

    @property
    def plan(self) -> Plan:
        """Plan it as the product does."""
        guess = self.file_bytes is not None
        architecture = (
            guessed(self.full_config, self.file_bytes or 0) if guess else parse(self.full_config)
        )
        return plan(architecture, self.card, self.use, model=self.name, estimate=guess)

    @property
    def title(self) -> str:
        """What tells it apart."""
        return f"{self.name}-{self.gib}GiB"


GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "num_hidden_layers": 24,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "hidden_act": "silu",
    "attention_bias": True,
    "rms_norm_eps": 1e-05,
    "swiglu_limit": 7.0,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
GPT_OSS_20B_BYTES = 13_761_264_768  # its safetensors files, by their index
MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        *("model.layers.*.self_attn", "model.layers.*.mlp.router"),
        *("model.embed_tokens", "lm_head"),
    ],
}

_FORMATS: dict[str, dict[str, t.Any] | None] = {
    "none": None,
    "gptq": GPTQ,
    "awq": AWQ,
    "fp8": FP8,
}

# The sizes of cards that people have.
CARDS_GIB = (6, 8, 10, 11, 12, 16, 20, 24, 32)
ARTICLE_GIB = 12


def of_catalogue(model: catalogue.Model) -> Case:
    """Make a model of the catalogue one that vLLM loads with random weights."""
    how = model.architecture.quantization.method
    config = GEMMA_3_4B if model.id == "gemma-3-4b" else copy.deepcopy(base(model.id))
    rope = config.get("rope_scaling")
    if rope and rope["rope_type"] == "llama3":
        config["rope_scaling"] = {**LLAMA_3_2_3B["rope_scaling"], "factor": rope["factor"]}
    return Case(model.id, config, _FORMATS[how], 0)


def sized(case: Case, gib: int) -> Case:
    """Put a case on a card of another size."""
    return dataclasses.replace(case, gib=gib)


def fits(case: Case) -> bool:
    """Whether the plan says so."""
    return case.plan.fits


def smallest(case: Case) -> Case:
    """Take the smallest card that the plan allows."""
    return next(small for gib in CARDS_GIB if fits(small := sized(case, gib)))


def catalogue_cases() -> t.Iterator[Case]:
    """Every model of the catalogue, on the smallest card that the plan allows, and on 12 GiB."""
    for model in catalogue.MODELS:
        case = of_catalogue(model)
        least = smallest(case)
        yield least
        article = sized(case, ARTICLE_GIB)
        if least.gib < ARTICLE_GIB:
            yield article


# Beside the catalogue: the article's other rows, and the models that once ran out of memory.
OTHERS = (
    Case("llama-3.2-3b", LLAMA_3_2_3B, None, 12),
    Case("llama-3-8b-gptq-int8", LLAMA, {**GPTQ, "bits": 8}, 12),
    Case("llama-3-8b-gptq-16k", LLAMA, GPTQ, 12, Use(context=16384, extend_context=True)),
    Case("qwen3-8b-awq-eager", base("qwen3-8b"), AWQ, 8, Use(context=2048, enforce_eager=True)),
    Case("mistral-7b-ct-int4", base("mistral-7b-awq"), compressed(4), 12),
    Case("llama-3-8b-ct-int8", LLAMA, compressed(8), 12),
    Case("gemma-2-9b", GEMMA_2_9B, None, 24),
    Case("qwen2.5-7b", base("qwen2.5-7b-awq"), None, 24),
    Case("gpt-oss-20b", GPT_OSS_20B, MXFP4, 24, file_bytes=GPT_OSS_20B_BYTES),
)
CASES = (*catalogue_cases(), *OTHERS)
# First those that ran out of memory at their first start under the plan of vLLM 0.26.
ORDER = ("gemma-3-4b", "qwen3-4b-1", "llama-3.2-3b", "qwen3-1.7b", "llama-3-8b-gptq", "qwen3-8b")

# What a small card would do: its kernels, no measuring by trial runs.
SMALL_CARD_ENV = {
    "VLLM_DISABLED_KERNELS": "MacheteLinearKernel,CutlassW4A8LinearKernel",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_USE_DEEP_GEMM": "0",
}
SMALL_CARD_FLAGS = [
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
        self.gpus_mib = _gpus_mib()

    @staticmethod
    def free_port() -> int:
        """Give a port that nobody listens on: an engine of an earlier run may still be there."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


@dataclasses.dataclass(frozen=True)
class Start:
    """How an engine is started."""

    flags: t.Sequence[str]
    pytorch: int  # bytes that its allocator may have: more are refused, as on a small card
    gpu: int = 0
    env: t.Mapping[str, str] = dataclasses.field(default_factory=dict)


class Engine:
    """A running vLLM."""

    def __init__(self, setup: Setup, folder: Path, start: Start) -> None:
        self.port = setup.free_port()
        self.log_file = folder / "log"
        caches = folder / "caches"  # empty: a first start
        shutil.rmtree(caches, ignore_errors=True)
        self.command = [
            *(*setup.vllm, "serve", str(folder), "--served-model-name", "m"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--load-format", "dummy"),
            *("--worker-extension-cls", "measure_worker.Measured"),
            *start.flags,
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
                "VLLM_CACHE_ROOT": str(caches / "vllm"),
                "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
                "TRITON_CACHE_DIR": str(caches / "triton"),
                "CUDA_VISIBLE_DEVICES": str(start.gpu),
                **allocator(start.pytorch / (setup.gpus_mib[start.gpu] * MIB)),
                **start.env,
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
    full = max(1, min(int(made.full_chats), made.use.sequences))
    short = max(SHORT_CHATS, made.use.sequences)
    sizes = [case.use.context - ANSWER_TOKENS] * full + [200] * short
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


def measure(case: Case, setup: Setup, gpu: int) -> dict[str, t.Any]:
    """Run a case and hold the actual against the plan."""
    made = case.plan
    answer: dict[str, t.Any] = {"case": case.title, "fits": made.fits, "plan": _planned(made)}
    if not made.fits:
        return {**answer, "error": "the plan says that it does not fit"}
    folder = setup.work / case.title
    make_model(case.full_config, folder)
    engine = Engine(setup, folder, Start(flags_here(made, setup.gpus_mib[gpu]), made.pytorch, gpu))
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
    sys.stdout.write(f"{case.title}: {answer.get('error') or answer['errors']}\n")
    sys.stdout.flush()
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
        "max_num_seqs": made.use.sequences,
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
    return Start(flags_here(made, _gpus_mib()[0]), made.pytorch - held)


def _split(start: Start) -> Start:
    """Let PyTorch split what the compiler leaves, as it does by default."""
    share = start.pytorch / (_gpus_mib()[0] * MIB)
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


# --- many users -------------------------------------------------------------------------------

# Prompt and answer in tokens, chats at once, requests: the article's first row, and crowds.
LOADS = ((512, 256, 1, 4), (512, 256, 16, 64), (512, 256, 32, 128))


def serve(name: str, setup: Setup, gpu: int) -> dict[str, t.Any]:
    """Measure the speed of one set of flags with vLLM's own benchmark."""
    case = sized(of_catalogue(catalogue.find("llama-3-8b-gptq")), ARTICLE_GIB)
    if name == "seqs16":
        case = dataclasses.replace(case, use=Use(max_num_seqs=16))
    made = case.plan
    flags = flags_here(made, setup.gpus_mib[gpu])
    if name == "vllm-default":
        share = made.card.visible_bytes * 0.9 / (setup.gpus_mib[gpu] * MIB)
        flags = ["--max-model-len", "8192", "--gpu-memory-utilization", f"{share:.4f}"]
    folder = setup.work / f"serve-{name}"
    make_model(case.full_config, folder)
    start = Start(flags, _PLENTY if name == "vllm-default" else made.pytorch, gpu)
    engine = Engine(setup, folder, start)
    answer: dict[str, t.Any] = {"engine": name, "flags": flags, "kv_tokens": made.kv_cache_tokens}
    try:
        engine.wait()
        answer["loads"] = [bench(engine, setup, folder, load) for load in LOADS]
    except (FailedError, OSError, ValueError, subprocess.SubprocessError) as error:
        answer["error"] = f"{error}; {engine.log[-3000:]}"
    finally:
        engine.stop()
    sys.stdout.write(f"{answer}\n"[:3000])
    sys.stdout.flush()
    return answer


def bench(
    engine: Engine, setup: Setup, folder: Path, load: tuple[int, int, int, int]
) -> dict[str, t.Any]:
    """Run one load."""
    prompt, answer, at_once, requests = load
    file = folder / "bench.json"
    subprocess.run(
        [
            *(*setup.vllm, "bench", "serve", "--model", "m", "--tokenizer", str(folder)),
            *("--base-url", f"http://127.0.0.1:{engine.port}", "--dataset-name", "random"),
            *("--random-input-len", str(prompt), "--random-output-len", str(answer)),
            *("--ignore-eos", "--max-concurrency", str(at_once), "--num-prompts", str(requests)),
            *("--seed", str(random.randrange(1 << 30))),  # noqa: S311 - no prefix is cached
            *("--save-result", "--result-filename", str(file), "--disable-tqdm"),
        ],
        check=True,
        capture_output=True,
        timeout=240,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    found = json.loads(file.read_text())
    kept = ("output_throughput", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "completed")
    return {"load": load, **{name: found[name] for name in kept}}


# --- all cases --------------------------------------------------------------------------------


Job: t.TypeAlias = t.Callable[[Setup, int], dict[str, t.Any]]


class Bench:
    """Runs jobs in their order, so many engines at a time on each GPU, none after the deadline."""

    def __init__(self, setup: Setup, results: Path, parallel: int, deadline: float) -> None:
        self._setup = setup
        self._results = results
        self._parallel = parallel
        self._until = time.monotonic() + deadline
        self._writing = threading.Lock()

    def run(self, jobs: t.Iterable[Job]) -> list[dict[str, t.Any]]:
        """Run all; the next job goes to the GPU that is free first."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        answers: list[dict[str, t.Any]] = []

        def lane(gpu: int) -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    answers.append(self._one(waiting.get_nowait(), gpu))

        lanes = [*range(len(self._setup.gpus_mib))] * self._parallel
        with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(lane, lanes))
        return answers

    def _one(self, job: Job, gpu: int) -> dict[str, t.Any]:
        late = time.monotonic() > self._until
        answer = {"error": "no time left"} if late else job(self._setup, gpu)
        with self._writing, self._results.open("a") as results:
            results.write(json.dumps(answer) + "\n")
        return answer


def _gpus_mib() -> list[int]:
    """What programs see of each GPU: less than its whole memory, of which the driver keeps some."""
    said = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.free,memory.used", "--format=csv,noheader,nounits"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [sum(map(int, line.split(","))) for line in said.splitlines()]


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
    parser.add_argument("--parallel", type=int, default=1, help="engines at once on each GPU")
    parser.add_argument("--deadline", type=float, default=3600, help="start none after (s)")
    parser.add_argument("--native", action="store_true", help="this GPU's own kernels")
    parser.add_argument("--serving", action="store_true", help="measure many users instead")
    parser.add_argument("--failures", action="store_true", help="let starts fail instead")
    parser.add_argument("--vllm", default="vllm", help="how vLLM is called")
    parser.add_argument("--list", action="store_true", help="only list the cases")
    options = parser.parse_args()
    cases = sorted(
        (case for case in CASES if re.search(options.only, case.title)),
        key=lambda case: not case.title.startswith(ORDER),
    )
    if options.list or not (cases or options.failures or options.serving):
        sys.stdout.writelines(f"{case.title}\n" for case in cases or CASES)
        return 0 if cases else 2
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        setup = Setup(options.vllm, Path(work), native=options.native)

        def run(jobs: t.Iterable[Job], name: str) -> list[dict[str, t.Any]]:
            return Bench(setup, options.out / name, options.parallel, options.deadline).run(jobs)

        if options.failures:
            found = run(
                [
                    partial(provoke, failure)
                    for failure in failures()
                    if re.search(options.only, failure.id)
                ],
                "failures.jsonl",
            )
            return 0 if all(map(_named_and_cured, found)) else 1
        if options.serving:
            served = run([partial(serve, name) for name in ENGINES], "serving.jsonl")
            return 0 if not any("error" in answer for answer in served) else 1
        answers = run([partial(measure, case) for case in cases], "results.jsonl")
    (options.out / "table.md").write_text(table(answers))
    good = [answer for answer in answers if "error" not in answer and not answer["burst"]["wrong"]]
    sys.stdout.write(f"\n{table(answers)}\n{len(good)} of {len(answers)} cases measured\n")
    return 0 if len(good) == len(answers) else 1


ENGINES = ("product", "seqs16", "vllm-default")


def _named_and_cured(answer: dict[str, t.Any]) -> bool:
    named = bool(answer.get("found") == answer.get("expected", ""))
    return named and answer.get("remedy", _STARTED) == _STARTED


if __name__ == "__main__":
    sys.exit(main())
