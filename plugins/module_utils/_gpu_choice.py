# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card to plan for: by name, by numbers, or as the driver reports it."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils import _cards
from ansible_collections.sparerig.llm.plugins.module_utils._memory_plan import Card

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class GpuChoiceError(ValueError):
    """What was given is not a card."""


def card(params: Mapping[str, t.Any]) -> Card:
    """Make the card from a module's options."""
    if params["gpus"] is not None:
        return of_driver(params["gpus"])
    known = _cards.find(params["gpu"], params["gpu_memory_mib"]) if params["gpu"] else None
    capability = _capability(params["gpu_capability"]) if params["gpu_capability"] else None
    if known is None:
        return Card(
            name=f"a card of {params['gpu_memory_mib']} MiB",
            total_mib=params["gpu_memory_mib"],
            capability=capability or (0, 0),
            used_mib=params["gpu_used_mib"],
            bandwidth_gb_s=params["gpu_bandwidth_gb_s"],
            count=params["gpu_count"],
        )
    return Card(
        name=known.title,
        total_mib=known.memory_gib * 1024,
        capability=capability or known.capability,
        used_mib=params["gpu_used_mib"],
        bandwidth_gb_s=params["gpu_bandwidth_gb_s"] or known.bandwidth_gb_s,
        count=params["gpu_count"],
    )


def of_driver(gpus: Sequence[Mapping[str, t.Any]]) -> Card:
    """Take the card with the most free memory of those that gpu_info found."""
    if not gpus:
        raise GpuChoiceError(
            "The host has no NVIDIA GPU that its driver offers: `nvidia-smi` on the host says why."
        )
    best = max((_of_driver(gpu) for gpu in gpus), key=lambda card: card.free_bytes)
    alike = sum(gpu.get("name") == best.name for gpu in gpus)
    return Card(
        best.name,
        best.total_mib,
        best.capability,
        best.used_mib,
        best.free_mib,
        best.bandwidth_gb_s,
        count=alike,
    )


def _of_driver(gpu: Mapping[str, t.Any]) -> Card:
    missing = [key for key in ("name", "memory_total_mib", "memory_used_mib") if key not in gpu]
    if missing:
        raise GpuChoiceError(
            f"gpus: an entry has no {', '.join(missing)}; give what gpu_info returns in `gpus`."
        )
    try:
        known = _cards.find(gpu["name"], gpu["memory_total_mib"])
    except _cards.UnknownCardError:
        known = None
    if gpu.get("compute_capability"):
        capability = _capability(gpu["compute_capability"])
    elif known:
        capability = known.capability
    else:
        raise GpuChoiceError(
            f"The driver does not tell the compute capability of {gpu['name']}, and the card is"
            " not a known one. Give gpu_memory_mib and gpu_capability instead of gpus."
        )
    own = _held_by_vllm(gpu.get("processes") or ())
    free = gpu.get("memory_free_mib")
    return Card(
        name=gpu["name"],
        total_mib=gpu["memory_total_mib"],
        capability=capability,
        used_mib=max(0, gpu["memory_used_mib"] - own),
        free_mib=None if free is None else free + own,
        bandwidth_gb_s=known.bandwidth_gb_s if known else None,
    )


def _held_by_vllm(processes: Sequence[Mapping[str, t.Any]]) -> int:
    """Sum what a running engine holds: the start that is planned follows its end."""
    return sum(
        process.get("used_mib") or 0
        for process in processes
        if "vllm" in str(process.get("name", "")).lower()
    )


def _capability(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,2})\.(\d)", str(text).strip())
    if not found:
        raise GpuChoiceError(
            f"gpu_capability is {text!r}; give it as NVIDIA does, such as 8.6 for an RTX 3060."
        )
    return int(found[1]), int(found[2])
