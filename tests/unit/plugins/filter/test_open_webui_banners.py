# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notices have to be whole, or Open WebUI shows none."""

from __future__ import annotations

import json

from ansible_collections.sparerig.llm.plugins.filter.open_webui import open_webui_banners

# What Open WebUI 0.12.4 asks of each (BannerModel in its config.py).
NEEDED = {"id", "type", "title", "content", "dismissible", "timestamp"}


def test_banners_are_complete_and_told_apart() -> None:
    banners = json.loads(
        open_webui_banners(
            [{"content": "Grüße"}, {"content": "b", "type": "error", "dismissible": False}]
        )
    )
    assert all(set(banner) == NEEDED for banner in banners)
    assert [(b["content"], b["type"], b["dismissible"]) for b in banners] == [
        ("Grüße", "info", True),
        ("b", "error", False),
    ]
    assert banners[0]["id"] != banners[1]["id"]


def test_no_banners_are_an_empty_list() -> None:
    assert open_webui_banners([]) == "[]"


def test_what_licenses_want_shown_comes_last_once_and_stays() -> None:
    notices = ["Built with Meta Llama 3", "", "Built with Meta Llama 3", "Another"]
    banners = json.loads(open_webui_banners([{"content": "Hello"}], notices))
    assert [(banner["content"], banner["dismissible"]) for banner in banners] == [
        ("Hello", True),
        ("Built with Meta Llama 3", False),
        ("Another", False),
    ]
    assert all(set(banner) == NEEDED for banner in banners)
    assert len({banner["id"] for banner in banners}) == 3
