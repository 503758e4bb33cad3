# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a licence wants shown is shown, once."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.filter.licence_notices import licence_notices

LLAMA = {"vllm_plan": {"catalogue": {"licence_notice": "Built with Meta Llama 3"}}}
QWEN = {"vllm_plan": {"catalogue": {"licence_notice": ""}}}
OWN: dict[str, t.Any] = {"vllm_plan": {"fits": True}}


@pytest.mark.parametrize(
    ("hosts", "notices"),
    [
        (["llama"], ["Built with Meta Llama 3"]),
        (["llama", "twin"], ["Built with Meta Llama 3"]),
        (["qwen", "own", "unplanned", "elsewhere"], []),
    ],
)
def test_each_notice_is_a_banner_that_stays(hosts: list[str], notices: list[str]) -> None:
    hostvars = {"llama": LLAMA, "twin": LLAMA, "qwen": QWEN, "own": OWN, "unplanned": {}}
    banners = licence_notices(hosts, hostvars)
    assert [banner["content"] for banner in banners] == notices
    assert not any(banner["dismissible"] for banner in banners)
