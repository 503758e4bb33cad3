# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of cards, by name and by PCI id, beside NVIDIA's own list."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver.compatibility import (
    parse_version,
)
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import cards

if t.TYPE_CHECKING:
    from pathlib import Path


def supported(fixtures: Path) -> list[list[str]]:
    text = (fixtures / "nvidia_host" / "supported-gpus-580.178.04.tsv").read_text()
    return [line.split("\t") for line in text.splitlines()]


def test_generation_and_modules_of_every_card_that_nvidia_lists(fixtures: Path) -> None:
    """NVIDIA names 340 and older branches one by one; for us they are all too old alike."""
    wrong = []
    for device, legacy, is_open, name in supported(fixtures):
        card = cards.describe_card("0000:01:00.0", f"10de:{device}", {})
        branch = legacy.partition(".")[0]
        ancient = branch and parse_version(branch) < (340,)
        last = (
            "340" if ancient else {"367": "470", "": "" if is_open else "580"}.get(branch, branch)
        )
        opens = cards.OPEN in card.generation.modules
        if (card.generation.last_branch, opens) != (last, bool(is_open)):
            wrong.append(f"{device} {name}: {card.generation}")
    assert not wrong


def test_names_agree_with_nvidias_own(fixtures: Path) -> None:
    listed: dict[str, set[str]] = {}
    for device, _legacy, _open, name in supported(fixtures):
        listed.setdefault(device, set()).add(name.upper())
    for device, names in listed.items():
        name = cards.describe_card("0000:01:00.0", f"10de:{device}", {}).name
        if name != "NVIDIA card":
            assert any(name.upper() in other for other in names), (device, name, names)


@pytest.mark.parametrize(
    ("pci_id", "name", "generation", "capability", "modules"),
    [
        ("10de:0fc6", "NVIDIA card", "Kepler", (3, 0), {"proprietary"}),
        ("10de:1380", "NVIDIA card", "Maxwell", (5, 0), {"proprietary"}),
        ("10de:17c8", "NVIDIA card", "Maxwell", (5, 2), {"proprietary"}),
        ("10de:1b80", "NVIDIA GeForce GTX 1080", "Pascal", (6, 1), {"proprietary"}),
        ("10de:1d81", "NVIDIA card", "Volta", (7, 0), {"proprietary"}),
        ("10de:1f08", "NVIDIA GeForce RTX 2060", "Turing", (7, 5), {"open", "proprietary"}),
        ("10de:2184", "NVIDIA GeForce GTX 1660", "Turing", (7, 5), {"open", "proprietary"}),
        ("10de:20b0", "NVIDIA A100", "Ampere", (8, 0), {"open", "proprietary"}),
        ("10DE:2503", "NVIDIA GeForce RTX 3060", "Ampere", (8, 6), {"open", "proprietary"}),
        ("10de:2684", "NVIDIA GeForce RTX 4090", "Ada Lovelace", (8, 9), {"open", "proprietary"}),
        ("10de:2330", "NVIDIA card", "Hopper", (9, 0), {"open", "proprietary"}),
        ("10de:2901", "NVIDIA card", "Blackwell", (10, 0), {"open"}),
        ("10de:2b85", "NVIDIA GeForce RTX 5090", "Blackwell", (12, 0), {"open"}),
        ("10de:2e12", "NVIDIA card", "Blackwell", (12, 1), {"open"}),
        ("10de:3182", "NVIDIA card", "Blackwell", (10, 3), {"open"}),
        ("10de:4001", "NVIDIA card", "Blackwell", (12, 0), {"open"}),
    ],
)
def test_describe_card(
    pci_id: str, name: str, generation: str, capability: tuple[int, int], modules: set[str]
) -> None:
    listed = cards.parse_pci_ids(
        "# a comment\n10dd  Other\n\t1b80  Not this\n10de  NVIDIA Corporation\n"
        "\t1b80  GP104 [GeForce GTX 1080]\n\t\t1458 3702  A board\n# a comment\n"
        "\t20b0  A100\n10df  Next\n\t1d81  Not this either\n"
    )
    card = cards.describe_card("0000:01:00.0", pci_id, listed)
    assert card.name == name
    assert card.generation.name == generation
    assert card.capability == capability
    assert card.generation.modules == modules


@pytest.mark.parametrize(
    ("name", "geforce"),
    [
        ("GA106 [GeForce RTX 3060]", True),
        ("", True),
        ("GV100GL [Tesla V100 PCIe 16GB]", False),
        ("GA102GL [RTX A6000]", False),
        ("A100", False),
        ("TU102GL [Quadro RTX 6000/8000]", False),
    ],
)
def test_forward_compatibility_is_not_for_gamers(name: str, *, geforce: bool) -> None:
    assert cards.describe_card("x", "10de:ffff", {"ffff": name}).geforce is geforce


def test_every_pci_id_is_of_one_card() -> None:
    ids = [device for card in cards.CARDS for device in card.pci_ids.split()]
    assert len(ids) == len(set(ids))


def test_known_cards_are_plausible() -> None:
    titles = [known.title for known in cards.CARDS]
    assert len(titles) == len(set(titles))
    for known in cards.CARDS:
        assert cards.find(known.title) is known
        assert 90 <= known.bandwidth_gb_s <= 2000
        assert known.capability in {(6, 1), (7, 5), (8, 6), (8, 9), (12, 0)}


@pytest.mark.parametrize("card", [card for card in cards.CARDS if card.pci_ids], ids=str)
def test_a_card_on_the_bus_is_the_card_that_is_sold(card: cards.KnownCard) -> None:
    """So that ``auto`` can choose a model before there is a driver."""
    for device in card.pci_ids.split():
        seen = cards.describe_card("0000:01:00.0", f"10de:{device}", {})
        assert seen.name == f"NVIDIA GeForce {card.name}"
        assert seen.capability == card.capability
        sold_as = cards.least_of_name(seen.name)
        assert sold_as is not None
        assert sold_as.memory_gib <= card.memory_gib


def test_a_card_by_its_pci_id_has_the_memory_that_is_surely_there() -> None:
    seen = cards.describe_card("0000:01:00.0", "10de:2507", {})
    sold_as = cards.least_of_name(seen.name)
    assert sold_as is not None
    assert sold_as.title == "RTX 3050 6GB"


@pytest.mark.parametrize(
    ("wanted", "total_mib", "title"),
    [
        ("RTX 3060 12GB", None, "RTX 3060 12GB"),
        ("rtx 3060 12 gb", None, "RTX 3060 12GB"),
        ("RTX 3060 12GiB", None, "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 3060", 12288, "RTX 3060 12GB"),
        ("NVIDIA GeForce RTX 3060", 8192, "RTX 3060 8GB"),
        ("GeForce RTX 2080Ti", None, "RTX 2080 Ti 11GB"),
        ("NVIDIA GeForce RTX 4090", 24564, "RTX 4090 24GB"),
        ("RTX 4070 Ti Super", None, "RTX 4070 Ti SUPER 16GB"),
    ],
)
def test_a_card_is_found(wanted: str, total_mib: int | None, title: str) -> None:
    assert cards.find(wanted, total_mib).title == title


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("RTX 3060", "sold as 'RTX 3060 8GB' or 'RTX 3060 12GB'"),
        ("RTX 3060 16GB", "sold as 'RTX 3060 8GB' or 'RTX 3060 12GB'"),
        ("RTX 3066", "Did you mean"),
        ("Radeon", "not in the list of known cards. Any other card"),
        ("", "not in the list"),
    ],
)
def test_an_unknown_card_is_refused(wanted: str, says: str) -> None:
    with pytest.raises(cards.UnknownCardError) as refused:
        cards.find(wanted)
    assert says in str(refused.value)
