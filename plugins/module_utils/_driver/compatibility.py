# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NVIDIA driver, card and vLLM image go together: all tables of it, and what follows.

Nothing here reads a host. The figures are those of NVIDIA's release notes and of vLLM's release
files; every row has its line in the tests.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Version = tuple[int, ...]


class UnknownImageError(Exception):
    """No table says which CUDA version an image is built for."""


def parse_version(text: str) -> Version:
    """Turn 580.178.04 into (580, 178, 4), so that versions compare as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def show_version(version: Version) -> str:
    """Write a CUDA version or a compute capability as people do: 12.9."""
    return ".".join(str(part) for part in version)


# --- Driver -> CUDA -----------------------------------------------------------------------------

# The driver that came with each CUDA toolkit: the first one that offers this CUDA version.
DRIVER_OFFERS: t.Final[Sequence[tuple[str, Version]]] = (
    ("525.60.13", (12, 0)),
    ("530.30.02", (12, 1)),
    ("535.54.03", (12, 2)),
    ("550.54.14", (12, 4)),
    ("560.28.03", (12, 6)),
    ("570.26", (12, 8)),
    ("575.51.03", (12, 9)),
    ("580.65.06", (13, 0)),
    ("590.44.01", (13, 1)),
    ("595.45.04", (13, 2)),
)


def cuda_of_driver(driver: str) -> Version | None:
    """Say which CUDA version a driver offers; a branch alone (580) stands for its newest driver."""
    version = parse_version(driver)
    if len(version) == 1:
        version = (*version, 10_000)
    offered = [cuda for first, cuda in DRIVER_OFFERS if version >= parse_version(first)]
    return offered[-1] if offered else None


def branch_of(driver: str) -> str:
    """Name the branch of a driver: 580 for 580.178.04."""
    return driver.split(".", maxsplit=1)[0]


def branch_for_cuda(cuda: Version) -> str:
    """Name the oldest driver branch that offers a CUDA version; empty when none does yet."""
    return next((branch_of(first) for first, offered in DRIVER_OFFERS if offered >= cuda), "")


# --- vLLM image -> CUDA, compute capability -----------------------------------------------------

# The first release whose plain image tag is built for this CUDA version. Where the sources leave
# a gap between two releases, the newer figure holds: a driver too new does no harm.
IMAGE_NEEDS: t.Final[Sequence[tuple[str, Version]]] = (
    ("0.2.0", (12, 1)),
    ("0.4.3", (12, 4)),
    ("0.9.0", (12, 8)),
    ("0.11.0", (12, 9)),
    ("0.20.0", (13, 0)),
)
# Tags that name their CUDA version, and the first and last release that has them.
IMAGE_SUFFIXES: t.Final[Mapping[str, tuple[Version, str, str]]] = {
    "cu129": ((12, 9), "0.20.0", "0.32.0"),
    "cu130": ((13, 0), "0.2.0", "0.19.1"),
}
# The first release whose images hold no code for cards below this compute capability.
IMAGE_CAPABILITY: t.Final[Sequence[tuple[str, Version]]] = (("0.2.0", (7, 0)), ("0.20.0", (7, 5)))
# What the images of today ask of a card, for when no release is named.
CURRENT_IMAGE: t.Final[Version] = IMAGE_CAPABILITY[-1][1]
# Below this, bfloat16, the usual format of unquantised weights, has to be computed as float16.
BFLOAT16_CAPABILITY: t.Final[Version] = (8, 0)


@dataclass(frozen=True)
class ImageNeeds:
    """What a vLLM image asks of driver and card."""

    image: str
    release: str
    cuda: Version
    capability: Version


def image_needs(image: str) -> ImageNeeds | None:
    """Say what a vLLM image needs; None for one that runs on the CPU."""
    name, tag = split_image(image)
    if name.endswith("-cpu"):
        return None
    found = image_release(image)
    if found is None:
        raise UnknownImageError(
            f"the tag {tag!r} of image {image!r} names no vLLM release"
            if tag
            else f"image {image!r} has no tag that names a vLLM release"
        )
    version, suffix = found
    release = parse_version(version)
    needs = [cuda for first, cuda in IMAGE_NEEDS if release >= parse_version(first)]
    if not needs:
        raise UnknownImageError(f"vLLM {version} of image {image!r} is older than our tables")
    cuda = needs[-1]
    if suffix in IMAGE_SUFFIXES:
        cuda, first, last = IMAGE_SUFFIXES[suffix]
        if not parse_version(first) <= release <= parse_version(last):
            raise UnknownImageError(
                f"vLLM was never published as {tag!r}:"
                f" tags with -{suffix} reach from v{first} to v{last}"
            )
    capability = [cc for first, cc in IMAGE_CAPABILITY if release >= parse_version(first)][-1]
    return ImageNeeds(image=image, release=version, cuda=cuda, capability=capability)


def image_release(image: str) -> tuple[str, str] | None:
    """Read the vLLM release and the CUDA suffix off an image's tag.

    v0.32.0-cu129 gives ("0.32.0", "cu129"), v0.33.0 gives ("0.33.0", ""). None where there is no
    tag, or one such as latest, nightly or a release candidate: what is in there, only it can tell.
    """
    _unused, tag = split_image(image)
    match = re.match(r"v?(\d+\.\d+\.\d+)(?:\.post\d+)?(?:-(cu\d+))?(?=$|-)", tag)
    return (match[1], match[2] or "") if match else None


def split_image(image: str) -> tuple[str, str]:
    """Split an image reference into name and tag, leaving out the digest."""
    name = image.split("@", maxsplit=1)[0]
    head, _unused, tag = name.rpartition(":")
    if not head or "/" in tag:  # registry.example:5000/vllm: that colon belongs to the port
        return name, ""
    return head, tag


# --- Card -> generation -> modules, branches ----------------------------------------------------

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

# Desktop cards by name: what /usr/share/misc/pci.ids of Ubuntu 22.04 is too old to know, and what
# a server without that file would otherwise leave nameless.
_GEFORCE: t.Final[Mapping[str, str]] = {
    "GTX 1630": "1f83",
    "GTX 1650": "1f0a 1f82 1f91 1f96 1f99 1f9d 1fdd 2188",
    "GTX 1650 SUPER": "2187",
    "GTX 1650 Ti": "1f95 2192",
    "GTX 1660": "2184",
    "GTX 1660 SUPER": "21c4",
    "GTX 1660 Ti": "2182 2191 21d1",
    "RTX 2050": "25a7 25a9 25ad 25ed",
    "RTX 2060": "1e89 1f03 1f08 1f11 1f12 1f15 1f51 1f55",
    "RTX 2060 SUPER": "1f06 1f42 1f47",
    "RTX 2070": "1f02 1f07 1f10 1f14 1f50 1f54",
    "RTX 2070 SUPER": "1e84 1e91 1ec2 1ec7 1ed1",
    "RTX 2080": "1e82 1e87 1e90 1ed0",
    "RTX 2080 SUPER": "1e81 1e93 1ed3",
    "RTX 2080 Ti": "1e04 1e07",
    "RTX 3050": "2507 2508 2582 2584",
    "RTX 3060": "2487 24c7 2503 2504 2544",
    "RTX 3060 Ti": "2414 2486 2489 24c9",
    "RTX 3070": "2484 2488",
    "RTX 3070 Ti": "2207 2482",
    "RTX 3080": "2206 220a 2216",
    "RTX 3080 Ti": "2208",
    "RTX 3090": "2204",
    "RTX 3090 Ti": "2203",
    "RTX 4060": "2808 2882",
    "RTX 4060 Ti": "2788 2803 2805",
    "RTX 4070": "2709 2786",
    "RTX 4070 SUPER": "2783",
    "RTX 4070 Ti": "2782",
    "RTX 4070 Ti SUPER": "2689 2705",
    "RTX 4080": "2704",
    "RTX 4080 SUPER": "2702",
    "RTX 4090": "2684",
    "RTX 4090 D": "2685",
    "RTX 5050": "2d83",
    "RTX 5060": "2d05",
    "RTX 5060 Ti": "2d04",
    "RTX 5070": "2f04",
    "RTX 5070 Ti": "2c05",
    "RTX 5080": "2c02",
    "RTX 5090": "2b85",
    "RTX 5090 D": "2b87 2b8c",
}


@dataclass(frozen=True)
class Card:
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


def describe_card(address: str, pci_id: str, listed_names: Mapping[str, str]) -> Card:
    """Say what card a PCI id (10de:2503) stands for; ``listed_names`` is what pci.ids says."""
    device = pci_id.rpartition(":")[2].lower()
    number = int(device, 16)
    generation, capability = next(
        ((generation, cc) for last, generation, cc in _DEVICE_IDS if number <= last),
        (BLACKWELL, (12, 0)),
    )
    name = next(
        (f"NVIDIA GeForce {name}" for name, ids in _GEFORCE.items() if device in ids.split()), ""
    )
    if not name:
        listed = listed_names.get(device, "")
        marketed = re.search(r"\[([^]]+)\]", listed)  # GA106 [GeForce RTX 3060]
        name = f"NVIDIA {marketed[1] if marketed else listed}" if listed else "NVIDIA card"
    return Card(address, pci_id.lower(), name, generation, capability)


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


class ModulesConflictError(Exception):
    """The cards of one PC cannot be driven by the same kernel modules."""


def choose_modules(cards: Iterable[Card], branch: str) -> str:
    """Choose open or proprietary kernel modules: what every card of the PC can do.

    The open ones where there is a choice, as NVIDIA advises from Turing on: the newest branches
    carry nothing else.
    """
    cards = list(cards)
    common = frozenset[str](_BOTH)
    for card in cards:
        common &= card.generation.modules
    if not common:
        raise ModulesConflictError(
            f"no kernel module of branch {branch} drives all of "
            + ", ".join(card.label for card in cards)
            + ": the older card needs the proprietary one, the newer card the open one"
        )
    return OPEN if OPEN in common else PROPRIETARY


def branch_drives(branch: str, card: Card) -> bool:
    """Whether a driver branch still knows a card."""
    last = card.generation.last_branch
    return not last or parse_version(branch) <= parse_version(last)
