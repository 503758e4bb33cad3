# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for an engine in a container. The file ``mood`` says how it behaves, at any time."""

from __future__ import annotations

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(os.environ["STAND_IN"])
LAST_WORDS = HERE / "last-words"
PORT = 8000


def mood() -> str:
    return (HERE / "mood").read_text()


class Engine(BaseHTTPRequestHandler):
    """Answers as vLLM does, if it is in the mood."""

    tokens = 0

    def do_GET(self) -> None:
        """Tell how it is, or how many tokens it has made."""
        if self.path == "/metrics" and mood() == "no vllm":
            self.answer(404, "no such page")
        elif self.path == "/metrics":
            # Others get their tokens in a full house; in an engine that hangs nobody does.
            Engine.tokens += mood() == "full"
            name = 'vllm:generation_tokens_total{engine="0",model_name="tiny"}'
            self.answer(200, f"# HELP {name}\n{name} {Engine.tokens}.0\n")
        elif mood() == "loading":
            self.answer(503, "still\nREADY=1\nloading")
        elif mood() == "mute":
            time.sleep(60)
        elif mood() == "not http":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
        elif mood() == "dying":
            self.answer(500, "the engine is dead")
            sys.stdout.write("RuntimeError: Engine core initialization failed.\n")
            sys.stdout.flush()
            time.sleep(0.5)
            os._exit(2)
        else:
            self.answer(200, "")

    def do_POST(self) -> None:
        """Complete, for those who have the key."""
        length = int(self.headers["Content-Length"])
        question = self.rfile.read(length).decode()
        with (HERE / "questions").open("a") as questions:
            questions.write(f"{self.path} {question}\n")
        if self.headers["Authorization"] != "Bearer sesame=1":
            self.answer(401, "who are you?")
        elif mood() in {"hanging", "full"}:
            time.sleep(60)
        else:
            self.answer(200, '{"choices": []}')

    def answer(self, status: int, text: str) -> None:
        """Send one answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_given: object) -> None:
        """Say nothing."""


if LAST_WORDS.exists():
    sys.exit(LAST_WORDS.read_text())
sys.stdout.write("engine: loading caf\udce9\n".encode(errors="surrogateescape").decode("latin-1"))
sys.stdout.flush()
ThreadingHTTPServer(("127.0.0.1", PORT), Engine).serve_forever()
