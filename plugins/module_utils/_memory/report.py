# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A memory plan as a module returns it, and as lines that people read."""

from __future__ import annotations

import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import GIB, MIB, Plan
from ansible_collections.sparerig.llm.plugins.module_utils._memory.target_gpu import cdi_names

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import Card
    from ansible_collections.sparerig.llm.plugins.module_utils._model.catalogue import Model

_WORDS: t.Final = {
    "driver_context": "driver's context",
    "weights": "weights",
    "non_torch": "libraries",
    "activations": "activations",
    "cuda_graphs": "CUDA graphs",
    "kv_cache": "KV cache",
    "slack": "slack",
}


def result(plan: Plan) -> dict[str, t.Any]:
    """Give the plan as a module returns it."""
    use = plan.use
    return {
        "fits": plan.fits,
        "estimate": plan.estimate,
        "model": plan.model,
        "confirmed": plan.card.confirmed,
        "gpu": {
            "name": plan.card.name,
            "memory_mib": plan.card.total_mib,
            "visible_mib": plan.card.visible_bytes // MIB,
            "free_mib": plan.card.free_bytes // MIB,
            "compute_capability": ".".join(map(str, plan.card.capability)),
            "bandwidth_gb_s": plan.card.bandwidth_gb_s,
        },
        "context": use.context,
        "chats": use.chats,
        "terms": plan.terms,
        "free_bytes": plan.free,
        "missing_bytes": plan.missing,
        "kv_block_bytes": plan.kv_block_bytes,
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "kv_bytes_per_chat": plan.kv_bytes_per_chat,
        "kv_cache_tokens": plan.kv_cache_tokens,
        "full_chats": round(plan.full_chats, 2),
        "longest_context": plan.longest_context,
        "decode_ceiling": plan.decode_ceiling and round(plan.decode_ceiling, 1),
        "vllm_arguments": dict(plan.vllm_arguments),
        "vllm_environment": plan.environment if plan.fits else {},
        "gpus": cdi_names(plan.card.indexes[: use.tensor_parallel_size]),
        "choices": [
            {"what": choice.what, "cost": choice.cost, "settings": _options(choice.settings)}
            for choice in plan.choices
        ],
        "notes": list(plan.notes),
    }


def _options(settings: dict[str, t.Any]) -> dict[str, t.Any]:
    """Give settings of a use as options of the module memory_plan."""
    options = dict(settings)
    if options.pop("fp8_kv_cache", False):
        options["kv_cache_dtype"] = "fp8"
    return options


def lines(plan: Plan) -> list[str]:
    """Write the sum of one plan."""
    verdict = ("fits" if plan.fits else f"does not fit: {_gib(plan.missing)} too much") + (
        " (an estimate: the architecture is not known)" if plan.estimate else ""
    )
    head = f"{plan.model or 'The model'} on {plan.card.name}, {_asked_for(plan)}: {verdict}"
    sums = [f"  {_WORDS[term]:<18}{_gib(size):>10}" for term, size in plan.terms.items()]
    sums.append(f"  {'of free memory':<18}{_gib(plan.free):>10}")
    cache = (
        f"KV cache: {plan.kv_cache_tokens} tokens, {plan.full_chats:.1f} chats of"
        f" {plan.use.context} tokens at once; {plan.kv_bytes_per_token} bytes a token."
    )
    found = [cache]
    if plan.decode_ceiling:
        found.append(f"At most {plan.decode_ceiling:.0f} tokens a second for one chat.")
    offers = [f"It would fit with {choice.what} ({choice.cost})." for choice in plan.choices]
    if not plan.fits:
        found = offers or ["No single change makes it fit: take a smaller model."]
    return [head, *sums, *found, *plan.notes]


def row(model: Model, plan: Plan | str) -> dict[str, t.Any]:
    """Give one model's line of the table as data."""
    known: dict[str, t.Any] = {
        "model": model.id,
        "repository": model.repository,
        "format": model.format,
        "license": model.license,
        "gated": model.gated,
        "native_context": model.context,
    }
    if isinstance(plan, str):
        return {**known, "fits": False, "why_not": plan.split(". ")[0]}
    why_not = "" if plan.fits else f"{_gib(plan.missing)} too much"
    if plan.choices:
        why_not += f"; fits with {plan.choices[0].what}"
    return {
        **known,
        "fits": plan.fits,
        "why_not": why_not,
        "weights_gib": round(plan.weights / GIB, 2),
        "longest_context": plan.longest_context,
        "full_chats": round(plan.full_chats, 1),
        "decode_ceiling": plan.decode_ceiling and round(plan.decode_ceiling),
    }


def table(card: Card, rows: Iterable[dict[str, t.Any]], context: int, chats: int) -> list[str]:
    """Write what fits a card."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    speed = f"{card.bandwidth_gb_s:.0f} GB/s, " if card.bandwidth_gb_s else ""
    head = (
        f"What fits {card.name}: {_gib(card.free_bytes)} free for programs, {speed}compute"
        f" capability {'.'.join(map(str, card.capability))}. {_many(chats)} of {context} tokens."
    )
    return [
        head,
        "",
        *(_aligned(line, widths) for line in cells),
        "",
        "longest: the longest context for that many chats. chats: how many of full length at once.",
        "tok/s: the most that the memory's bandwidth allows one chat; expect 75 to 90 % of it.",
    ]


_HEADINGS: t.Final = ("model", "format", "weights", "longest", "chats", "tok/s", "fits")
_NUMBERS: t.Final = range(2, 6)


def _cells(row: dict[str, t.Any]) -> Sequence[str]:
    fits = "yes" if row["fits"] else f"no: {row['why_not']}"
    if row["fits"] and row["gated"]:
        fits += f", with a token ({row['license']})"
    if "weights_gib" not in row:
        return (row["model"], row["format"], "", "", "", "", fits)
    return (
        row["model"],
        row["format"],
        f"{row['weights_gib']:.1f} GiB",
        str(row["longest_context"]) if row["fits"] else "-",
        f"{row['full_chats']:.1f}" if row["fits"] else "-",
        str(row["decode_ceiling"]) if row["fits"] and row["decode_ceiling"] else "-",
        fits,
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _asked_for(plan: Plan) -> str:
    return f"{_many(plan.use.chats)} of {plan.use.context} tokens"


def _many(chats: int) -> str:
    return "1 chat" if chats == 1 else f"{chats} chats"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
