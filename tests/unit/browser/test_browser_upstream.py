# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in for the engine refuses tools as an engine without a parser does."""

from __future__ import annotations

import json
import threading
import typing as t
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer

import pytest
from browser.upstream import DEFAULT, Handler

TOOLS = [{"type": "function", "function": {"name": "clock"}}]


@pytest.fixture(scope="module")
def url() -> t.Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
        server.shutdown()


def ask(url: str, **extra: object) -> tuple[int, dict[str, t.Any]]:
    body = {"messages": [{"role": "user", "content": "Hello?"}], **extra}
    request = urllib.request.Request(url, data=json.dumps(body).encode())  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    "extra", [{}, {"tool_choice": "none"}, {"tools": TOOLS, "tool_choice": "none"}]
)
def test_it_answers(url: str, extra: dict[str, object]) -> None:
    status, answer = ask(url, **extra)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == DEFAULT


@pytest.mark.parametrize("extra", [{}, {"tool_choice": "auto"}, {"tool_choice": "required"}])
def test_it_refuses_tools(url: str, extra: dict[str, object]) -> None:
    status, answer = ask(url, tools=TOOLS, **extra)
    assert status == 400
    assert "--tool-call-parser" in answer["error"]["message"]
