# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan is held against the actual, and the term that is off is named."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.nvidia_smi import Gpu, GpuProcess
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer
from ansible_collections.sparerig.llm.plugins.module_utils._memory.comparison import (
    Actual,
    PlanGivenError,
    check_plan,
    compare,
    gather,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory.planner import on_cpu
from ansible_collections.sparerig.llm.plugins.module_utils._memory.report import result
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    GIB,
    MIB,
    Card,
    Use,
    plan,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.health import ApiFacts
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import Observed
from stand_ins import HANGS, FakeHost

LLAMA = catalogue.find("llama-3-8b-gptq").architecture
PLAN = plan(LLAMA, Card("RTX 3060 12GB", 12288, (8, 6)), Use())
PLANNED = result(PLAN)
BLOCKS = PLAN.kv_cache // PLAN.kv_block_bytes
GOOD = Actual(
    weights_bytes=int(5.35 * GIB),
    graphs_bytes=PLAN.cuda_graphs,
    kv_blocks=BLOCKS,
    kv_block_tokens=16,
    max_model_len=8192,
    driver_bytes=PLAN.free - PLAN.slack,
)


GRAPHS_EXCEED = {"graphs_bytes": PLAN.cuda_graphs + PLAN.slack + 100 * MIB}


def checks_of(planned: dict[str, t.Any], actual: Actual) -> list[dict[str, str]]:
    evidence = Evidence({"unit": "sparerig-vllm"})
    compare(planned, actual, evidence)
    return evidence.checks


def statuses(planned: dict[str, t.Any], actual: Actual) -> dict[str, str]:
    found = checks_of(planned, actual)
    return {check["name"].removeprefix("plan_"): check["status"] for check in found}


def test_as_planned() -> None:
    assert set(statuses(PLANNED, GOOD).values()) == {"pass"}


@pytest.mark.parametrize(
    ("change", "term", "failure"),
    [
        ({"weights_bytes": int(14.96 * GIB)}, "weights", "plan-weights-differ"),
        ({"weights_bytes": int(5.2 * GIB)}, "weights", "plan-weights-differ"),
        ({"kv_blocks": int(BLOCKS * 0.96)}, "kv_cache", "plan-kv-cache-differs"),
        ({"kv_blocks": int(BLOCKS * 1.04)}, "kv_cache", "plan-kv-cache-differs"),
        ({"max_model_len": 4096}, "context", "plan-context-differs"),
        ({**GRAPHS_EXCEED, "driver_bytes": None}, "cuda_graphs", "plan-graphs-exceed"),
        ({"driver_bytes": PLAN.free + MIB}, "total", "plan-total-exceeds"),
    ],
)
def test_the_term_that_is_off_is_named(change: dict[str, t.Any], term: str, failure: str) -> None:
    found = checks_of(PLANNED, dataclasses.replace(GOOD, **change))
    failed = [check for check in found if check["status"] == "fail"]
    assert [(check["name"], check["failure"]) for check in failed] == [(f"plan_{term}", failure)]
    assert failed[0]["cause"]
    assert failed[0]["remedy"]


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_small_differences_pass(factor: float) -> None:
    actual = dataclasses.replace(GOOD, kv_blocks=int(BLOCKS * factor))
    assert statuses(PLANNED, actual)["kv_cache"] == "pass"


def test_what_nobody_tells_is_unknown_and_no_failure() -> None:
    assert set(statuses(PLANNED, Actual()).values()) == {"unknown"}


def test_memory_that_another_program_took_is_not_laid_to_the_graphs() -> None:
    found = statuses(PLANNED, dataclasses.replace(GOOD, **GRAPHS_EXCEED))
    assert (found["cuda_graphs"], found["total"]) == ("unknown", "pass")


def test_without_graphs_there_is_nothing_to_hold_against() -> None:
    eager = result(plan(LLAMA, PLAN.card, Use(enforce_eager=True)))
    assert "cuda_graphs" not in statuses(eager, GOOD)


def test_on_a_cpu_only_the_cache_and_the_context_are_planned() -> None:
    # VLLM_CPU_KVCACHE_SPACE=1; the CPU backend has blocks of 128 tokens
    planned = on_cpu(LLAMA, 1, 8192)
    good = Actual(kv_blocks=64, kv_block_tokens=128, max_model_len=8192)
    assert statuses(planned, good) == {"kv_cache": "pass", "context": "pass"}
    half = dataclasses.replace(good, kv_blocks=32)
    assert statuses(planned, half)["kv_cache"] == "fail"


def test_the_deed_is_gathered_from_all_who_tell() -> None:
    labels = {"num_gpu_blocks": "2086", "block_size": "16", "sliding_window": "None"}
    log = Observed(weights_gib=5.0, graphs_gib=1.0, max_model_len=4096)
    assert Actual.of(log, labels, 8192, 100) == Actual(
        5 * GIB, GIB, 2086, 16, max_model_len=8192, driver_bytes=100 * MIB
    )
    assert Actual.of(log).max_model_len == 4096
    assert Actual.of(cache_config={"num_gpu_blocks": "None"}) == Actual()


ENGINE = "c0ffee"
LOG = "INFO Model loading took 5.32 GiB memory\nGraph capturing finished in 2 secs, took 0.08 GiB\n"


def gpu(*processes: GpuProcess) -> Gpu:
    nobody_asks = (
        "GPU-1",
        "0000:01:00.0",
        "10de:2503",
        12288,
        11000,
        1000,
        "8.6",
        None,
        None,
        None,
    )
    return Gpu(0, "NVIDIA GeForce RTX 3060", *nobody_asks, processes)


@pytest.mark.parametrize(
    ("said", "weights"),
    [(LOG, int(5.32 * GIB)), (Answer(1, "", "no such container"), None), (HANGS, None)],
    ids=["logged", "no log", "docker hangs"],
)
def test_the_log_is_that_of_the_container(said: t.Any, weights: int | None) -> None:
    host = FakeHost(commands={"docker logs c0ffee": said})
    facts = ApiFacts(context_length=8192, cache_config={"num_gpu_blocks": "9", "block_size": "16"})
    actual = gather(host, ENGINE, [], facts, 1.0)
    assert (actual.weights_bytes, actual.kv_blocks, actual.max_model_len) == (weights, 9, 8192)


@pytest.mark.parametrize(
    ("processes", "held"),
    [
        ([GpuProcess(1, "VLLM::EngineCore", "C", 9000, container="c0ffee")], 9000),
        (
            [
                GpuProcess(1, "VLLM::EngineCore", "C", 9000, container="c0ffee"),
                GpuProcess(2, "VLLM::Worker", "C", 500, container="c0ffee"),
                GpuProcess(3, "Xorg", "G", 700),
            ],
            9500,
        ),
        ([GpuProcess(1, "VLLM::EngineCore", "C", None, container="c0ffee")], None),
        ([], None),
    ],
    ids=["one", "two and a desktop", "the driver does not tell", "none"],
)
def test_only_the_engines_own_memory_is_held_against_it(
    processes: list[GpuProcess], held: int | None
) -> None:
    actual = gather(FakeHost(commands={}), ENGINE, [gpu(*processes)], ApiFacts(), 1.0)
    assert actual.driver_bytes == (None if held is None else held * MIB)


@pytest.mark.parametrize(
    "plan_given",
    [
        {},
        {"fits": None, "report": ["not yet"]},
        {**PLANNED, "context": "8192"},
        {**PLANNED, "kv_block_bytes": 0},
        {**PLANNED, "terms": {"weights": 1, "kv_cache": 1}},
        {**PLANNED, "terms": {"kv_cache": -1}},
    ],
)
def test_what_is_no_plan_is_refused(plan_given: dict[str, t.Any]) -> None:
    with pytest.raises(PlanGivenError, match="not what memory_plan returns"):
        check_plan(plan_given)


def test_what_is_a_plan_is_taken() -> None:
    check_plan(PLANNED)
    check_plan(on_cpu(LLAMA, 1, 8192))
