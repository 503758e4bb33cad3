# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory plan against what vLLM and the driver say after the start: which term is off."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._host.command import CommandTimedOutError
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    BLOCK_TOKENS,
    GIB,
    MIB,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import Observed, observed

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._gpu.nvidia_smi import Gpu
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host
    from ansible_collections.sparerig.llm.plugins.module_utils._vllm.health import ApiFacts

# The plan is held to these in tests/gpu; an actual outside them is another model, another flag or
# another vLLM than planned. vLLM's log rounds to 0.01 GiB.
WEIGHTS_TOLERANCE: t.Final = 0.01
KV_TOLERANCE: t.Final = 0.03
ROUNDING_BYTES: t.Final = int(0.01 * GIB)


@dataclass(frozen=True)
class Actual:
    """What is known after the start; None where nobody tells."""

    weights_bytes: int | None = None
    graphs_bytes: int | None = None
    kv_blocks: int | None = None
    kv_block_tokens: int | None = None
    max_model_len: int | None = None
    driver_bytes: int | None = None

    @classmethod
    def of(
        cls,
        log: Observed | None = None,
        cache_config: Mapping[str, str] | None = None,
        max_model_len: int | None = None,
        driver_mib: int | None = None,
    ) -> Actual:
        """Gather from the log, the labels of vllm:cache_config_info, /v1/models and the driver."""
        labels = cache_config or {}
        return cls(
            weights_bytes=_bytes(log.weights_gib if log else None),
            graphs_bytes=_bytes(log.graphs_gib if log else None),
            kv_blocks=_count(labels.get("num_gpu_blocks")),
            kv_block_tokens=_count(labels.get("block_size")),
            max_model_len=max_model_len or (log.max_model_len if log else None),
            driver_bytes=None if driver_mib is None else driver_mib * MIB,
        )


def names(planned: Mapping[str, t.Any]) -> list[str]:
    """Name the checks that a plan is held to; on a processor there are fewer."""
    terms = planned["terms"]
    asked = {
        "plan_weights": "weights" in terms,
        "plan_kv_cache": True,
        "plan_context": True,
        "plan_cuda_graphs": bool(terms.get("cuda_graphs")),
        "plan_total": "weights" in terms,
    }
    return [name for name, wanted in asked.items() if wanted]


def compare(planned: Mapping[str, t.Any], actual: Actual, evidence: Evidence) -> None:
    """Hold the actual against a plan, the answer of the module memory_plan."""
    for name in names(planned):
        _CHECKS[name](planned, actual, evidence)


def _weights(planned: Mapping[str, t.Any], actual: Actual, evidence: Evidence) -> None:
    name, wanted = "plan_weights", planned["terms"]["weights"]
    expected = f"{_gib(wanted)} within 1 %"
    if planned.get("estimate"):
        _estimated(name, expected, actual.weights_bytes, evidence)
        return
    if actual.weights_bytes is None:
        _untold(name, expected, "the log of this start is not there any more", evidence)
        return
    off = abs(actual.weights_bytes - wanted)
    evidence.verdict(
        name,
        "plan-weights-differ",
        good=off <= WEIGHTS_TOLERANCE * wanted + ROUNDING_BYTES,
        expected=expected,
        seen=_gib(actual.weights_bytes),
    )


def _kv_cache(planned: Mapping[str, t.Any], actual: Actual, evidence: Evidence) -> None:
    name, wanted = "plan_kv_cache", planned["terms"]["kv_cache"]
    tokens = wanted // planned["kv_block_bytes"] * BLOCK_TOKENS
    expected = f"{_gib(wanted)} in blocks for {tokens} tokens, within 3 %"
    if actual.kv_blocks is None or actual.kv_block_tokens is None:
        _untold(name, expected, "vllm:cache_config_info at /metrics does not tell", evidence)
        return
    if planned.get("estimate"):
        _estimated(name, expected, None, evidence)
        return
    got = actual.kv_blocks * actual.kv_block_tokens // BLOCK_TOKENS * planned["kv_block_bytes"]
    evidence.verdict(
        name,
        "plan-kv-cache-differs",
        good=abs(got - wanted) <= KV_TOLERANCE * wanted,
        expected=expected,
        seen=f"{_gib(got)} in {actual.kv_blocks} blocks of {actual.kv_block_tokens} tokens",
    )


def _context(planned: Mapping[str, t.Any], actual: Actual, evidence: Evidence) -> None:
    name, expected = "plan_context", f"{planned['context']} tokens"
    if actual.max_model_len is None:
        _untold(name, expected, "neither /v1/models nor the log tells", evidence)
        return
    evidence.verdict(
        name,
        "plan-context-differs",
        good=actual.max_model_len == planned["context"],
        expected=expected,
        seen=f"{actual.max_model_len} tokens",
    )


def _graphs(planned: Mapping[str, t.Any], actual: Actual, evidence: Evidence) -> None:
    # vLLM's figure is by how much the card's free memory fell meanwhile: a desktop is in it too.
    name, terms = "plan_cuda_graphs", planned["terms"]
    most = terms["cuda_graphs"] + terms["slack"]
    expected = f"{_gib(terms['cuda_graphs'])}, with the slack at most {_gib(most)}"
    if actual.graphs_bytes is None:
        _untold(name, expected, "the log of this start is not there any more", evidence)
        return
    good = actual.graphs_bytes <= most + ROUNDING_BYTES
    held = actual.driver_bytes
    if not good and held is not None and held <= sum(terms.values()):
        reason = "another program took memory of the card while the graphs were recorded"
        _untold(name, expected, reason, evidence)
        return
    evidence.verdict(
        name,
        "plan-graphs-exceed",
        good=good,
        expected=expected,
        seen=_gib(actual.graphs_bytes),
    )


def _total(planned: Mapping[str, t.Any], actual: Actual, evidence: Evidence) -> None:
    name, most = "plan_total", sum(planned["terms"].values())
    slack = _gib(planned["terms"]["slack"])
    expected = f"at most {_gib(most)} held by the engine, {slack} of it slack"
    if actual.driver_bytes is None:
        _untold(name, expected, "the driver does not tell what the engine holds", evidence)
        return
    evidence.verdict(
        name,
        "plan-total-exceeds",
        good=actual.driver_bytes <= most,
        expected=expected,
        seen=_gib(actual.driver_bytes),
    )


_CHECKS: t.Final = {
    "plan_weights": _weights,
    "plan_kv_cache": _kv_cache,
    "plan_context": _context,
    "plan_cuda_graphs": _graphs,
    "plan_total": _total,
}


def _estimated(name: str, expected: str, size: int | None, evidence: Evidence) -> None:
    """Hold nothing against an estimate: who knows the architecture only by its files, guesses."""
    seen = "not compared" if size is None else _gib(size)
    cause = "the plan does not know this architecture: its figures are an estimate"
    evidence.unknown(name, expected=expected, seen=seen, cause=cause)


def _untold(name: str, expected: str, cause: str, evidence: Evidence) -> None:
    evidence.unknown(name, expected=expected, seen="not told", cause=cause)


# --- gathering --------------------------------------------------------------------------------


class PlanGivenError(ValueError):
    """What was given as a plan is none."""


def check_plan(planned: Mapping[str, t.Any]) -> None:
    """Refuse what is no plan before anything is asked."""
    terms = planned.get("terms")
    terms = terms if isinstance(terms, dict) else {}
    sizes = (planned.get("context"), planned.get("kv_block_bytes"), *terms.values())
    whole = all(isinstance(size, int) and size >= 0 for size in sizes)
    if (
        not whole
        or not planned["kv_block_bytes"]
        or "kv_cache" not in terms
        or ("weights" in terms) != ("slack" in terms)
    ):
        raise PlanGivenError(
            "plan is not what memory_plan returns: it needs context, kv_block_bytes and terms, in"
            " whole bytes. Give the whole registered answer of a plan that fits."
        )


def gather(
    host: Host, container_id: str | None, gpus: Iterable[Gpu], facts: ApiFacts, timeout: float
) -> Actual:
    """Ask the log and the driver, and take what the API told."""
    log = _engine_log(host, container_id, timeout) if container_id else ""
    held = _held_mib(gpus, container_id) if container_id else None
    return Actual.of(observed(log), facts.cache_config, facts.context_length, held)


def _engine_log(host: Host, container: str, timeout: float) -> str:
    """Read what the container wrote; empty where nobody tells."""
    try:
        answer = host.run(["docker", "logs", container], timeout=timeout)
    except CommandTimedOutError:
        return ""
    return answer.stdout + answer.stderr if answer is not None and answer.ok else ""


def _held_mib(gpus: Iterable[Gpu], container: str) -> int | None:
    """Sum what the engine's processes hold on the card on which they hold most."""
    sums = []
    for gpu in gpus:
        own = [process for process in gpu.processes or () if process.container == container]
        known = [process.used_mib for process in own if process.used_mib is not None]
        if known and len(known) == len(own):
            sums.append(sum(known))
    return max(sums, default=None)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)


def _count(label: str | None) -> int | None:
    return int(label) if label and label.isdecimal() else None


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
