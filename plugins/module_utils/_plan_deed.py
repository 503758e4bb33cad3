# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory plan against what vLLM and the driver say after the start: which term is off."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._memory_plan import (
    BLOCK_TOKENS,
    GIB,
    MIB,
    KvLayout,
    Use,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._model_config import Architecture
    from ansible_collections.sparerig.llm.plugins.module_utils._vllm_log import Observed

# The plan is held to these in tests/gpu; a deed outside them is another model, another flag or
# another vLLM than planned. vLLM's log rounds to 0.01 GiB.
WEIGHTS_TOLERANCE: t.Final = 0.01
KV_TOLERANCE: t.Final = 0.03
ROUNDING_BYTES: t.Final = int(0.01 * GIB)


@dataclass(frozen=True)
class Deed:
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
    ) -> Deed:
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


def on_cpu(architecture: Architecture, kv_cache_gib: float, context: int) -> dict[str, t.Any]:
    """Plan for vLLM's CPU backend, where only the KV cache is given (VLLM_CPU_KVCACHE_SPACE)."""
    return {
        "context": context,
        "kv_block_bytes": KvLayout.of(architecture, Use(context=context)).block_bytes,
        "terms": {"kv_cache": int(kv_cache_gib * GIB)},
    }


def compare(planned: Mapping[str, t.Any], deed: Deed) -> list[Check]:
    """Hold the deed against a plan (the module memory_plan's answer, or on_cpu's)."""
    return [
        _weights(planned, deed),
        _kv_cache(planned, deed),
        _context(planned, deed),
        _graphs(planned, deed),
        _total(planned, deed),
    ]


def _weights(planned: Mapping[str, t.Any], deed: Deed) -> Check:
    name, wanted = "plan_weights", planned["terms"].get("weights")
    if wanted is None:
        return _skipped(name)
    expected = f"{_gib(wanted)} within 1 %"
    if deed.weights_bytes is None:
        return _unknown(name, expected, "the log of this start is not there any more")
    seen = _gib(deed.weights_bytes)
    if abs(deed.weights_bytes - wanted) <= WEIGHTS_TOLERANCE * wanted + ROUNDING_BYTES:
        return Check(name, "pass", expected, seen)
    return Check(
        name,
        "fail",
        expected,
        seen,
        "plan-weights-differ",
        "The weights that vLLM loaded are not those that were planned: another model or format, or"
        " it was loaded unquantised.",
        "Plan with model_path, the directory that vLLM serves, and compare its config.json.",
    )


def _kv_cache(planned: Mapping[str, t.Any], deed: Deed) -> Check:
    name, wanted = "plan_kv_cache", planned["terms"]["kv_cache"]
    tokens = wanted // planned["kv_block_bytes"] * BLOCK_TOKENS
    expected = f"{_gib(wanted)} in blocks for {tokens} tokens, within 3 %"
    if deed.kv_blocks is None or deed.kv_block_tokens is None:
        return _unknown(name, expected, "vllm:cache_config_info at /metrics does not tell")
    got = deed.kv_blocks * deed.kv_block_tokens // BLOCK_TOKENS * planned["kv_block_bytes"]
    seen = f"{_gib(got)} in {deed.kv_blocks} blocks of {deed.kv_block_tokens} tokens"
    if abs(got - wanted) <= KV_TOLERANCE * wanted:
        return Check(name, "pass", expected, seen)
    less = "less" if got < wanted else "more"
    return Check(
        name,
        "fail",
        expected,
        seen,
        "plan-kv-cache-differs",
        f"vLLM made {less} room for chats than planned: --kv-cache-memory-bytes or"
        " --kv-cache-dtype is not the plan's, or the plan is of another model.",
        "Run the play again so that the flags of the plan reach vLLM.",
    )


def _context(planned: Mapping[str, t.Any], deed: Deed) -> Check:
    name, expected = "plan_context", f"{planned['context']} tokens"
    if deed.max_model_len is None:
        return _unknown(name, expected, "neither /v1/models nor the log tells")
    seen = f"{deed.max_model_len} tokens"
    if deed.max_model_len == planned["context"]:
        return Check(name, "pass", expected, seen)
    return Check(
        name,
        "fail",
        expected,
        seen,
        "plan-context-differs",
        "--max-model-len is not the plan's.",
        "Set vllm_max_model_len to the plan's context, or plan again with this one.",
    )


def _graphs(planned: Mapping[str, t.Any], deed: Deed) -> Check:
    name, most = "plan_cuda_graphs", planned["terms"].get("cuda_graphs")
    if not most:
        return _skipped(name)
    expected = f"at most {_gib(most)}"
    if deed.graphs_bytes is None:
        return _unknown(name, expected, "the log of this start is not there any more")
    if deed.graphs_bytes <= most + ROUNDING_BYTES:
        return Check(name, "pass", expected, _gib(deed.graphs_bytes))
    return Check(
        name,
        "fail",
        expected,
        _gib(deed.graphs_bytes),
        "plan-graphs-exceed",
        "CUDA graphs take more than planned: --max-num-seqs is higher, or this vLLM records more.",
        "Set vllm_max_num_seqs to the plan's, or vllm_enforce_eager: true.",
    )


def _total(planned: Mapping[str, t.Any], deed: Deed) -> Check:
    name, terms = "plan_total", planned["terms"]
    if "weights" not in terms:
        return _skipped(name)
    most = sum(terms.values())
    expected = f"at most {_gib(most)} held by the engine, {_gib(terms['slack'])} of it slack"
    if deed.driver_bytes is None:
        return _unknown(name, expected, "the driver does not tell what the engine's process holds")
    if deed.driver_bytes <= most:
        return Check(name, "pass", expected, _gib(deed.driver_bytes))
    return Check(
        name,
        "fail",
        expected,
        _gib(deed.driver_bytes),
        "plan-total-exceeds",
        "The engine holds more than all terms together. If no term above failed, it is the"
        " driver's context, the libraries or the activations.",
        "Lower vllm_max_num_batched_tokens and vllm_max_num_seqs, and report it: the plan's"
        " constants are too small for this card.",
    )


def _skipped(name: str) -> Check:
    return Check(name, "skipped", seen="not part of this plan")


def _unknown(name: str, expected: str, cause: str) -> Check:
    return Check(name, "unknown", expected, "not told", cause=cause)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * GIB)


def _count(label: str | None) -> int | None:
    return int(label) if label and label.isdecimal() else None


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
