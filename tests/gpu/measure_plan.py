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

    PYTHONPATH=collections:tests python3 -m gpu.measure_plan --out measured

Needs vLLM of the version that the plan is for, an NVIDIA GPU with at least 40 GiB and nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import queue
import random
import re
import shlex
import sys
import tempfile
import threading
import time
import typing as t
import urllib.error
from functools import partial
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._memory.comparison import Actual, compare
from ansible_collections.sparerig.llm.plugins.module_utils._memory.report import result
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import GIB, MIB, Plan
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import explain, observed
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.metrics import cache_config
from gpu import provoke, serving
from gpu.cases import CASES, ORDER, Case
from gpu.engine import Engine, FailedError, Setup, Start, flags_here, make_model

ANSWER_TOKENS = 32
SHORT_CHATS = 32
TOKENS = 30_000  # ids that the tokenizer of every case knows

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
    r"|attention backend|init engine|for peak activation|Tried to allocate"
)


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
                    partial(provoke.provoke, failure)
                    for failure in provoke.failures()
                    if re.search(options.only, failure.id)
                ],
                "failures.jsonl",
            )
            return 0 if all(map(provoke.named_and_cured, found)) else 1
        if options.serving:
            served = run(
                [partial(serving.serve, name) for name in serving.ENGINES], "serving.jsonl"
            )
            return 0 if not any("error" in answer for answer in served) else 1
        answers = run([partial(measure, case) for case in cases], "results.jsonl")
    (options.out / "table.md").write_text(table(answers))
    good = [answer for answer in answers if "error" not in answer and not answer["burst"]["wrong"]]
    sys.stdout.write(f"\n{table(answers)}\n{len(good)} of {len(answers)} cases measured\n")
    return 0 if len(good) == len(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
