# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fifty chats stream at once, sent as the page sends them, and one of them in a real browser.

The stand-in holds all fifty open until the last one is there, so they do stream together.
"""

from __future__ import annotations

import time
import typing as t
import uuid
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    Account,
    OpenWebUI,
)
from browser.conftest import URL
from browser.upstream import COUNT, FLOCK
from playwright.sync_api import expect

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from browser.conftest import Person
    from browser.page import Page

QUESTION = "count a flock of sheep, please"
PATIENCE = 300  # seconds


def begin_chat(client: OpenWebUI, model: str) -> str:
    """Begin a chat as the page does: the answer streams into the stored chat; return its id."""
    message = {"id": str(uuid.uuid4()), "role": "user", "content": QUESTION}
    request = {
        "model": model,
        "messages": [{"role": "user", "content": message["content"]}],
        "stream": True,
        "id": str(uuid.uuid4()),
        "parent_id": None,
        "session_id": "nobody-listens",
        "user_message": {**message, "parentId": None, "childrenIds": [], "models": [model]},
    }
    return str(client.post("/api/chat/completions", request)["chat_id"])


def finished_answer(client: OpenWebUI, chat: str) -> str:
    """Wait for the answer to be complete; return it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        history = client.get(f"/api/v1/chats/{chat}")["chat"]["history"]["messages"]
        answer = next(entry for entry in history.values() if entry["role"] == "assistant")
        if answer.get("done"):
            return str(answer["content"])
        time.sleep(1)
    return f"not finished after {PATIENCE} s"


def test_fifty_chats_at_once_lose_nothing(
    stand_in: str, open_page: Callable[..., Page], make_person: Callable[..., Person]
) -> None:
    person = make_person()
    client = OpenWebUI(Account(URL, person.email, person.password, PATIENCE), administrator=False)
    page = open_page()
    page.enter(make_person("Bob"))
    with ThreadPoolExecutor(FLOCK) as pool:
        chats = list(pool.map(lambda _unused: begin_chat(client, stand_in), range(FLOCK - 1)))
    expect(page.ask(QUESTION)).to_have_text(COUNT)
    assert [finished_answer(client, chat) for chat in chats] == [COUNT] * (FLOCK - 1)
