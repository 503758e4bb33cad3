# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stream in which the engine hands over an image."""

from __future__ import annotations

import io
import tarfile

import pytest
from testbed.registry import Stream


@pytest.mark.parametrize("size", [1, 7, 512, 1 << 20])
def test_stream_reads_a_tar_cut_into_chunks_of_any_size(size: int) -> None:
    archive = io.BytesIO()
    content = bytes(range(256)) * 40
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("first", "second"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    whole = archive.getvalue()
    chunks = iter([whole[start : start + size] for start in range(0, len(whole), size)])
    found = {}
    with tarfile.open(fileobj=Stream(chunks), mode="r|") as tar:
        for member in tar:
            extracted = tar.extractfile(member)
            assert extracted
            found[member.name] = extracted.read()
    assert found == {"first": content, "second": content}
