# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The browser's own network: one address leads out of it, and interfaces outside are not seen."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser.network import PrivateNetwork, private_network

if t.TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")

BODY = b"a page " * 50_000
FETCH = "import sys, urllib.request as u; print(len(u.urlopen(sys.argv[1], timeout=5).read()))"


class Handler(BaseHTTPRequestHandler):
    """Serves one long page."""

    def do_GET(self) -> None:
        """Serve it."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_unused: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[int]:
    """Serve the page on this machine's loopback interface; return the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http.server_address[1]
        http.shutdown()


def inside(network: PrivateNetwork, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*network.command, *command], check=False, capture_output=True, text=True)


def test_the_page_is_reached_and_nothing_else_is(server: int) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with private_network("127.0.0.1", server) as network:
            page, another = (
                inside(network, sys.executable, "-c", FETCH, f"http://127.0.0.1:{port}/")
                for port in (server, other.server_address[1])
            )
        other.shutdown()
    assert page.stdout.strip() == str(len(BODY)), page.stderr
    assert "Connection refused" in another.stderr


def test_interfaces_that_come_outside_are_not_seen(server: int) -> None:
    with private_network("127.0.0.1", server) as network:
        before = inside(network, "ip", "-oneline", "link").stdout
        # Another namespace's interface is as far outside as the machine's own.
        with private_network("127.0.0.1", server):
            assert inside(network, "ip", "-oneline", "link").stdout == before
    names = {line.split()[1].partition("@")[0].rstrip(":") for line in before.splitlines()}
    assert {"lo", "inside", "other"} <= names
    assert not any(name.startswith(("eth", "en", "docker", "br-")) for name in names)


def test_a_page_that_is_not_there_ends_the_connection() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as free:
        port = free.server_address[1]
    with private_network("127.0.0.1", port) as network:
        done = inside(network, sys.executable, "-c", FETCH, f"http://127.0.0.1:{port}/")
    assert "RemoteDisconnected" in done.stderr or "Connection reset" in done.stderr
