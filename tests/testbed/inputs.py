# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Name a thing by a hash of what it is made from, so that it is made once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def fingerprint(*parts: str | Path) -> str:
    """Hash texts, files and folders (names, modes and contents) into twelve hexadecimal digits."""
    digest = hashlib.sha256()

    def add(kind: str, content: bytes) -> None:
        digest.update(f"{kind}:{len(content)}:".encode())
        digest.update(content)

    for part in parts:
        if isinstance(part, str):
            add("text", part.encode())
            continue
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if path.is_file() and "__pycache__" not in path.parts:
                add("name", path.relative_to(part).as_posix().encode())
                add("mode", b"x" if path.stat().st_mode & 0o100 else b"-")
                add("file", path.read_bytes())
    return digest.hexdigest()[:12]
