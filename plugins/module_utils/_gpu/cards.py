# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cards that people have: memory, bandwidth and compute capability by name.

Sources: compute capability from NVIDIA's "CUDA GPU Compute Capability" page and its legacy page
(developer.nvidia.com/cuda-gpus); memory and bandwidth from NVIDIA's product specifications
(bus width x data rate), in GB/s of 1000^3 bytes. PCI identifiers of the RTX 3060 from the list
supported-gpus.json of NVIDIA's driver 580. To add a card: one line, from the same places.
"""

from __future__ import annotations

import difflib
import re
import typing as t
from dataclasses import dataclass


class UnknownCardError(ValueError):
    """No card, or more than one, has this name."""


@dataclass(frozen=True)
class KnownCard:
    """A card as it is sold: memory in GiB, bandwidth in GB/s."""

    name: str
    memory_gib: int
    bandwidth_gb_s: float
    capability: tuple[int, int]
    pci_ids: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name with its memory, which tells twins apart."""
        return f"{self.name} {self.memory_gib}GB"


_PASCAL, _TURING, _AMPERE, _ADA, _BLACKWELL = (6, 1), (7, 5), (8, 6), (8, 9), (12, 0)

CARDS: t.Final = (
    KnownCard("GTX 1070", 8, 256, _PASCAL),
    KnownCard("GTX 1080", 8, 320, _PASCAL),
    KnownCard("GTX 1080 Ti", 11, 484, _PASCAL),
    KnownCard("GTX 1660 Ti", 6, 288, _TURING),
    KnownCard("RTX 2060", 6, 336, _TURING),
    KnownCard("RTX 2060", 12, 336, _TURING),
    KnownCard("RTX 2070", 8, 448, _TURING),
    KnownCard("RTX 2070 SUPER", 8, 448, _TURING),
    KnownCard("RTX 2080", 8, 448, _TURING),
    KnownCard("RTX 2080 SUPER", 8, 496, _TURING),
    KnownCard("RTX 2080 Ti", 11, 616, _TURING),
    KnownCard("Tesla T4", 16, 320, _TURING),
    KnownCard("RTX 3050", 8, 224, _AMPERE),
    KnownCard("RTX 3060", 8, 240, _AMPERE),
    KnownCard("RTX 3060", 12, 360, _AMPERE, ("2487", "2503", "2504")),
    KnownCard("RTX 3060 Ti", 8, 448, _AMPERE),
    KnownCard("RTX 3070", 8, 448, _AMPERE),
    KnownCard("RTX 3070 Ti", 8, 608, _AMPERE),
    KnownCard("RTX 3080", 10, 760, _AMPERE),
    KnownCard("RTX 3080", 12, 912, _AMPERE),
    KnownCard("RTX 3080 Ti", 12, 912, _AMPERE),
    KnownCard("RTX 3090", 24, 936, _AMPERE),
    KnownCard("RTX 3090 Ti", 24, 1008, _AMPERE),
    KnownCard("RTX A2000", 12, 288, _AMPERE),
    KnownCard("RTX A4000", 16, 448, _AMPERE),
    KnownCard("RTX 4060", 8, 272, _ADA),
    KnownCard("RTX 4060 Ti", 8, 288, _ADA),
    KnownCard("RTX 4060 Ti", 16, 288, _ADA),
    KnownCard("RTX 4070", 12, 504, _ADA),
    KnownCard("RTX 4070 SUPER", 12, 504, _ADA),
    KnownCard("RTX 4070 Ti", 12, 504, _ADA),
    KnownCard("RTX 4070 Ti SUPER", 16, 672, _ADA),
    KnownCard("RTX 4080", 16, 717, _ADA),
    KnownCard("RTX 4080 SUPER", 16, 736, _ADA),
    KnownCard("RTX 4090", 24, 1008, _ADA),
    KnownCard("RTX 5060", 8, 448, _BLACKWELL),
    KnownCard("RTX 5060 Ti", 8, 448, _BLACKWELL),
    KnownCard("RTX 5060 Ti", 16, 448, _BLACKWELL),
    KnownCard("RTX 5070", 12, 672, _BLACKWELL),
    KnownCard("RTX 5070 Ti", 16, 896, _BLACKWELL),
    KnownCard("RTX 5080", 16, 960, _BLACKWELL),
    KnownCard("RTX 5090", 32, 1792, _BLACKWELL),
)


def find(wanted: str, total_mib: int | None = None) -> KnownCard:
    """Find a card by what people or the driver call it: 'RTX 3060 12GB', 'GeForce RTX 3060'.

    Twins of the same name are told apart by the memory in the name or the driver's total.
    """
    name, memory_gib = _split(wanted)
    if memory_gib is None and total_mib is not None:
        memory_gib = round(total_mib / 1024)
    named = [card for card in CARDS if _split(card.name)[0] == name]
    found = [card for card in named if memory_gib in {None, card.memory_gib}]
    if len(found) == 1:
        return found[0]
    if named:
        sold_as = " or ".join(repr(card.title) for card in named)
        raise UnknownCardError(f"{wanted!r} is sold as {sold_as}: give one of these names.")
    near = difflib.get_close_matches(name, [_split(card.name)[0] for card in CARDS], n=3)
    hint = [card.title for card in CARDS if _split(card.name)[0] in near]
    raise UnknownCardError(
        f"{wanted!r} is not in the list of known cards."
        + (f" Did you mean {' or '.join(repr(title) for title in hint)}?" if hint else "")
        + " Any other card can be given by its numbers: gpu_memory_mib and gpu_capability."
    )


def least_of_name(name: str) -> KnownCard | None:
    """Find a card by name alone: of twins the one with the least memory, which is surely there."""
    twins = [card for card in CARDS if _split(card.name)[0] == _split(name)[0]]
    return min(twins, key=lambda card: card.memory_gib) if twins else None


def _split(name: str) -> tuple[str, int | None]:
    """Take the maker's words away and the memory out of a name."""
    words = re.sub(r"\b(nvidia|geforce|graphics card)\b", " ", name.lower())
    memory = re.search(r"\b(\d+)\s*(?:gib|gb|g)\b", words)
    words = re.sub(r"\b\d+\s*(?:gib|gb|g)\b", " ", words)
    words = re.sub(r"(?<=\d)(?=ti\b|super\b)", " ", words)
    return " ".join(words.split()), int(memory[1]) if memory else None
