# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_completion: the event stream however it is cut, and the times taken from it."""

from __future__ import annotations

import json
import typing as t
from itertools import count

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    InvalidJsonError,
    TruncatedError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.completion import (
    Completion,
    NoTokensError,
    Request,
    Stopwatch,
    StreamError,
    events,
    measure,
)

STREAM = (
    ": a comment\r\n\r\n"
    "data: one\r\n\r\n"
    "event: message\nid: 7\ndata: two\ndata: lines\n\n"
    "data: more\r\ndata: lines\r\n\r\n"
    "data:three\r\r"
    "data: häßlich\n\n"
    "\n"
    "data: not ended"
)
EVENTS = ["one", "two\nlines", "more\nlines", "three", "häßlich"]
ROLE = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}


def token(text: str) -> dict[str, t.Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}


def end(reason: str | None = "stop") -> dict[str, t.Any]:
    return {"choices": [{"delta": {}, "finish_reason": reason}]}


def usage(tokens: int) -> dict[str, t.Any]:
    return {"choices": [], "usage": {"completion_tokens": tokens}}


def measured(*chunks: dict[str, t.Any] | str, api: str = "chat") -> Completion:
    """Measure a stream with a clock that counts: 0 at the request, then one more at each look."""
    ticks = count()
    stream = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    watch = Stopwatch(lambda: float(next(ticks)))
    return measure(stream, api=api, where="URL", watch=watch)


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_events_however_cut(size: int) -> None:
    raw = STREAM.encode()

    assert list(events(raw[i : i + size] for i in range(0, len(raw), size))) == EVENTS


def test_times_and_counts() -> None:
    done = measured(
        ROLE, token("a"), token("b"), token("c"), end("length"), usage(9), "[DONE]", "x"
    )

    assert (done.text, done.tokens, done.counted_by) == ("abc", 9, "usage")
    assert (done.finish_reason, done.first_token_s, done.last_token_s) == ("length", 1.0, 4.0)
    assert done.time_per_token_s == pytest.approx(3 / 8)
    assert done.tokens_per_second == pytest.approx(8 / 3)


def test_without_usage_pieces_are_counted() -> None:
    done = measured(token("a"), token("b"), end(), "[DONE]")

    assert (done.tokens, done.counted_by) == (2, "chunks")


def test_one_token_has_no_speed() -> None:
    done = measured(token("a"), usage(1), "[DONE]")

    assert (done.time_per_token_s, done.tokens_per_second) == (None, None)


def test_tokens_without_text_count() -> None:
    """Random weights make bytes that are no text; the server counts them, and so do we."""
    assert measured(ROLE, end("length"), usage(4), "[DONE]").tokens == 4


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"text": "plain"}, "plain"),
        ({"delta": {"reasoning": "hm"}}, "hm"),
        ({"delta": {"reasoning_content": "hm"}}, "hm"),
        ({"delta": {"tool_calls": [{"id": "x"}]}}, '{"id": "x"}'),
    ],
)
def test_all_that_a_model_says(choice: dict[str, t.Any], text: str) -> None:
    assert measured({"choices": [choice]}, "[DONE]").text == text


@pytest.mark.parametrize(
    ("chunks", "error", "says"),
    [
        ([token("a"), end()], TruncatedError, r"without '\[DONE\]', after 1 pieces"),
        ([], TruncatedError, "after 0 pieces"),
        ([token("a"), {"error": {"message": "out of memory"}}], StreamError, "out of memory"),
        ([{"error": "plain words"}], StreamError, "plain words"),
        ([{"object": "error", "message": "old form"}], StreamError, "old form"),
        ([token("a"), end("abort"), "[DONE]"], StreamError, "finish reason 'abort'"),
        ([token("a"), end("error"), "[DONE]"], StreamError, "finish reason 'error'"),
        ([ROLE, "[DONE]"], NoTokensError, "without a single token"),
        ([end(), usage(0), "[DONE]"], NoTokensError, "without a single token"),
        (["{", "[DONE]"], InvalidJsonError, "invalid JSON"),
        (["[1]", "[DONE]"], InvalidJsonError, "something else than objects"),
        (["[" * 100_000], InvalidJsonError, "invalid JSON"),
    ],
)
def test_bad_streams(
    chunks: list[dict[str, t.Any] | str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        measured(*chunks)


def test_requests() -> None:
    request = Request("tiny", "Hello", 8)

    assert request.payload("chat")["messages"] == [{"role": "user", "content": "Hello"}]
    assert request.payload("completions")["prompt"] == "Hello"
    for api in ("chat", "completions"):
        assert (
            request.payload(api).items()
            >= {"model": "tiny", "max_tokens": 8, "stream": True}.items()
        )
