# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether any engine behind the chat page takes requests that offer tools."""

from __future__ import annotations

import base64
import json
import typing as t


def tools_offered(
    slurped: list[dict[str, t.Any]], hostvars: t.Mapping[str, t.Any], engines: int
) -> bool:
    """Tell it from the engines' plans; what is not planned by this collection counts as able."""
    if len(slurped) < engines:
        return True
    plans = []
    for result in slurped:
        if "content" in result:
            plans.append(json.loads(base64.b64decode(result["content"])))
        else:
            plans.append(hostvars[result["item"]["host"]].get("vllm_plan") or {})
    return any(plan.get("tool_call_parser", "unknown") for plan in plans) or not plans


class FilterModule:
    """Names the filters for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return them by name."""
        return {"tools_offered": tools_offered}
