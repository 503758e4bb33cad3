# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a license wants shown is shown, once."""

from __future__ import annotations

import base64
import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.filter.license_notices import license_notices

NOTICE = "Built with Meta Llama 3"
LLAMA: dict[str, t.Any] = {"catalogue": {"license_notice": NOTICE}}
QWEN: dict[str, t.Any] = {"catalogue": {"license_notice": ""}}
OWN: dict[str, t.Any] = {"fits": True}
UNPLANNED: dict[str, t.Any] = {}


def in_this_run(host: str, plan: dict[str, t.Any]) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    return {"item": {"host": host}, "skipped": True}, {host: {"vllm_plan": plan}}


def kept(host: str, plan: dict[str, t.Any]) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    content = base64.b64encode(json.dumps(plan).encode()).decode()
    return {"item": {"host": host}, "content": content}, {host: {}}


def not_kept(host: str) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    return {"item": {"host": host}, "failed": True, "msg": "file not found"}, {host: {}}


@pytest.mark.parametrize(
    ("engines", "notices"),
    [
        ([in_this_run("one", LLAMA)], [NOTICE]),
        ([kept("one", LLAMA)], [NOTICE]),
        ([in_this_run("one", LLAMA), kept("two", LLAMA)], [NOTICE]),
        ([kept("one", QWEN), in_this_run("two", OWN), in_this_run("three", UNPLANNED)], []),
        ([not_kept("one"), kept("two", LLAMA)], [NOTICE]),
    ],
)
def test_each_notice_is_a_banner_that_stays(
    engines: list[tuple[dict[str, t.Any], dict[str, t.Any]]], notices: list[str]
) -> None:
    hostvars = {host: known for _unused, variables in engines for host, known in variables.items()}
    banners = license_notices([result for result, _unused in engines], hostvars)
    assert [banner["content"] for banner in banners] == notices
    assert not any(banner["dismissible"] for banner in banners)
