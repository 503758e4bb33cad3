# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the model server: the OpenAI API with answers that are known beforehand.

No model is behind it. What the page shows can therefore be compared word for word, and what the
page sends can be read back from ``GET /_seen``. Like vLLM without a parser of tool calls, it
answers 400 to a request that offers tools.

    python3 tests/browser/upstream.py --host 127.0.0.1 --port 8000 [--token-delay 0.02]
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
import typing as t
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if t.TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "stand-in"
MARKDOWN = """\
# A heading

Some **bold** words, a list:

- first
- second

```python
def greet(name: str) -> str:
    return f"Hello, {name}!"
```

| card | memory |
|---|---|
| RTX 3060 | 12 GiB |
"""
CODE = 'def greet(name: str) -> str:\n    return f"Hello, {name}!"'
POEM = "Roses are stand-in red, violets are stand-in blue."
COUNT = " ".join(f"sheep-{number}" for number in range(1, 31))
FLOCK = (
    50  # chats that ask for a flock stream together: none gets its second word before all are there
)
GATHERING = 240  # seconds that they wait for each other
SLOWLY = 0.1  # seconds between the sheep, so that even a busy machine shows them one by one
DEFAULT = "This is the stand-in speaking."
# vLLM's words (0.32 and 0.33: vllm/renderers/online_renderer.py).
NO_TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
REFUSAL = "The stand-in is out of order."
QUOTE = re.compile(r"The secret word is (\w+)")


def answer_to(messages: list[dict[str, t.Any]]) -> str:
    """Choose the fixed answer by a word in the last question; quote what a document says."""
    everything = "\n".join(_text(message) for message in messages)
    question = _question(messages)
    # Open WebUI puts documents around the question, so the secret is looked for first.
    if "secret word" in question:
        found = QUOTE.search(everything)
        return f"The document says: {found[1]}." if found else "No document reached the model."
    if "markdown" in question:
        return MARKDOWN
    if "sheep" in question:
        return COUNT
    if "poem" in question:
        return POEM
    return DEFAULT


def _question(messages: list[dict[str, t.Any]]) -> str:
    return next((_text(m) for m in reversed(messages) if m.get("role") == "user"), "").lower()


def _text(message: dict[str, t.Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def _pieces(text: str) -> Iterator[str]:
    """Cut a text the way tokens would: words with the space before them."""
    return (match[0] for match in re.finditer(r"\s*\S+\s*$|\s*\S+", text))


class Handler(BaseHTTPRequestHandler):
    """Answers ``/v1/models`` and ``/v1/chat/completions``; tells what it saw at ``/_seen``."""

    protocol_version = "HTTP/1.1"
    token_delay: t.ClassVar[float] = 0.0
    seen: t.ClassVar[deque[dict[str, t.Any]]] = deque(maxlen=200)
    lock: t.ClassVar[threading.Lock] = threading.Lock()
    gate: t.ClassVar[threading.Barrier] = threading.Barrier(FLOCK, timeout=GATHERING)

    def do_GET(self) -> None:
        """Serve the lists."""
        path = self.path.partition("?")[0]
        if path in ("/v1/models", "/models"):
            self._json(
                {
                    "object": "list",
                    "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm"}],
                }
            )
        elif path == "/_seen":
            with self.lock:
                self._json(list(self.seen))
        elif path == "/health":
            self._json({})
        else:
            self._json({"detail": f"no such path: {path}"}, 404)

    def do_POST(self) -> None:
        """Serve one chat completion, streamed when asked."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.endswith("/chat/completions"):
            self._json({"detail": f"no such path: {self.path}"}, 404)
            return
        request = json.loads(body)
        with self.lock:
            self.seen.append(request)
        # vLLM takes tools without a choice for "auto", and no tools without one for "none".
        if request.get("tool_choice", "auto" if request.get("tools") else "none") != "none":
            error = {"message": NO_TOOLS, "type": "BadRequestError", "param": None, "code": 400}
            self._json({"error": error}, 400)
            return
        text = answer_to(request["messages"])
        if "refuse" in _question(request["messages"]):
            self._json(
                {"error": {"message": REFUSAL, "type": "ServiceUnavailable", "code": 503}}, 503
            )
            return
        if request.get("stream"):
            question = _question(request["messages"])
            self._stream(text, breaks="break down" in question, together="flock" in question)
        else:
            message = {"role": "assistant", "content": text}
            self._json(
                {
                    **_head("chat.completion"),
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": _usage(text),
                }
            )

    def _stream(self, text: str, *, breaks: bool, together: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, piece in enumerate(_pieces(text)):
            if together and number == 1:
                self.gate.wait()
            delta = {"role": "assistant", "content": piece}
            self._event({"index": 0, "delta": delta, "finish_reason": None})
            if breaks:  # no last chunk: this is what a server that died looks like
                self.close_connection = True
                return
            time.sleep(SLOWLY if text == COUNT else self.token_delay)
        self._event({"index": 0, "delta": {}, "finish_reason": "stop"}, usage=_usage(text))
        self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _event(self, choice: dict[str, t.Any], **more: object) -> None:
        event = {**_head("chat.completion.chunk"), "choices": [choice], **more}
        self._chunk(f"data: {json.dumps(event)}\n\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_unused: object) -> None:
        """Say nothing: the tests read ``/_seen``."""


def _head(kind: str) -> dict[str, t.Any]:
    return {"id": "stand-in", "object": kind, "created": 0, "model": MODEL}


def _usage(text: str) -> dict[str, int]:
    count = len(list(_pieces(text)))
    return {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}


class Server(ThreadingHTTPServer):
    """Fifty chats arrive at once."""

    request_queue_size = 256
    daemon_threads = True


def serve(host: str, port: int, token_delay: float = 0.0) -> Server:
    """Start listening; the caller runs ``serve_forever``."""
    handler = type("Handler", (Handler,), {"token_delay": token_delay})
    return Server((host, port), handler)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token-delay", type=float, default=0.02, help="seconds between words")
    options = parser.parse_args()
    serve(options.host, options.port, options.token_delay).serve_forever()


if __name__ == "__main__":
    main()
