# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that shape the role's options into what the environment of Open WebUI takes."""

from __future__ import annotations

import json
import typing as t


def open_webui_banners(
    banners: list[dict[str, t.Any]], license_notices: t.Iterable[str] = ()
) -> str:
    """Write notices the way Open WebUI reads them; it drops all of them when one lacks a key.

    What a license wants shown comes after the others, each text once, and cannot be closed.
    """
    notices = dict.fromkeys(filter(None, license_notices))
    banners = banners + [{"content": notice, "dismissible": False} for notice in notices]
    complete = [
        {
            "id": f"banner-{number}",
            "type": banner.get("type", "info"),
            "title": banner.get("title", ""),
            "content": banner["content"],
            "dismissible": banner.get("dismissible", True),
            "timestamp": 0,
        }
        for number, banner in enumerate(banners, start=1)
    ]
    return json.dumps(complete, ensure_ascii=False)


class FilterModule:
    """Names the filters for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return them by name."""
        return {"open_webui_banners": open_webui_banners}
