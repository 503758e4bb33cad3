# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser, the real page, and whatever engine is behind it: no stand-in needed."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from browser.conftest import Person
    from browser.page import Page


def test_a_person_signs_in_and_gets_an_answer(
    open_page: Callable[..., Page], make_person: Callable[..., Person]
) -> None:
    page = open_page()
    page.enter(make_person())
    answer = page.ask("Tell me a story.")
    assert answer.inner_text().strip()
    page.picture("first-answer")
