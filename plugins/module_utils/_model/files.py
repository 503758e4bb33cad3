# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the small files of a model; what cannot be read is a typed error."""

from __future__ import annotations

import json
import typing as t

if t.TYPE_CHECKING:
    from pathlib import Path

JsonObject = dict[str, t.Any]

LFS_POINTER = b"version https://git-lfs"


class DamagedFileError(Exception):
    """A file is there, but is not what its name says."""

    def __init__(self, path: Path, seen: str) -> None:
        super().__init__(f"{path.name}: {seen}")
        self.path = path
        self.seen = seen


def read_object(path: Path) -> JsonObject:
    """Read a file that must hold one JSON object.

    Raises DamagedFileError where it cannot be read, is a Git LFS pointer or holds something else.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DamagedFileError(path, f"it cannot be read ({error.strerror})") from error
    if not raw:
        raise DamagedFileError(path, "it is empty")
    if raw.startswith(LFS_POINTER):
        raise DamagedFileError(path, "it is a Git LFS pointer, not the file itself")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"it is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedFileError(path, "it is valid JSON, but not an object")
    return value
