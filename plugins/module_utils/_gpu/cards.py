# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cards that people have, by name and by PCI id: memory, bandwidth, what drives them.

Sources: compute capability from NVIDIA's "CUDA GPU Compute Capability" page and its legacy page
(developer.nvidia.com/cuda-gpus); memory and bandwidth from NVIDIA's product specifications
(bus width x data rate), in GB/s of 1000^3 bytes; PCI ids from the list supported-gpus.json of
NVIDIA's driver 580 (tests/fixtures/nvidia_host). To add a card: one line in CARDS, from the same
places. What the driver itself says of a card is nvidia_smi.Gpu.

Not looked up yet: memory and bandwidth of GTX 1630, 1650 (all), 1660, 1660 SUPER, RTX 2050, 2060
SUPER, 3050 6GB, 4090 D, 5050, 5090 D, 5090 D v2 and Tesla T4. They only plan before the driver is
there, which then tells the memory itself.
"""

from __future__ import annotations

import difflib
import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class UnknownCardError(ValueError):
    """No card, or more than one, has this name."""


Version = tuple[int, ...]

# What vLLM's images of today (0.20 and later) are built for: nothing older.
LEAST_CAPABILITY: t.Final = (7, 5)
# Below this, bfloat16, the usual format of unquantised weights, has to be computed as float16
# (vLLM platforms/cuda.py).
BFLOAT16_CAPABILITY: t.Final = (8, 0)

# --- Cards by name ------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownCard:
    """A card as it is sold: memory in GiB, bandwidth in GB/s, PCI device ids between spaces."""

    name: str
    memory_gib: int
    bandwidth_gb_s: float
    capability: tuple[int, int]
    pci_ids: str = ""

    @property
    def title(self) -> str:
        """The name with its memory, which tells twins apart."""
        return f"{self.name} {self.memory_gib}GB"


_PASCAL, _TURING, _AMPERE, _ADA, _BLACKWELL = (6, 1), (7, 5), (8, 6), (8, 9), (12, 0)

# Of cards that are sold with two sizes of memory, the first row has the PCI ids of both.
CARDS: t.Final = (
    KnownCard("GTX 1070", 8, 256, _PASCAL),
    KnownCard("GTX 1080", 8, 320, _PASCAL),
    KnownCard("GTX 1080 Ti", 11, 484, _PASCAL),
    KnownCard("GTX 1630", 4, 96, _TURING, "1f83"),
    KnownCard("GTX 1650", 4, 128, _TURING, "1f0a 1f82 1f91 1f96 1f99 1f9d 1fdd 2188"),
    KnownCard("GTX 1650 SUPER", 4, 192, _TURING, "2187"),
    KnownCard("GTX 1650 Ti", 4, 192, _TURING, "1f95 2192"),
    KnownCard("GTX 1660", 6, 192, _TURING, "2184"),
    KnownCard("GTX 1660 SUPER", 6, 336, _TURING, "21c4"),
    KnownCard("GTX 1660 Ti", 6, 288, _TURING, "2182 2191 21d1"),
    KnownCard("RTX 2060", 6, 336, _TURING, "1e89 1f03 1f08 1f11 1f12 1f15 1f51 1f55"),
    KnownCard("RTX 2060", 12, 336, _TURING),
    KnownCard("RTX 2060 SUPER", 8, 448, _TURING, "1f06 1f42 1f47"),
    KnownCard("RTX 2070", 8, 448, _TURING, "1f02 1f07 1f10 1f14 1f50 1f54"),
    KnownCard("RTX 2070 SUPER", 8, 448, _TURING, "1e84 1e91 1ec2 1ec7 1ed1"),
    KnownCard("RTX 2080", 8, 448, _TURING, "1e82 1e87 1e90 1ed0"),
    KnownCard("RTX 2080 SUPER", 8, 496, _TURING, "1e81 1e93 1ed3"),
    KnownCard("RTX 2080 Ti", 11, 616, _TURING, "1e04 1e07"),
    KnownCard("Tesla T4", 16, 320, _TURING),
    KnownCard("RTX 2050", 4, 112, _AMPERE, "25a7 25a9 25ad 25ed"),
    KnownCard("RTX 3050", 6, 168, _AMPERE, "2507 2508 2582 2584"),
    KnownCard("RTX 3050", 8, 224, _AMPERE),
    KnownCard("RTX 3060", 8, 240, _AMPERE, "2487 24c7 2503 2504 2544"),
    KnownCard("RTX 3060", 12, 360, _AMPERE),
    KnownCard("RTX 3060 Ti", 8, 448, _AMPERE, "2414 2486 2489 24c9"),
    KnownCard("RTX 3070", 8, 448, _AMPERE, "2484 2488"),
    KnownCard("RTX 3070 Ti", 8, 608, _AMPERE, "2207 2482"),
    KnownCard("RTX 3080", 10, 760, _AMPERE, "2206 220a 2216"),
    KnownCard("RTX 3080", 12, 912, _AMPERE),
    KnownCard("RTX 3080 Ti", 12, 912, _AMPERE, "2208"),
    KnownCard("RTX 3090", 24, 936, _AMPERE, "2204"),
    KnownCard("RTX 3090 Ti", 24, 1008, _AMPERE, "2203"),
    KnownCard("RTX A2000", 12, 288, _AMPERE),
    KnownCard("RTX A4000", 16, 448, _AMPERE),
    KnownCard("RTX 4060", 8, 272, _ADA, "2808 2882"),
    KnownCard("RTX 4060 Ti", 8, 288, _ADA, "2788 2803 2805"),
    KnownCard("RTX 4060 Ti", 16, 288, _ADA),
    KnownCard("RTX 4070", 12, 504, _ADA, "2709 2786"),
    KnownCard("RTX 4070 SUPER", 12, 504, _ADA, "2783"),
    KnownCard("RTX 4070 Ti", 12, 504, _ADA, "2782"),
    KnownCard("RTX 4070 Ti SUPER", 16, 672, _ADA, "2689 2705"),
    KnownCard("RTX 4080", 16, 717, _ADA, "2704"),
    KnownCard("RTX 4080 SUPER", 16, 736, _ADA, "2702"),
    KnownCard("RTX 4090", 24, 1008, _ADA, "2684"),
    KnownCard("RTX 4090 D", 24, 1008, _ADA, "2685"),
    KnownCard("RTX 5050", 8, 320, _BLACKWELL, "2d83"),
    KnownCard("RTX 5060", 8, 448, _BLACKWELL, "2d05"),
    KnownCard("RTX 5060 Ti", 8, 448, _BLACKWELL, "2d04"),
    KnownCard("RTX 5060 Ti", 16, 448, _BLACKWELL),
    KnownCard("RTX 5070", 12, 672, _BLACKWELL, "2f04"),
    KnownCard("RTX 5070 Ti", 16, 896, _BLACKWELL, "2c05"),
    KnownCard("RTX 5080", 16, 960, _BLACKWELL, "2c02"),
    KnownCard("RTX 5090", 32, 1792, _BLACKWELL, "2b85"),
    KnownCard("RTX 5090 D", 32, 1792, _BLACKWELL, "2b87"),
    KnownCard("RTX 5090 D v2", 24, 1344, _BLACKWELL, "2b8c"),
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


# --- Cards by PCI id: generation, compute capability, kernel modules ----------------------------

OPEN: t.Final = "open"
PROPRIETARY: t.Final = "proprietary"


@dataclass(frozen=True)
class Generation:
    """What the cards of one generation have in common."""

    name: str
    modules: frozenset[str]  # which kernel modules drive it
    last_branch: str = ""  # the last driver branch that knows it; empty: every newer one does


_OLD = frozenset({PROPRIETARY})
_BOTH = frozenset({OPEN, PROPRIETARY})
_NEW = frozenset({OPEN})

TESLA: t.Final = Generation("Tesla (2006) or older", _OLD, "340")
FERMI: t.Final = Generation("Fermi", _OLD, "390")
KEPLER: t.Final = Generation("Kepler", _OLD, "470")
MAXWELL: t.Final = Generation("Maxwell", _OLD, "580")
PASCAL: t.Final = Generation("Pascal", _OLD, "580")
VOLTA: t.Final = Generation("Volta", _OLD, "580")
TURING: t.Final = Generation("Turing", _BOTH)
AMPERE: t.Final = Generation("Ampere", _BOTH)
HOPPER: t.Final = Generation("Hopper", _BOTH)
ADA: t.Final = Generation("Ada Lovelace", _BOTH)
BLACKWELL: t.Final = Generation("Blackwell", _NEW)

# PCI device ids up to and including the first column, from the row above on. Between Fermi and
# Kepler the ids alternate; what matters for both is only that they are too old.
_DEVICE_IDS: t.Final[Sequence[tuple[int, Generation, Version]]] = (
    (0x06BF, TESLA, (1, 0)),
    (0x06DF, FERMI, (2, 0)),
    (0x0DBF, TESLA, (1, 0)),
    (0x0F7F, FERMI, (2, 0)),
    (0x103F, KEPLER, (3, 0)),
    (0x10BF, FERMI, (2, 0)),
    (0x10DF, TESLA, (1, 2)),
    (0x117F, FERMI, (2, 0)),
    (0x11FF, KEPLER, (3, 0)),
    (0x127F, FERMI, (2, 0)),
    (0x133F, KEPLER, (3, 0)),
    (0x13BF, MAXWELL, (5, 0)),
    (0x15DF, MAXWELL, (5, 2)),
    (0x15FF, PASCAL, (6, 0)),
    (0x16FF, MAXWELL, (5, 2)),
    (0x173F, PASCAL, (6, 0)),
    (0x17BF, MAXWELL, (5, 0)),
    (0x1AFF, MAXWELL, (5, 2)),
    (0x1D7F, PASCAL, (6, 1)),
    (0x1DFF, VOLTA, (7, 0)),
    (0x1FFF, TURING, (7, 5)),
    (0x20FF, AMPERE, (8, 0)),
    (0x21FF, TURING, (7, 5)),
    (0x22FF, AMPERE, (8, 6)),
    (0x23FF, HOPPER, (9, 0)),
    (0x25FF, AMPERE, (8, 6)),
    (0x28FF, ADA, (8, 9)),
    (0x29FF, BLACKWELL, (10, 0)),
    (0x2DFF, BLACKWELL, (12, 0)),
    (0x2EFF, BLACKWELL, (12, 1)),
    (0x30FF, BLACKWELL, (12, 0)),
    (0x31FF, BLACKWELL, (10, 3)),
)


@dataclass(frozen=True)
class PciCard:
    """A card as the PCI bus shows it, and what follows from that. No driver is needed."""

    address: str
    pci_id: str
    name: str
    generation: Generation
    capability: Version

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.name} ({self.generation.name}, PCI {self.address}, {self.pci_id})"

    @property
    def geforce(self) -> bool:
        """Whether it is a card for gamers, or must be taken for one: no compatibility packages."""
        return re.search(r"\b(Tesla|Quadro|RTX A|NVIDIA [AHLBT]\d)", self.name) is None


def describe_card(address: str, pci_id: str, listed_names: Mapping[str, str]) -> PciCard:
    """Say what card a PCI id (10de:2503) stands for; ``listed_names`` is what pci.ids says."""
    device = pci_id.rpartition(":")[2].lower()
    number = int(device, 16)
    generation, capability = next(
        ((generation, cc) for last, generation, cc in _DEVICE_IDS if number <= last),
        (BLACKWELL, (12, 0)),
    )
    # Ubuntu 22.04's /usr/share/misc/pci.ids is too old for many, and not on every server.
    known = next((card.name for card in CARDS if device in card.pci_ids.split()), "")
    name = f"NVIDIA GeForce {known}" if known else ""
    if not known:
        listed = listed_names.get(device, "")
        marketed = re.search(r"\[([^]]+)\]", listed)  # GA106 [GeForce RTX 3060]
        name = f"NVIDIA {marketed[1] if marketed else listed}" if listed else "NVIDIA card"
    return PciCard(address, pci_id.lower(), name, generation, capability)


def parse_pci_ids(text: str) -> dict[str, str]:
    """Find NVIDIA's devices in the file pci.ids: names by device id."""
    _unused, found, rest = text.partition("\n10de  ")
    names: dict[str, str] = {}
    for line in rest.splitlines()[1:] if found else ():
        if line and not line.startswith(("\t", "#")):
            break
        match = re.match(r"\t([0-9a-f]{4})  (.+)", line)
        if match:
            names[match[1]] = match[2]
    return names
