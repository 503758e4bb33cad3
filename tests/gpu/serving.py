# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast many users are served: the plan's arguments beside others, in one run."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import GIB, MIB, Use
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from gpu.cases import ARTICLE_GIB, of_catalogue, sized
from gpu.engine import Engine, FailedError, Setup, Start, flags_here, make_model

if t.TYPE_CHECKING:
    from pathlib import Path

_PLENTY = 40 * GIB
ENGINES = ("product", "seqs16", "vllm-default")

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
