# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what is going on: every step when it starts, while it lasts and when it ends."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterator

STILL_SECONDS = 20.0

_began = time.monotonic()
_lock = threading.Lock()


class TestbedError(Exception):
    """What went wrong, its likely cause and what to do, for a person to read."""

    __test__ = False  # pytest would take the name for a test class


def say(text: str) -> None:
    """Print one line with the seconds since the start; standard output is left to results."""
    with _lock:
        print(f"[{time.monotonic() - _began:4.0f} s] {text}", file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step, remind of it every now and then, and say how long it took."""
    say(f"{what} ...")
    started = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(STILL_SECONDS):
            say(f"{what}: still at it after {time.monotonic() - started:.0f} s")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        done.set()
        reminder.join()
    say(f"{what}: done in {time.monotonic() - started:.0f} s")
