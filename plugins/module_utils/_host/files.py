# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files of a host: replaced in one step, read as JSON, read and written as NAME=value.

PRIVATE to this collection. Imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from pathlib import Path

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NEW_FILE = 0o644


class JsonError(ValueError):
    """A text that must be one JSON object and is not. The message follows the file's name."""


def read_text(path: str | Path) -> str | None:
    """Return a file's text (UTF-8); None when there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def write_atomically(
    path: str | Path,
    content: str | bytes,
    *,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
    validate: Callable[[Path], None] | None = None,
) -> None:
    """Replace a file in one step: a reader finds the old or the new one, also after a power cut.

    ``mode`` and ``owner`` (uid, gid) are those of the file that is replaced where they are None,
    and 0644 and the caller's for a new file, whatever the umask is. ``validate`` gets the new file
    under another name before it replaces the old one, which stays when it raises. Raises OSError.
    """
    path = Path(path)
    try:
        old = path.stat()
    except FileNotFoundError:
        old = None
    if mode is None:
        mode = old.st_mode & 0o7777 if old else NEW_FILE
    if owner is None and old:
        owner = (old.st_uid, old.st_gid)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # left by a run that was cut off
    try:
        # Closed to others until owner and mode are set.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if owner and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)  # after the owner, whose change takes setuid away
            file.flush()
            os.fsync(file.fileno())
        if validate:
            validate(new)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory written to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_json_object(text: str | bytes) -> dict[str, t.Any]:
    """Return the JSON object that a text holds; raise JsonError when it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"is not valid JSON ({error})"
        raise JsonError(message) from error
    if not isinstance(value, dict):
        message = f"holds a {type(value).__name__}, not an object"
        raise JsonError(message)
    return value


def read_json_object(path: str | Path) -> dict[str, t.Any]:
    """Return the JSON object in a file. Raises OSError, or JsonError when it holds none."""
    return parse_json_object(Path(path).read_bytes())


def parse_env(text: str) -> dict[str, str]:
    """Read NAME=value lines as ``docker run --env-file`` does: without quoting, # for comments."""
    # Not splitlines(), which also cuts at characters that a value may hold.
    lines = (line for line in re.split(r"\r?\n", text) if not line.lstrip().startswith("#"))
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value for name, equals, value in pairs if equals}


def render_env(values: Mapping[str, str], comment: str) -> str:
    """Write NAME=value lines, sorted, below a comment; names and values have no line break."""
    lines = [f"# {comment}", *(f"{name}={values[name]}" for name in sorted(values))]
    return "\n".join(lines) + "\n"
