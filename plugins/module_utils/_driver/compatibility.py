# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NVIDIA driver, card and vLLM image go together: the tables of it, and what follows.

Nothing here reads a host. The figures are those of NVIDIA's release notes and of vLLM's release
files; every row has its line in the tests.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import (
    LEAST_CAPABILITY,
    OPEN,
    PROPRIETARY,
    PciCard,
    Version,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


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
IMAGE_CAPABILITY: t.Final[Sequence[tuple[str, Version]]] = (
    ("0.2.0", (7, 0)),
    ("0.20.0", LEAST_CAPABILITY),
)


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


# --- Cards -> modules, branches -----------------------------------------------------------------


class ModulesConflictError(Exception):
    """The cards of one PC cannot be driven by the same kernel modules."""


def choose_modules(cards: Iterable[PciCard], branch: str) -> str:
    """Choose open or proprietary kernel modules: what every card of the PC can do.

    The open ones where there is a choice, as NVIDIA advises from Turing on: the newest branches
    carry nothing else.
    """
    cards = list(cards)
    common = frozenset({OPEN, PROPRIETARY})
    for card in cards:
        common &= card.generation.modules
    if not common:
        raise ModulesConflictError(
            f"no kernel module of branch {branch} drives all of "
            + ", ".join(card.label for card in cards)
            + ": the older card needs the proprietary one, the newer card the open one"
        )
    return OPEN if OPEN in common else PROPRIETARY


def branch_drives(branch: str, card: PciCard) -> bool:
    """Whether a driver branch still knows a card."""
    last = card.generation.last_branch
    return not last or parse_version(branch) <= parse_version(last)
