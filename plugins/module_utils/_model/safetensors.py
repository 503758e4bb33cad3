# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the header of a safetensors file: which tensors it has, and how large they are."""

from __future__ import annotations

import json
import struct
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._model.files import (
    LFS_POINTER,
    DamagedFileError,
    JsonObject,
)

if t.TYPE_CHECKING:
    from pathlib import Path

# The safetensors format itself refuses a larger header.
MAX_SAFETENSORS_HEADER = 100_000_000


def safetensors_header(path: Path) -> tuple[JsonObject, int]:
    """Read a safetensors header: its tensors, and the size that the whole file must have."""
    with path.open("rb") as file:
        start = file.read(8)
        if start == LFS_POINTER[:8]:
            raise DamagedFileError(path, "it is a Git LFS pointer, not the file itself")
        if len(start) < struct.calcsize("<Q"):
            raise DamagedFileError(path, f"{len(start)} bytes, too few even for a header")
        (length,) = struct.unpack("<Q", start)
        if length > MAX_SAFETENSORS_HEADER:
            raise DamagedFileError(path, "it does not start with a safetensors header")
        raw = file.read(length)
    if len(raw) < length:
        raise DamagedFileError(path, f"it ends within its header of {length} bytes")
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = [tuple(map(int, entry["data_offsets"])) for entry in tensors.values()]
        data = max((end for _start, end in spans), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DamagedFileError(path, "its safetensors header is not valid") from error
    return tensors, len(start) + length + data


def tensor_bytes(tensors: JsonObject) -> int:
    """Sum the bytes of the tensors that a header lists."""
    spans = (tuple(map(int, entry["data_offsets"])) for entry in tensors.values())
    return sum(end - start for start, end in spans)
