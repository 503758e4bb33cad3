# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_http: what the integration test's server does not show; the rest is in test_inference_health."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    BadStatusError,
    Client,
    Deadline,
    server_message,
    shorten,
)
from stand_ins import misbehaving_server

if t.TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = misbehaving_server()


@pytest.fixture
def base() -> Iterator[str]:
    """Start a misbehaving server."""
    with SERVER.running() as address:
        yield address


def test_key_is_in_no_message_and_no_repr(base: str) -> None:
    client = Client(f"{base}/error-completing", key=SERVER.KEY)

    with pytest.raises(BadStatusError) as caught:
        client.post_json("/v1/completions", {}, Deadline(20))

    assert "no luck with Bearer ********" in str(caught.value)
    assert SERVER.KEY not in f"{caught.value} {caught.value.message} {client}"


def test_deadline() -> None:
    now = [100.0]
    deadline = Deadline(5, clock=lambda: now[0])
    now[0] = 103.0
    assert (deadline.left(), deadline.spent) == (2.0, False)
    now[0] = 105.0
    assert deadline.spent
    with pytest.raises(TimeoutError):
        deadline.left()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "OpenAI's way", "code": 404}}, "OpenAI's way"),
        ({"error": "plain"}, "plain"),
        ({"detail": "FastAPI's way"}, "FastAPI's way"),
        ({"detail": [{"loc": ["body"]}]}, '[{"loc": ["body"]}]'),
        ({"message": "older vLLM's way", "object": "error"}, "older vLLM's way"),
        ({}, "{}"),
    ],
)
def test_server_message(body: object, message: str) -> None:
    assert server_message(json.dumps(body).encode()) == message


def test_server_message_of_a_page() -> None:
    page = b"<html><head><title>502</title></head>\n<body>Bad   Gateway</body></html>"

    assert server_message(page) == "502 Bad Gateway"


def test_long_words_are_shortened() -> None:
    assert shorten("a " * 1000) == "a " * 150 + " ..."
    assert shorten(b"\xff\n\tend") == "\N{REPLACEMENT CHARACTER} end"
