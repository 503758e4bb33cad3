# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real completion, streamed and timed: the proof that tokens come out of a model."""

from __future__ import annotations

import json
import re
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    BadStatusError,
    InvalidJsonError,
    NoAnswerError,
    StalledError,
    TruncatedError,
    shorten,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Client, Deadline

_DONE = "[DONE]"
_PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class CompletionError(Exception):
    """A completion that did not work although the server answered; each kind is a named failure."""

    failure: t.ClassVar[str] = "completion-failed"


class StreamError(CompletionError):
    """The server reported an error in the middle of its answer."""

    failure = "completion-broken-off"


class NoTokensError(CompletionError):
    """The answer ended properly and held no token."""

    failure = "completion-empty"


class EngineHungError(CompletionError):
    """The server takes the request and no token comes."""

    failure = "engine-hung"


class NoChatTemplateError(CompletionError):
    """The model's tokenizer has no chat template, so the chat API cannot be used with it."""

    failure = "chat-template-missing"


@dataclass(frozen=True)
class Request:
    """What is asked of the model."""

    model: str
    prompt: str
    max_tokens: int

    def payload(self, api: str) -> dict[str, object]:
        """Return the body of the request for one of the two APIs."""
        message: dict[str, object] = (
            {"messages": [{"role": "user", "content": self.prompt}]}
            if api == "chat"
            else {"prompt": self.prompt}
        )
        return message | {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class Stopwatch:
    """When tokens came, in seconds from the sending of the request."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start now."""
        self._clock = clock
        self._start = clock()
        self.first: float | None = None
        self.last = 0.0

    def token(self) -> None:
        """Note that tokens came."""
        self.last = self._clock() - self._start
        if self.first is None:
            self.first = self.last


@dataclass(frozen=True)
class Completion:
    """What came out, and how fast. Times in seconds from the sending of the request."""

    api: str
    text: str
    tokens: int
    counted_by: str  # usage: the server's count; chunks: one token supposed in each piece
    finish_reason: str
    first_token_s: float
    last_token_s: float

    @property
    def time_per_token_s(self) -> float | None:
        """Time per output token after the first; None when there is no second."""
        if self.tokens <= 1:
            return None
        return (self.last_token_s - self.first_token_s) / (self.tokens - 1)

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed after the first token; None when it cannot be told."""
        return 1 / self.time_per_token_s if self.time_per_token_s else None


def complete(
    client: Client,
    request: Request,
    deadline: Deadline,
    *,
    api: str = "chat",
    clock: Callable[[], float] = time.monotonic,
) -> Completion:
    """Ask for a completion and read all of it."""
    path = _PATHS[api]
    watch = Stopwatch(clock)
    try:
        with client.stream(path, request.payload(api), deadline) as pieces:
            return measure(events(pieces), api=api, where=client.where(path), watch=watch)
    except BadStatusError as exc:
        if api == "chat" and re.search(r"chat[ _]template", exc.message):
            raise NoChatTemplateError(str(exc)) from None
        raise
    except NoAnswerError:
        raise _hung(client.where(path), deadline) from None
    except StalledError:
        if watch.first is not None:
            raise
        raise _hung(client.where(path), deadline) from None


def _hung(where: str, deadline: Deadline) -> EngineHungError:
    return EngineHungError(
        f"{where} took the request and sent no token before the deadline of {deadline.seconds:g} s"
    )


def events(pieces: Iterable[bytes]) -> Iterator[str]:
    """Parse server-sent events; yield the data of each, however the bytes were cut up."""
    rest = b""
    data: list[str] = []
    for piece in pieces:
        # A CR may be the first half of a CRLF: it waits for the next piece.
        *lines, rest = re.split(rb"\r\n|\n|\r(?!$)", rest + piece)
        for line in lines:
            if not line:
                if data:
                    yield "\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(line[len(b"data:") :].decode(errors="replace").removeprefix(" "))


def measure(stream: Iterable[str], *, api: str, where: str, watch: Stopwatch) -> Completion:
    """Read a streamed completion to its end and take the times."""
    text: list[str] = []
    finish_reason = ""
    counted: int | None = None
    for event in stream:
        if event == _DONE:
            break
        chunk = _parse_chunk(event, where)
        counted = _usage(chunk) or counted
        for choice in _dicts(chunk.get("choices")):
            piece, reason = _said(choice)
            if piece or reason:
                watch.token()
            text += [piece] if piece else []
            finish_reason = reason or finish_reason
    else:
        raise TruncatedError(f"{where} ends its stream without '{_DONE}', after {len(text)} pieces")
    if finish_reason in {"abort", "error"}:
        raise StreamError(f"{where} ended the completion with finish reason '{finish_reason}'")
    tokens = len(text) if counted is None else counted
    if not tokens or watch.first is None:
        raise NoTokensError(f"{where} ended the completion without a single token")
    return Completion(
        api=api,
        text="".join(text),
        tokens=tokens,
        counted_by="chunks" if counted is None else "usage",
        finish_reason=finish_reason,
        first_token_s=watch.first,
        last_token_s=watch.last,
    )


def _parse_chunk(event: str, where: str) -> dict[str, t.Any]:
    try:
        chunk = json.loads(event)
    except (ValueError, RecursionError) as exc:
        raise InvalidJsonError(
            f"{where} streams invalid JSON ({exc}): {shorten(event)!r}"
        ) from None
    if not isinstance(chunk, dict):
        raise InvalidJsonError(f"{where} streams something else than objects: {shorten(event)!r}")
    error = chunk.get("error") or (chunk if chunk.get("object") == "error" else None)
    if error:
        said = error.get("message") if isinstance(error, dict) else None
        raise StreamError(
            f"{where} reports in the middle of its answer: {shorten(str(said or error))}"
        )
    return chunk


def _usage(chunk: dict[str, t.Any]) -> int | None:
    usage = chunk.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None


def _said(choice: dict[str, t.Any]) -> tuple[str, str]:
    """Return the text in a choice, reasoning and tool calls included, and why it ended there."""
    delta = choice.get("delta")
    parts: list[object] = [choice.get("text")]
    if isinstance(delta, dict):
        parts += [delta.get("content"), delta.get("reasoning"), delta.get("reasoning_content")]
        parts += [json.dumps(call) for call in _dicts(delta.get("tool_calls"))]
    reason = choice.get("finish_reason")
    return "".join(p for p in parts if isinstance(p, str)), reason if isinstance(
        reason, str
    ) else ""


def _dicts(value: object) -> list[dict[str, t.Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
