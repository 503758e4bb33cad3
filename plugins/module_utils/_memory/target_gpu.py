# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The card to plan for: by name, by numbers, as the driver reports it, or by its PCI id."""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.sparerig.llm.plugins.module_utils._gpu import cards, nvidia_smi
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import LEAST_CAPABILITY
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    Card,
    check_card,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

_PCI_NAMES = "/usr/share/misc/pci.ids"


class GpuChoiceError(ValueError):
    """What was given is not a card."""


class NotYetKnownError(Exception):
    """The card is there, and how much memory it has only a driver can tell."""


@dataclass(frozen=True)
class GpuRequest:
    """Which card is meant.

    By ``name``, by numbers, or as gpu_info returns it in ``gpus``; the host's own where none of
    them is given. ``indexes`` names the only cards of the host that may be used.
    """

    name: str | None = None
    gpus: Sequence[Mapping[str, t.Any]] | None = None
    memory_mib: int | None = None
    capability: str | None = None
    bandwidth_gb_s: float | None = None
    used_mib: int = 0
    count: int = 1
    indexes: tuple[int, ...] = ()


def card(request: GpuRequest, host: Host) -> Card:
    """Make the card from what was asked for; where nothing was, look at the host's own."""
    if request.gpus is not None:
        return of_driver(request.gpus, request.indexes)
    if not (request.name or request.memory_mib):
        return of_host(host, request.indexes)
    known = cards.find(request.name, request.memory_mib) if request.name else None
    capability = _capability(request.capability) if request.capability else None
    if known is None:
        return Card(
            name=f"a card of {request.memory_mib} MiB",
            total_mib=request.memory_mib or 0,
            capability=capability or (0, 0),
            used_mib=request.used_mib,
            bandwidth_gb_s=request.bandwidth_gb_s,
            count=request.count,
        )
    return Card(
        name=known.title,
        total_mib=known.memory_gib * 1024,
        capability=capability or known.capability,
        used_mib=request.used_mib,
        bandwidth_gb_s=request.bandwidth_gb_s or known.bandwidth_gb_s,
        count=request.count,
    )


def cdi_names(indexes: Sequence[int]) -> list[str]:
    """Name cards as Docker takes them by CDI; all of the host's where none is singled out."""
    return [f"nvidia.com/gpu={index}" for index in indexes] or ["nvidia.com/gpu=all"]


def of_host(host: Host, indexes: Sequence[int] = ()) -> Card:
    """Take the host's best card: by its driver, or before there is one by its PCI id."""
    report = nvidia_smi.read(host, kernel_log=False)
    if report.gpus:
        return of_driver([asdict(gpu) for gpu in report.gpus], indexes)
    if not report.pci_devices:
        raise GpuChoiceError(
            "The host has no NVIDIA GPU: none is on its PCI bus. Look with `lspci -d 10de:`; to"
            " serve with the processor, set sparerig_device: cpu."
        )
    names = cards.parse_pci_ids(host.read(_PCI_NAMES) or "")
    return of_bus([(device.address, device.pci_id) for device in report.pci_devices], names)


def of_bus(devices: Sequence[tuple[str, str]], names: Mapping[str, str]) -> Card:
    """Take the best of the cards on the PCI bus, with the least memory that it is sold with."""
    seen = [cards.describe_card(address, pci_id, names) for address, pci_id in devices]
    usable = [card for card in seen if card.capability >= LEAST_CAPABILITY]
    for too_old in [] if usable else seen:
        check_card(Card(too_old.name, 4096, _pair(too_old.capability)))
    known = [(card, cards.least_of_name(card.name)) for card in usable]
    sold = [(card, sold_as) for card, sold_as in known if sold_as]
    if not sold:
        raise NotYetKnownError(
            f"{usable[0].label} is not in the list of known cards: how much memory it has is known"
            " once its driver is there, and the model is chosen then."
        )
    best, sold_as = max(sold, key=lambda pair: pair[1].memory_gib)
    return Card(
        name=sold_as.title,
        total_mib=sold_as.memory_gib * 1024,
        capability=_pair(best.capability),
        bandwidth_gb_s=sold_as.bandwidth_gb_s,
        count=sum(card.name == best.name for card in usable),
        confirmed=False,
    )


def _pair(capability: Sequence[int]) -> tuple[int, int]:
    return capability[0], capability[1]


def of_driver(gpus: Sequence[Mapping[str, t.Any]], indexes: Sequence[int] = ()) -> Card:
    """Take the card with the most free memory, of those that vLLM can use at all."""
    found = [gpu.get("index") for gpu in gpus]
    unknown = [index for index in indexes if index not in found]
    if unknown:
        raise GpuChoiceError(
            f"gpu_indexes names {', '.join(map(str, unknown))}, and the host's GPUs are"
            f" {', '.join(map(str, found)) or 'none'}: `nvidia-smi -L` on the host lists them."
        )
    gpus = [gpu for gpu in gpus if not indexes or gpu.get("index") in indexes]
    if not gpus:
        raise GpuChoiceError(
            "The host has no NVIDIA GPU that its driver offers: `nvidia-smi` on the host says why."
        )
    cards = [_of_driver(gpu) for gpu in gpus]
    usable = [card for card in cards if card.capability >= LEAST_CAPABILITY] or cards
    best = max(usable, key=lambda card: card.free_bytes)
    alike = [card for card in usable if card.name == best.name]
    # The best first: it is the one that is used, unless several share the model.
    order = sorted(alike, key=lambda card: card is not best)
    named = tuple(index for card in order for index in card.indexes)
    return replace(best, count=len(alike), indexes=named if len(found) > 1 else ())


def _of_driver(gpu: Mapping[str, t.Any]) -> Card:
    missing = [key for key in ("name", "memory_total_mib", "memory_used_mib") if key not in gpu]
    if missing:
        raise GpuChoiceError(
            f"gpus: an entry has no {', '.join(missing)}; give what gpu_info returns in `gpus`."
        )
    try:
        known = cards.find(gpu["name"], gpu["memory_total_mib"])
    except cards.UnknownCardError:
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
        indexes=() if gpu.get("index") is None else (gpu["index"],),
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
