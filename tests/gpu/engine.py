# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real vLLM on a GPU that is made as small as a card of a case."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import typing as t
import urllib.request
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    MIB,
    Plan,
    allocator,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.arguments import command_line

HERE = Path(__file__).parent
START_LIMIT_S = 420

# What a small card would do: its kernels, no measuring by trial runs.
SMALL_CARD_ENV = {
    "VLLM_DISABLED_KERNELS": "MacheteLinearKernel,CutlassW4A8LinearKernel",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_USE_DEEP_GEMM": "0",
}
SMALL_CARD_FLAGS = [
    "--no-enable-flashinfer-autotune",  # a minute for kernels that a small card does not have
]


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
        self.gpus_mib = gpus_mib()

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


def gpus_mib() -> list[int]:
    """What programs see of each GPU: less than its whole memory, of which the driver keeps some."""
    said = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.free,memory.used", "--format=csv,noheader,nounits"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [sum(map(int, line.split(","))) for line in said.splitlines()]


def flags_here(made: Plan, total_mib: int) -> list[str]:
    """Turn the plan's share of the small card into the same memory's share of this GPU."""
    arguments = dict(made.vllm_arguments)
    taken = made.weights + made.activations + made.cuda_graphs + made.non_torch + made.kv_cache
    arguments["gpu-memory-utilization"] = f"{taken / (total_mib * MIB):.4f}"
    return command_line(arguments)
