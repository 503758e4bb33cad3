# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page offers tools only where an engine can take them."""

from __future__ import annotations

import base64
import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.filter.tools_offered import tools_offered

WITH: dict[str, t.Any] = {"tool_call_parser": "hermes"}
WITHOUT: dict[str, t.Any] = {"tool_call_parser": ""}
NOT_PLANNED: dict[str, t.Any] = {}


def here(host: str) -> dict[str, t.Any]:
    return {"item": {"host": host}, "skipped": True}


def kept(host: str, plan: dict[str, t.Any]) -> dict[str, t.Any]:
    content = base64.b64encode(json.dumps(plan).encode()).decode()
    return {"item": {"host": host}, "content": content}


@pytest.mark.parametrize(
    ("slurped", "plans", "engines", "offered"),
    [
        ([here("one")], {"one": WITH}, 1, True),
        ([here("one")], {"one": WITHOUT}, 1, False),
        ([kept("one", WITHOUT)], {"one": NOT_PLANNED}, 1, False),
        ([kept("one", WITHOUT), here("two")], {"one": {}, "two": WITH}, 2, True),
        ([kept("one", WITHOUT), here("two")], {"one": {}, "two": WITHOUT}, 2, False),
        # not ours to know
        ([here("one")], {"one": NOT_PLANNED}, 1, True),
        ([here("one")], {"one": WITHOUT}, 2, True),
        ([], {}, 0, True),
    ],
)
def test_tools_are_offered(
    slurped: list[dict[str, t.Any]],
    plans: dict[str, dict[str, t.Any]],
    engines: int,
    *,
    offered: bool,
) -> None:
    hostvars = {host: {"vllm_plan": plan} for host, plan in plans.items()}
    assert tools_offered(slurped, hostvars, engines) is offered
