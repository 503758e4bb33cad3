# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every row of the tables: driver and CUDA, image and CUDA, card and generation."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver import compatibility as support

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("520.61.05", None),
        ("525.60.13", (12, 0)),
        ("530.30.02", (12, 1)),
        ("535.54.02", (12, 1)),
        ("535.54.03", (12, 2)),
        ("550.54.14", (12, 4)),
        ("550.54.15", (12, 4)),
        ("560.28.03", (12, 6)),
        ("570.26", (12, 8)),
        ("570.124.06", (12, 8)),
        ("575.51.03", (12, 9)),
        ("575.57.08", (12, 9)),
        ("580.65.06", (13, 0)),
        ("580.82.07", (13, 0)),
        ("580.95.05", (13, 0)),
        ("580.178.04", (13, 0)),
        ("590.44.01", (13, 1)),
        ("595.45.04", (13, 2)),
        ("595.71.05", (13, 2)),
        ("615.71.09", (13, 2)),
        ("535", (12, 2)),
        ("580", (13, 0)),
        ("470", None),
        ("", None),
    ],
)
def test_what_a_driver_offers(driver: str, cuda: tuple[int, int] | None) -> None:
    assert support.cuda_of_driver(driver) == cuda


@pytest.mark.parametrize(
    ("cuda", "branch"),
    [
        ((12, 1), "530"),
        ((12, 4), "550"),
        ((12, 8), "570"),
        ((12, 9), "575"),
        ((13, 0), "580"),
        ((13, 2), "595"),
        ((14, 0), ""),
    ],
)
def test_the_oldest_branch_for_a_cuda_version(cuda: tuple[int, int], branch: str) -> None:
    assert support.branch_for_cuda(cuda) == branch


@pytest.mark.parametrize(
    ("image", "cuda", "capability"),
    [
        ("vllm/vllm-openai:v0.4.0", (12, 1), (7, 0)),
        ("vllm/vllm-openai:v0.4.3", (12, 4), (7, 0)),
        ("vllm/vllm-openai:v0.6.6.post1", (12, 4), (7, 0)),
        ("vllm/vllm-openai:v0.7.3", (12, 4), (7, 0)),
        ("vllm/vllm-openai:v0.8.5", (12, 4), (7, 0)),
        ("vllm/vllm-openai:v0.9.0", (12, 8), (7, 0)),
        ("vllm/vllm-openai:v0.9.2", (12, 8), (7, 0)),
        ("vllm/vllm-openai:v0.10.2", (12, 8), (7, 0)),
        ("vllm/vllm-openai:v0.11.2", (12, 9), (7, 0)),
        ("vllm/vllm-openai:v0.14.1", (12, 9), (7, 0)),
        ("vllm/vllm-openai:v0.19.1", (12, 9), (7, 0)),
        ("vllm/vllm-openai:v0.19.1-cu130", (13, 0), (7, 0)),
        ("vllm/vllm-openai:v0.20.0", (13, 0), (7, 5)),
        ("vllm/vllm-openai:v0.20.0-cu129", (12, 9), (7, 5)),
        ("vllm/vllm-openai:v0.26.0", (13, 0), (7, 5)),
        ("vllm/vllm-openai:v0.27.1", (13, 0), (7, 5)),
        ("vllm/vllm-openai:v0.32.0-cu129", (12, 9), (7, 5)),
        ("vllm/vllm-openai:v0.29.0-cu129-ubuntu2404", (12, 9), (7, 5)),
        ("vllm/vllm-openai:v0.33.0", (13, 0), (7, 5)),
        ("docker.io/vllm/vllm-openai:v0.33.0-x86_64@sha256:0123", (13, 0), (7, 5)),
        ("registry.lan:5000/vllm-openai:0.33.0", (13, 0), (7, 5)),
    ],
)
def test_what_an_image_needs(
    image: str, cuda: tuple[int, int], capability: tuple[int, int]
) -> None:
    needs = support.image_needs(image)
    assert needs is not None
    assert (needs.cuda, needs.capability) == (cuda, capability)


@pytest.mark.parametrize(
    "image", ["vllm/vllm-openai-cpu:v0.32.0-x86_64", "registry:5000/vllm-openai-cpu:latest"]
)
def test_an_image_for_the_cpu_needs_nothing(image: str) -> None:
    assert support.image_needs(image) is None


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("vllm/vllm-openai:latest", "the tag 'latest' of image 'vllm/vllm-openai:latest'"),
        ("vllm/vllm-openai", "has no tag"),
        ("registry.lan:5000/vllm-openai", "has no tag"),
        ("vllm/vllm-openai:v0.33.0-cu129", "tags with -cu129 reach from v0.20.0 to v0.32.0"),
        ("vllm/vllm-openai:v0.20.0-cu130", "never published as 'v0.20.0-cu130'"),
        ("vllm/vllm-openai:v0.1.7", "older than our tables"),
    ],
)
def test_an_image_that_no_table_knows(image: str, complaint: str) -> None:
    with pytest.raises(support.UnknownImageError) as error:
        support.image_needs(image)
    assert complaint in str(error.value)


def supported(fixtures: Path) -> list[list[str]]:
    text = (fixtures / "nvidia_host" / "supported-gpus-580.178.04.tsv").read_text()
    return [line.split("\t") for line in text.splitlines()]


def test_generation_and_modules_of_every_card_that_nvidia_lists(fixtures: Path) -> None:
    """NVIDIA names 340 and older branches one by one; for us they are all too old alike."""
    wrong = []
    for device, legacy, is_open, name in supported(fixtures):
        card = support.describe_card("0000:01:00.0", f"10de:{device}", {})
        branch = legacy.partition(".")[0]
        ancient = branch and support.parse_version(branch) < (340,)
        last = (
            "340" if ancient else {"367": "470", "": "" if is_open else "580"}.get(branch, branch)
        )
        opens = support.OPEN in card.generation.modules
        if (card.generation.last_branch, opens) != (last, bool(is_open)):
            wrong.append(f"{device} {name}: {card.generation}")
    assert not wrong


def test_names_agree_with_nvidias_own(fixtures: Path) -> None:
    listed: dict[str, set[str]] = {}
    for device, _legacy, _open, name in supported(fixtures):
        listed.setdefault(device, set()).add(name.upper())
    for device, names in listed.items():
        name = support.describe_card("0000:01:00.0", f"10de:{device}", {}).name
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
    listed = support.parse_pci_ids(
        "# a comment\n10dd  Other\n\t1b80  Not this\n10de  NVIDIA Corporation\n"
        "\t1b80  GP104 [GeForce GTX 1080]\n\t\t1458 3702  A board\n# a comment\n"
        "\t20b0  A100\n10df  Next\n\t1d81  Not this either\n"
    )
    card = support.describe_card("0000:01:00.0", pci_id, listed)
    assert card.name == name
    assert card.generation.name == generation
    assert card.capability == capability
    assert card.generation.modules == modules


def cards(*ids: str) -> list[support.Card]:
    return [support.describe_card(f"0000:0{n}:00.0", f"10de:{i}", {}) for n, i in enumerate(ids)]


@pytest.mark.parametrize(
    ("ids", "modules"),
    [
        (("2503",), "open"),
        (("1b80",), "proprietary"),
        (("2503", "2684"), "open"),
        (("1b80", "2503"), "proprietary"),
        (("2b85", "2503"), "open"),
        ((), "open"),
    ],
)
def test_choose_modules(ids: tuple[str, ...], modules: str) -> None:
    assert support.choose_modules(cards(*ids), "580") == modules


def test_no_modules_for_pascal_beside_blackwell() -> None:
    with pytest.raises(support.ModulesConflictError, match="drives all of"):
        support.choose_modules(cards("1b80", "2b85"), "580")


@pytest.mark.parametrize(
    ("branch", "device", "drives"),
    [
        ("580", "1b80", True),
        ("595", "1b80", False),
        ("595", "1380", False),
        ("595", "1d81", False),
        ("595", "1f08", True),
        ("615", "2503", True),
        ("580", "0fc6", False),
        ("470", "0fc6", True),
    ],
)
def test_which_branch_knows_which_card(branch: str, device: str, *, drives: bool) -> None:
    assert support.branch_drives(branch, cards(device)[0]) is drives


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
    assert support.describe_card("x", "10de:ffff", {"ffff": name}).geforce is geforce
