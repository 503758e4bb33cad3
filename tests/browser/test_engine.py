# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real browser, the real page, and whatever engine is behind it: no stand-in needed."""

from __future__ import annotations

import os
import shlex
import subprocess
import typing as t

import pytest
from playwright.sync_api import expect

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from browser.conftest import Person
    from browser.page import Page

ENGINE = "sparerig-vllm"


@pytest.fixture
def systemctl() -> Iterator[Callable[[str], None]]:
    """Stop or start the engine on the host that serves it; it runs again after the test."""
    command = os.environ.get("OPEN_WEBUI_ENGINE_SYSTEMCTL")
    if not command:
        pytest.skip("OPEN_WEBUI_ENGINE_SYSTEMCTL does not say how to stop the engine")

    def run(action: str) -> None:
        subprocess.run([*shlex.split(command), action, ENGINE], check=True)

    yield run
    run("start")


def test_a_person_signs_in_and_gets_an_answer(
    open_page: Callable[..., Page], make_person: Callable[..., Person]
) -> None:
    page = open_page()
    page.enter(make_person())
    answer = page.ask("Tell me a story.")
    assert answer.inner_text().strip()


def test_a_stopped_engine_is_told_and_the_chat_goes_on_when_it_is_back(
    open_page: Callable[..., Page],
    make_person: Callable[..., Person],
    systemctl: Callable[[str], None],
) -> None:
    page = open_page()
    page.enter(make_person())
    first = page.ask("Tell me a story.").inner_text()
    systemctl("stop")
    page.say("And another one?")
    expect(page.tab.get_by_text("Connection Error").last).to_be_visible()
    page.picture("engine-stopped")
    expect(page.answers.first).to_have_text(first, use_inner_text=True)
    systemctl("start")
    assert page.ask("Are you there again?").inner_text().strip()
    expect(page.answers.first).to_have_text(first, use_inner_text=True)
