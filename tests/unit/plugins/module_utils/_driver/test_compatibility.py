# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every row of the tables: driver and CUDA, image and CUDA, cards and kernel modules."""

from __future__ import annotations

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver import compatibility as support
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.cards import (
    PciCard,
    describe_card,
)


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


def cards(*ids: str) -> list[PciCard]:
    return [describe_card(f"0000:0{n}:00.0", f"10de:{i}", {}) for n, i in enumerate(ids)]


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
