# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that answers like vLLM or like Open WebUI, and misbehaves in every way we could name.

The first part of the path chooses the behaviour: http://127.0.0.1:PORT/reset/v1/models is answered
by a broken connection. ``--daemon`` prints the port and leaves the server running in the
background until somebody gets /quit, ten minutes at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEY = "stand-in-key"
SESAME = "stand-in-password"  # what opens the page
MODEL = "tiny"
FILE = "5d0e3a4c-0000-4000-8000-000000000000"
CONTEXT = 2048
KV_CACHE_TOKENS = 4096
TOKENS = ["One", ",", " two", ",", " three", "."]
FOREVER = 120.0  # seconds; longer than any deadline in the tests

METRICS = f"""# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{KV_CACHE_TOKENS // 16}"}} 1.0
vllm:kv_cache_usage_perc{{engine="0",model_name="{MODEL}"}} 0.25
vllm:num_requests_running{{engine="0",model_name="{MODEL}"}} 1.0
vllm:num_requests_waiting{{engine="0",model_name="{MODEL}"}} 0.0
"""


class Handler(BaseHTTPRequestHandler):
    """One request; ``self.fault`` is how to misbehave."""

    protocol_version = "HTTP/1.1"
    documents: t.ClassVar[list[str]] = []
    sign_ins: t.ClassVar[int] = 0

    def do_GET(self) -> None:
        """Answer a GET."""
        self.answer()

    def do_POST(self) -> None:
        """Answer a POST."""
        self.request_body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def do_DELETE(self) -> None:
        """Answer a DELETE."""
        self.answer()

    def log_message(self, *_args: object) -> None:
        """Say nothing: tests read what modules say."""

    def answer(self) -> None:
        """Misbehave where the fault says so, else answer well."""
        if self.path == "/quit":
            self.text("bye")
            threading.Thread(target=self.server.shutdown).start()
            return
        self.fault, rest = self.path[1:].partition("/")[::2]
        path = "/" + rest
        fault = getattr(self, "fault_" + self.fault.replace("-", "_"), None)
        try:
            if not (fault and fault(path)):
                self.answer_well(path)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has had enough, which is the point of most tests

    # How it answers when all is well

    def answer_well(self, path: str) -> None:
        """Answer as vLLM and Open WebUI do."""
        if path.startswith("/v1/") and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.json({"error": "Unauthorized"}, 401)
        elif path in {"/v1/chat/completions", "/v1/completions"}:
            self.stream(path)
        else:
            well: dict[str, Callable[[], object]] = {
                "/health": lambda: self.text(""),
                "/version": lambda: self.json({"version": "0.0.stand-in"}),
                "/v1/models": lambda: self.models([{"id": MODEL, "max_model_len": CONTEXT}]),
                "/metrics": lambda: self.text(METRICS),
                "/": lambda: self.text("<!doctype html><title>Chat</title>", "text/html"),
                "/api/config": lambda: self.config(auth=True),
                "/api/v1/auths/signin": self.sign_in,
                "/api/v1/auths/": self.show_session,
                "/api/models": lambda: self.models([{"id": MODEL}]),
                "/api/version": lambda: self.json({"version": "0.12.4"}),
                "/api/v1/files/": self.take_document,
                f"/api/v1/files/{FILE}": self.show_document,
                "/api/chat/completions": lambda: self.answer_about(self.documents),
            }
            well.get(path, lambda: self.json({"detail": "Not Found"}, 404))()

    def send(self, body: bytes, content_type: str, status: int = 200, length: int = -1) -> None:
        """Send a whole answer; the length may be a lie."""
        self.head(content_type, status, Content_Length=str(len(body) if length < 0 else length))
        self.wfile.write(body)

    def head(self, content_type: str, status: int = 200, **headers: str) -> None:
        """Send the head of an answer."""
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def text(self, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        """Send text."""
        self.send(text.encode(), content_type)

    def json(self, value: object, status: int = 200) -> bool:
        """Send JSON."""
        self.send(json.dumps(value).encode(), "application/json", status)
        return True

    def models(self, models: list[dict[str, object]]) -> bool:
        """Send a list of models."""
        return self.json({"object": "list", "data": models})

    def config(self, *, auth: bool) -> bool:
        """Send what Open WebUI tells before anybody has signed in."""
        return self.json({"name": "Chat", "version": "0.0.stand-in", "features": {"auth": auth}})

    def sign_in(self) -> None:
        """Give a token for the right password."""
        Handler.sign_ins += 1
        if json.loads(self.request_body).get("password") == SESAME:
            self.json({"token": "stand-in-token", "id": "admin", "role": "user"})
        else:
            self.json({"detail": "The email or password provided is incorrect."}, 400)

    def show_session(self) -> None:
        """Say whose token came along."""
        if self.headers.get("Authorization") == "Bearer stand-in-token":
            self.json({"token": "stand-in-token", "id": "admin", "role": "user"})
        else:
            self.json({"detail": "401 Unauthorized"}, 401)

    def take_document(self) -> None:
        """Take an upload."""
        self.documents.append(self.request_body.decode())
        self.json({"id": FILE})

    def show_document(self) -> bool:
        """Tell how indexing went, or remove the document."""
        if self.command == "DELETE":
            self.documents.clear()
        return self.json({"data": {"status": "completed"}})

    def answer_about(self, documents: list[str]) -> bool:
        """Answer a question, saying which documents were in the prompt."""
        return self.json({"choices": [], "sources": [{"document": documents}]})

    def stream(self, path: str, *ends: Mapping[str, object] | str) -> bool:
        """Stream a completion; what it ends with may be replaced."""
        self.head("text/event-stream; charset=utf-8")
        if "chat" in path:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for token in TOKENS:
            self.token(path, token)
        usage = {"choices": [], "usage": {"completion_tokens": len(TOKENS)}}
        for end in ends or (self.ending(path, "stop"), usage, "[DONE]"):
            self.event(end)
        return True

    def ending(self, path: str, reason: str) -> dict[str, object]:
        """Return the piece that says why a completion ended."""
        empty: dict[str, object] = {"delta": {}} if "chat" in path else {"text": ""}
        return {"choices": [{"index": 0, "finish_reason": reason} | empty]}

    def token(self, path: str, token: str) -> None:
        """Stream one token."""
        piece = {"delta": {"content": token}} if "chat" in path else {"text": token}
        self.event({"choices": [{"index": 0, "finish_reason": None} | piece]})

    def event(self, data: Mapping[str, object] | str) -> None:
        """Stream one event."""
        text = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(f"data: {text}\n\n".encode())

    # How it misbehaves: each returns whether it has answered

    def fault_silent(self, _path: str) -> bool:
        """Take the connection and say nothing."""
        return self.sleep()

    def fault_dripping(self, _path: str) -> bool:
        """Send a head that never ends, a byte at a time."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        end = time.monotonic() + FOREVER
        while time.monotonic() < end:
            self.wfile.write(b".")
            time.sleep(0.05)
        return True

    def fault_dripping_list(self, path: str) -> bool:
        """Send a body that comes a byte at a time."""
        if path != "/v1/models" or not self.authorized():
            return False
        self.head("application/json", Content_Length="100000")
        end = time.monotonic() + FOREVER
        while time.monotonic() < end:
            self.wfile.write(b" ")
            time.sleep(0.05)
        return True

    def fault_reset(self, path: str) -> bool:
        """Break the connection off without a word."""
        return path == "/v1/models" and self.reset()

    def fault_dead(self, path: str) -> bool:
        """Have lost the engine behind the API."""
        return path == "/health" and self.json({"detail": "engine dead"}, 503)

    def fault_reset_version(self, path: str) -> bool:
        """Break off where the version is asked."""
        return path == "/version" and self.reset()

    def fault_closed_oddly(self, path: str) -> bool:
        """Turn people without a key away in words of its own."""
        return path == "/v1/models" and not self.authorized() and self.json({"error": "who?"}, 418)

    def fault_late_key(self, path: str) -> bool:
        """Find only later that the key is wrong."""
        return self.completes(path) and self.json({"error": "Unauthorized"}, 401)

    def fault_one_token(self, path: str) -> bool:
        """Say one word."""
        usage = {"choices": [], "usage": {"completion_tokens": 1}}
        return self.completes(path) and self.stream(path, usage, "[DONE]")

    def fault_error(self, path: str) -> bool:
        """Fail inside."""
        return path == "/v1/models" and self.json({"error": {"message": "out of order"}}, 500)

    def fault_other_key(self, path: str) -> bool:
        """Take another key than everybody thinks."""
        return path.startswith("/v1/") and self.json({"error": "Unauthorized"}, 401)

    def fault_open(self, path: str) -> bool:
        """Take no key at all."""
        return path == "/v1/models" and self.models([{"id": MODEL, "max_model_len": CONTEXT}])

    def fault_content_type(self, path: str) -> bool:
        """Answer with a page where data was asked for."""
        if path == "/v1/models" and self.authorized():
            self.text("<html>Welcome to the router</html>", "text/html")
            return True
        return False

    def fault_invalid_json(self, path: str) -> bool:
        """Answer with half of a JSON document."""
        if path == "/v1/models" and self.authorized():
            self.send(b'{"object": "list", "data": [', "application/json")
            return True
        return False

    def fault_other_json(self, path: str) -> bool:
        """Answer with JSON of another service."""
        return path == "/v1/models" and self.authorized() and self.json({"models": []})

    def fault_huge(self, path: str) -> bool:
        """Answer with more than anybody wants."""
        if path != "/v1/models" or not self.authorized():
            return False
        self.head("application/json")
        while True:
            self.wfile.write(b" " * 65536)

    def fault_short(self, path: str) -> bool:
        """Send less than announced."""
        if path == "/v1/models" and self.authorized():
            self.send(b'{"object": "list"', "application/json", length=5000)
            return True
        return False

    def fault_bad_chunks(self, path: str) -> bool:
        """Announce pieces and send none."""
        if path == "/v1/models" and self.authorized():
            self.head("application/json", Transfer_Encoding="chunked")
            self.wfile.write(b"10\r\n{")
            return True
        return False

    def fault_not_http(self, _path: str) -> bool:
        """Speak another language."""
        self.close_connection = True
        self.wfile.write(b"SSH-2.0-OpenSSH_8.9p1 Ubuntu-3\r\n")
        return True

    def fault_redirect(self, path: str) -> bool:
        """Send people elsewhere."""
        if path == "/health":
            self.head("text/html", 302, Location="https://example.com/", Content_Length="0")
            return True
        return False

    def fault_no_models(self, path: str) -> bool:
        """Serve nothing."""
        return path == "/v1/models" and self.authorized() and self.models([])

    def fault_no_context(self, path: str) -> bool:
        """Do not tell the context length."""
        return path == "/v1/models" and self.authorized() and self.models([{"id": MODEL}])

    def fault_no_metrics(self, path: str) -> bool:
        """Be another server than vLLM."""
        return path in {"/metrics", "/version"} and self.json({"detail": "Not Found"}, 404)

    def fault_model_404(self, path: str) -> bool:
        """Lose the model between list and use."""
        message = {"error": {"message": f"The model `{MODEL}` does not exist.", "code": 404}}
        return self.completes(path) and self.json(message, 404)

    def fault_error_completing(self, path: str) -> bool:
        """Refuse to complete, and repeat the key while at it."""
        message = {"error": {"message": f"no luck with {self.headers.get('Authorization')}"}}
        return self.completes(path) and self.json(message, 500)

    def fault_error_midstream(self, path: str) -> bool:
        """Fail in the middle of a completion."""
        error = {"error": {"message": "EngineCore encountered an issue.", "code": 500}}
        return self.completes(path) and self.stream(path, error, "[DONE]")

    def fault_aborted(self, path: str) -> bool:
        """Give up a completion and say so."""
        return self.completes(path) and self.stream(path, self.ending(path, "abort"), "[DONE]")

    def fault_truncated_stream(self, path: str) -> bool:
        """End a stream without the end mark."""
        return self.completes(path) and self.stream(path, self.ending(path, "stop"))

    def fault_reset_midstream(self, path: str) -> bool:
        """Break the connection off in the middle of a completion."""
        if not self.completes(path):
            return False
        self.head("text/event-stream")
        self.token(path, TOKENS[0])
        time.sleep(0.1)
        return self.reset()

    def fault_invalid_json_midstream(self, path: str) -> bool:
        """Stream what is no JSON."""
        return self.completes(path) and self.stream(path, '{"choices": [')

    def fault_hung(self, path: str) -> bool:
        """Begin to answer and never say a word."""
        if not self.completes(path):
            return False
        self.head("text/event-stream")
        return self.sleep()

    def fault_hung_silent(self, path: str) -> bool:
        """Take the request and never begin to answer."""
        return self.completes(path) and self.sleep()

    def fault_stalled(self, path: str) -> bool:
        """Stop in the middle of a completion."""
        if not self.completes(path):
            return False
        self.head("text/event-stream")
        self.token(path, TOKENS[0])
        return self.sleep()

    def fault_never_ending(self, path: str) -> bool:
        """Never stop talking."""
        if not self.completes(path):
            return False
        self.head("text/event-stream")
        end = time.monotonic() + FOREVER
        while time.monotonic() < end:
            self.token(path, "more")
            time.sleep(0.02)
        return True

    def fault_stream_of_html(self, path: str) -> bool:
        """Answer a completion with a page."""
        if not self.completes(path):
            return False
        self.text("<html>502</html>", "text/html")
        return True

    def fault_speechless(self, path: str) -> bool:
        """Complete with nothing."""
        if not self.completes(path):
            return False
        self.head("text/event-stream")
        self.event({"choices": [], "usage": {"completion_tokens": 0}})
        self.event("[DONE]")
        return True

    def fault_no_chat_template(self, path: str) -> bool:
        """Serve a model that can only continue texts."""
        message = "As of transformers v4.44, default chat template is no longer allowed."
        return "chat" in path and self.json({"error": {"message": message}}, 400)

    def fault_slow_tokens(self, path: str) -> bool:
        """Talk slowly, without counting."""
        if not self.completes(path):
            return False
        self.head("text/event-stream")
        time.sleep(0.2)
        for token in TOKENS:
            self.token(path, token)
            time.sleep(0.05)
        self.event(self.ending(path, "length"))
        self.event("[DONE]")
        return True

    def fault_web_no_page(self, path: str) -> bool:
        """Be another service than the chat page."""
        return path == "/" and self.json({"hello": "world"})

    def fault_web_no_config(self, path: str) -> bool:
        """Be a page, and not this one."""
        return path == "/api/config" and self.json({"status": True})

    def fault_web_open(self, path: str) -> bool:
        """Let everybody in."""
        return path == "/api/config" and self.config(auth=False)

    def fault_web_no_model(self, path: str) -> bool:
        """Have lost the engine."""
        return path == "/api/models" and self.models([])

    def fault_web_other_model(self, path: str) -> bool:
        """Know another engine."""
        return path == "/api/models" and self.models([{"id": "other"}])

    def fault_web_broken(self, path: str) -> bool:
        """Fail inside when somebody signs in."""
        return path == "/api/v1/auths/signin" and self.json({"detail": "out of order"}, 500)

    def fault_web_no_token(self, path: str) -> bool:
        """Sign people in and give them nothing for it."""
        return path == "/api/v1/auths/signin" and self.json({"ok": True})

    def fault_web_busy(self, path: str) -> bool:
        """Find that somebody signs in too often."""
        return path == "/api/v1/auths/signin" and self.json({"detail": "Too many requests"}, 429)

    def fault_documents_refused(self, path: str) -> bool:
        """Have no room for uploads."""
        full = {"detail": "[Errno 28] No space left on device"}
        return path == "/api/v1/files/" and self.json(full, 400)

    def fault_documents_not_indexed(self, path: str) -> bool:
        """Have an embedding engine that does not answer."""
        if path != f"/api/v1/files/{FILE}" or self.command == "DELETE":
            return False
        error = "Cannot connect to host 127.0.0.1:9"
        return self.json({"data": {"status": "failed", "error": error}})

    def fault_documents_not_found(self, path: str) -> bool:
        """Index documents and find none of them again."""
        return path == "/api/chat/completions" and self.answer_about([])

    def fault_documents_unanswered(self, path: str) -> bool:
        """Have lost the engine when it comes to the question."""
        down = {"detail": "Open WebUI: Server Connection Error"}
        return path == "/api/chat/completions" and self.json(down, 500)

    def fault_web_reset(self, path: str) -> bool:
        """Fall over when somebody signs in."""
        return path == "/api/v1/auths/signin" and self.reset()

    def completes(self, path: str) -> bool:
        """Tell whether a completion is asked for."""
        return path.endswith("/completions")

    def authorized(self) -> bool:
        """Tell whether the right key came along."""
        return self.headers.get("Authorization") == f"Bearer {KEY}"

    def sleep(self) -> bool:
        """Say nothing until the client goes away."""
        self.wfile.flush()
        self.connection.settimeout(FOREVER)
        with contextlib.suppress(TimeoutError):
            self.connection.recv(1)
        self.close_connection = True
        return True

    def reset(self) -> bool:
        """Close so that the client gets a reset instead of an end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True
        return True


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Serve in this process for a while; yield the address."""
    server = start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def start() -> ThreadingHTTPServer:
    """Listen on a free port of the loopback interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def main() -> None:
    """Serve, in the background if wanted."""
    server = start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    if "--daemon" in sys.argv[1:]:
        if os.fork():
            os._exit(0)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
    stop = threading.Timer(600, server.shutdown)
    stop.daemon = True
    stop.start()
    server.serve_forever()


if __name__ == "__main__":
    main()
