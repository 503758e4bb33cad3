# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network for the browser alone, in which nothing changes.

Chromium listens to the kernel's messages about interfaces. When one comes or goes on the machine,
such as that of a container, it ends the requests under way (``net::ERR_NETWORK_CHANGED``). In a
network namespace of its own it hears of no other interface.

The namespace has no connection to the outside. A socket that listens inside it belongs to this process,
which stands outside: it accepts the browser's connections and passes them on to the page. The
namespace exists while its descriptors are open: it is gone when this process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor

if t.TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
CHUNK = 1 << 16
# An interface beside lo, or the browser takes itself to be offline. Both ends of it are inside.
SET_UP = (
    "ip link set lo up && ip link add inside type veth peer name other"
    " && ip address add 192.0.2.1/24 dev inside && ip link set inside up && ip link set other up"
)


class PrivateNetwork:
    """A network namespace in which one address of this machine's loopback interface is reached."""

    def __init__(self, host: str, port: int) -> None:
        """Make it, as root; raise OSError where that cannot be done."""
        self._target = (host, port)
        # Only the thread that asks for it moves into the new namespace.
        with ThreadPoolExecutor(1) as thread:
            self._namespace, self._listener = thread.submit(self._make).result()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def command(self) -> list[str]:
        """What to put before a command that is to run inside."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespace}", "--"]

    def close(self) -> None:
        """Stop listening; the namespace goes with the last process inside."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        os.close(self._namespace)

    def _make(self) -> tuple[int, socket.socket]:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"no network namespace: {os.strerror(number)}")
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        done = subprocess.run(["sh", "-c", SET_UP], check=False, capture_output=True, text=True)
        if done.returncode:
            os.close(namespace)
            raise OSError(f"no interface in the browser's network: {done.stderr.strip()}")
        return namespace, socket.create_server(self._target, backlog=256)

    def _accept(self) -> None:
        # It ends with close().
        with contextlib.suppress(OSError):
            while True:
                inside, _peer = self._listener.accept()
                threading.Thread(target=self._join, args=(inside,), daemon=True).start()

    def _join(self, inside: socket.socket) -> None:
        """Pass on what both sides say, until both have ended."""
        with inside:
            try:
                outside = socket.create_connection(self._target)
            except OSError:
                return  # the browser sees the connection end, as one that is refused
            with outside:
                back = threading.Thread(target=_copy, args=(outside, inside), daemon=True)
                back.start()
                _copy(inside, outside)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            end.shutdown(how)


@contextlib.contextmanager
def private_network(host: str, port: int) -> Iterator[PrivateNetwork]:
    """Give a private network and close it."""
    network = PrivateNetwork(host, port)
    try:
        yield network
    finally:
        network.close()
