# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan is held against the deed, and the term that is off is named."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils import _catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._memory_plan import (
    GIB,
    MIB,
    Card,
    Use,
    plan,
)
from ansible_collections.sparerig.llm.plugins.module_utils._plan_deed import Deed, compare, on_cpu
from ansible_collections.sparerig.llm.plugins.module_utils._plan_report import result
from ansible_collections.sparerig.llm.plugins.module_utils._vllm_log import Observed

LLAMA = _catalogue.find("llama-3-8b-gptq").architecture
PLAN = plan(LLAMA, Card("RTX 3060 12GB", 12288, (8, 6)), Use())
PLANNED = result(PLAN)
BLOCKS = PLAN.kv_cache // PLAN.kv_block_bytes
GOOD = Deed(
    weights_bytes=int(5.35 * GIB),
    graphs_bytes=PLAN.cuda_graphs,
    kv_blocks=BLOCKS,
    kv_block_tokens=16,
    max_model_len=8192,
    driver_bytes=PLAN.free - PLAN.slack,
)


def statuses(planned: dict[str, t.Any], deed: Deed) -> dict[str, str]:
    return {check.name.removeprefix("plan_"): check.status for check in compare(planned, deed)}


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
        ({"graphs_bytes": PLAN.cuda_graphs + 50 * MIB}, "cuda_graphs", "plan-graphs-exceed"),
        ({"driver_bytes": PLAN.free + MIB}, "total", "plan-total-exceeds"),
    ],
)
def test_the_term_that_is_off_is_named(change: dict[str, int], term: str, failure: str) -> None:
    checks = compare(PLANNED, dataclasses.replace(GOOD, **change))
    failed = [check for check in checks if check.status == "fail"]
    assert [(check.name, check.failure) for check in failed] == [(f"plan_{term}", failure)]
    assert failed[0].cause
    assert failed[0].mend


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_small_differences_pass(factor: float) -> None:
    deed = dataclasses.replace(GOOD, kv_blocks=int(BLOCKS * factor))
    assert statuses(PLANNED, deed)["kv_cache"] == "pass"


def test_what_nobody_tells_is_unknown_and_no_failure() -> None:
    assert set(statuses(PLANNED, Deed()).values()) == {"unknown"}


def test_without_graphs_there_is_nothing_to_hold_against() -> None:
    eager = result(plan(LLAMA, PLAN.card, Use(enforce_eager=True)))
    assert statuses(eager, GOOD)["cuda_graphs"] == "skipped"


def test_on_a_cpu_only_the_cache_and_the_context_are_planned() -> None:
    # VLLM_CPU_KVCACHE_SPACE=1; the CPU backend has blocks of 128 tokens
    planned = on_cpu(LLAMA, 1, 8192)
    good = Deed(kv_blocks=64, kv_block_tokens=128, max_model_len=8192)
    assert statuses(planned, good) == {
        "weights": "skipped",
        "kv_cache": "pass",
        "context": "pass",
        "cuda_graphs": "skipped",
        "total": "skipped",
    }
    half = dataclasses.replace(good, kv_blocks=32)
    assert statuses(planned, half)["kv_cache"] == "fail"


def test_the_deed_is_gathered_from_all_who_tell() -> None:
    labels = {"num_gpu_blocks": "2086", "block_size": "16", "sliding_window": "None"}
    log = Observed(weights_gib=5.0, graphs_gib=1.0, max_model_len=4096)
    assert Deed.of(log, labels, 8192, 100) == Deed(
        5 * GIB, GIB, 2086, 16, max_model_len=8192, driver_bytes=100 * MIB
    )
    assert Deed.of(log).max_model_len == 4096
    assert Deed.of(cache_config={"num_gpu_blocks": "None"}) == Deed()
