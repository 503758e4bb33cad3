# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands and files of the host, behind one small seam that tests replace."""

from __future__ import annotations

import os
import subprocess
import typing as t
from dataclasses import dataclass
from pathlib import Path

if t.TYPE_CHECKING:
    from collections.abc import Sequence

# Where an ordinary user's PATH does not lead, and a cron job's even less.
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Set by tests only, see kernel_host().
_SYSROOT = "SPARERIG_TEST_SYSROOT"


class CommandTimedOutError(Exception):
    """A command gave no answer in time and was killed."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    rc: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the command says that it succeeded."""
        return self.rc == 0


class Host(t.Protocol):
    """What the readers in this package need of a host."""

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer | None:
        """Run a command; None when there is no such program."""

    def read(self, path: str) -> str | None:
        """Return a file's text; None when it is not there or not ours to read."""

    def read_bytes(self, path: str) -> bytes | None:
        """Return a file's bytes; None when it is not there or not ours to read."""

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none when it is not there."""

    def resolve(self, path: str) -> str:
        """Follow symbolic links to the end."""


class LocalHost:
    """The host that the module runs on."""

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer | None:
        """Run a command in the C locale; None when there is no such program."""
        path = ":".join(filter(None, (os.environ.get("PATH"), _SYSTEM_PATH)))
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"LC_ALL": "C", "PATH": path},
            )
        except (FileNotFoundError, PermissionError):
            return None
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # Not waited for: a process stuck inside a broken driver outlives its own death.
            process.kill()
            raise CommandTimedOutError(
                f"'{' '.join(argv)}' gave no answer within {timeout:.0f} s"
            ) from None
        return Answer(
            process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
        )

    def read(self, path: str) -> str | None:
        """Return a file's text; None when it is not there or not ours to read."""
        content = self.read_bytes(path)
        return None if content is None else content.decode(errors="replace")

    def read_bytes(self, path: str) -> bytes | None:
        """Return a file's bytes; None when it is not there or not ours to read."""
        try:
            return Path(path).read_bytes()
        except OSError:
            return None

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none when it is not there."""
        try:
            return sorted(entry.name for entry in Path(path).iterdir())
        except OSError:
            return []

    def resolve(self, path: str) -> str:
        """Follow symbolic links to the end."""
        return os.path.realpath(path)


class SysrootHost(LocalHost):
    """The host that the module runs on, with the kernel's view of it read from somewhere else.

    Only /proc and /sys move.
    """

    def __init__(self, sysroot: str) -> None:
        self._sysroot = sysroot.rstrip("/")

    def _moved(self, path: str) -> str:
        return f"{self._sysroot}{path}" if path.startswith(("/proc/", "/sys/")) else path

    def read_bytes(self, path: str) -> bytes | None:
        """Return a file's bytes; None when it is not there or not ours to read."""
        return super().read_bytes(self._moved(path))

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none when it is not there."""
        return super().names(self._moved(path))

    def resolve(self, path: str) -> str:
        """Follow symbolic links to the end."""
        return super().resolve(self._moved(path))


def kernel_host() -> LocalHost:
    """Return the host for those who look at its kernel and its cards.

    The seam of the tests on real systems: there, a machine without a card shows a stand-in one in
    the folder that the environment variable SPARERIG_TEST_SYSROOT names. Nothing else sets it.
    """
    sysroot = os.environ.get(_SYSROOT)
    return SysrootHost(sysroot) if sysroot else LocalHost()
