# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Offer the files of one model snapshot to one other host of the site, for a while.

It prints its port and the token to ask with, goes on in the background, and ends when nobody has
asked for a minute. It answers as a hub does to the download of a file, and to nothing else. Whoever
downloads verifies every file against the hashes that came by way of Ansible.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

IDLE_SECONDS = 60
# The last part of what huggingface_hub asks for: /ORGANISATION/NAME/resolve/COMMIT/FILE.
REQUEST = re.compile(r"/[^/]+/[^/]+/resolve/([0-9a-f]{40})/([^/]+)")


class Share(ThreadingHTTPServer):
    """A directory, a token, and when somebody last asked."""

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        """Take a free port."""
        super().__init__(("", 0), Handler)
        self.directory = directory
        self.token = secrets.token_hex(16)
        self.transfers = 0
        self.last = time.monotonic()
        self.mutex = threading.Lock()

    def count(self, transfers: int) -> None:
        """Count a transfer that begins or ends."""
        with self.mutex:
            self.transfers += transfers
            self.last = time.monotonic()

    def service_actions(self) -> None:
        """End when nobody has asked for a while. The standard library calls this twice a second."""
        if not self.transfers and time.monotonic() - self.last > IDLE_SECONDS:
            os._exit(0)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: Share

    def log_message(self, *_unused: object) -> None:
        """Say nothing: there is no terminal."""

    def do_GET(self) -> None:
        """Send a file, or the rest of it."""
        allowed = f"Bearer {self.server.token}"
        given = self.headers.get("Authorization") or ""
        asked = REQUEST.fullmatch(unquote(self.path))
        if not secrets.compare_digest(given.encode(), allowed.encode()):
            self.answer(401)
        elif asked is None or asked[1] != self.server.directory.name or asked[2].startswith("."):
            self.answer(404)
        else:
            self.send_file(self.server.directory / asked[2])

    def send_file(self, path: Path) -> None:
        """Send a file from the byte that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        try:
            file = path.open("rb")
        except OSError:
            self.answer(404)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            if start > size:
                self.answer(416)
                return
            file.seek(start)
            self.server.count(1)
            try:
                span = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if asked else {}
                self.answer(206 if asked else 200, size - start, span)
                shutil.copyfileobj(file, self.wfile, 1 << 20)
            except ConnectionError:
                self.close_connection = True
            finally:
                self.server.count(-1)

    def answer(self, status: int, length: int = 0, headers: dict[str, str] | None = None) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def main() -> None:
    """Say where, and serve in the background."""
    share = Share(Path(sys.argv[1]))
    sys.stdout.write(json.dumps({"port": share.server_port, "token": share.token}) + "\n")
    sys.stdout.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    share.serve_forever()


if __name__ == "__main__":
    main()
