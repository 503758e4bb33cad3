# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for what modules ask: a host, and the integration test's misbehaving server."""

from __future__ import annotations

import importlib.util
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._host.command import (
    Answer,
    CommandTimedOutError,
)

if t.TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_SERVER = Path(__file__).parent / "integration/targets/inference_health/files/misbehaving_server.py"
HANGS = "a command that gives no answer"


@dataclass
class FakeHost:
    """A host made of text: commands by how they begin, files and links by path."""

    commands: dict[str, Answer | str] = field(default_factory=dict)
    files: dict[str, str | bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer | None:
        """Answer the first command that begins so."""
        line = " ".join(argv)
        for start, answer in self.commands.items():
            if line.startswith(start):
                if answer == HANGS:
                    raise CommandTimedOutError(f"'{line}' gave no answer within {timeout:.0f} s")
                return Answer(0, answer, "") if isinstance(answer, str) else answer
        return None

    def read(self, path: str) -> str | None:
        """Return a file's text."""
        content = self.files.get(path)
        return content.decode() if isinstance(content, bytes) else content

    def read_bytes(self, path: str) -> bytes | None:
        """Return a file's bytes."""
        content = self.files.get(path)
        return content.encode() if isinstance(content, str) else content

    def names(self, path: str) -> list[str]:
        """Return the names in a folder."""
        inside = (name[len(path) + 1 :] for name in self.files if name.startswith(f"{path}/"))
        return sorted({name.partition("/")[0] for name in inside})

    def resolve(self, path: str) -> str:
        """Follow a link."""
        return self.links.get(path, path)


def misbehaving_server() -> ModuleType:
    """Load the integration test's server."""
    spec = importlib.util.spec_from_file_location("misbehaving_server", _SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
