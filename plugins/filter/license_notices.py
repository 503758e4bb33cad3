# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the licenses of the served models want shown on the chat page."""

from __future__ import annotations

import base64
import json
import typing as t


def license_notices(
    slurped: list[dict[str, t.Any]], hostvars: t.Mapping[str, t.Any]
) -> list[dict[str, t.Any]]:
    """Make a banner of each notice that the engines' plans name, each notice once."""
    notices = []
    for result in slurped:
        if "content" in result:
            plan = json.loads(base64.b64decode(result["content"]))
        else:
            plan = hostvars[result["item"]["host"]].get("vllm_plan") or {}
        notices.append((plan.get("catalogue") or {}).get("license_notice", ""))
    return [
        {"content": notice, "dismissible": False} for notice in dict.fromkeys(filter(None, notices))
    ]


class FilterModule:
    """Names the filters for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return them by name."""
        return {"license_notices": license_notices}
