# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into the registry, and how."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import typing as t
from types import SimpleNamespace

import pytest
from testbed.registry import Registry, Stream
from testbed.settings import VLLM

if t.TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        pytest.param(b"a tar archive", "gzip", id="plain: gets compressed"),
        pytest.param(gzip.compress(b"a tar archive"), "gzip", id="gzip: stays as it is"),
        pytest.param(b"\x28\xb5\x2f\xfd and so on", "zstd", id="zstd: stays as it is"),
    ],
)
def test_layers_are_compressed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: bytes, kind: str
) -> None:
    stored: list[bytes] = []

    def ask(_self: Registry, method: str, _path: str, body: t.Any = b"", **_headers: str) -> object:
        if method == "PUT":
            stored.append(body.read())
        return SimpleNamespace(status=202, headers={"Location": "http://127.0.0.1:5000/v2/upload"})

    monkeypatch.setattr(Registry, "ask", ask)
    monkeypatch.setattr("testbed.registry.COMPRESS", ("gzip", "-c"))
    blob = Registry(None, 5000).put_layer(VLLM, io.BytesIO(start), tmp_path)  # type: ignore[arg-type]
    assert blob["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{kind}"
    assert blob["size"] == len(stored[0])
    assert blob["digest"] == f"sha256:{hashlib.sha256(stored[0]).hexdigest()}"
    assert (start == stored[0]) is not start.startswith(b"a tar")
    if kind == "gzip":
        assert gzip.decompress(stored[0]) == b"a tar archive"
