# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store on the disk knows of itself and of its readers."""

from __future__ import annotations

import hashlib
import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import (
    FileFacts,
    Listing,
    Store,
    in_use,
    needed_files,
)

if t.TYPE_CHECKING:
    from pathlib import Path

COMMIT, OTHER = "a" * 40, "b" * 40
NAME = "example/model"


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    """Make a /proc with one process that uses nothing."""
    process = tmp_path / "proc" / "4711"
    (process / "fd").mkdir(parents=True)
    (process / "maps").write_text("7f00-7f01 r--p 00000000 08:02 131 /usr/lib/libc.so.6\n")
    (process / "mountinfo").write_text("21 1 8:2 / / rw - ext4 /dev/sda2 rw\n")
    (process / "cwd").symlink_to("/")
    (tmp_path / "proc" / "self").symlink_to("4711")
    return tmp_path / "proc"


def test_nothing_in_use(processes: Path, tmp_path: Path) -> None:
    assert in_use([tmp_path / "example--model" / COMMIT], processes) == []


# As a container sees it: the mount names the directory from the root of the disk that holds it.
MOUNT = f"902 899 8:17 /models/example--model/{COMMIT} /models/m ro - ext4 /dev/sdb1 rw\n"
MAP = f"7f02-7f03 r--s 00000000 08:11 99 /srv/models/example--model/{COMMIT}/model.safetensors\n"


@pytest.mark.parametrize(("file", "line"), [("mountinfo", MOUNT), ("maps", MAP)])
def test_mounted_or_mapped(processes: Path, tmp_path: Path, file: str, line: str) -> None:
    with (processes / "4711" / file).open("a") as trace:
        trace.write(line)
    used, unused = (tmp_path / "example--model" / commit for commit in (COMMIT, OTHER))
    assert in_use([used, unused], processes) == [used]


@pytest.mark.parametrize("link", ["fd/7", "cwd"])
def test_open_file_or_working_directory(processes: Path, tmp_path: Path, link: str) -> None:
    used = tmp_path / "example--model" / COMMIT
    (processes / "4711" / link).unlink(missing_ok=True)
    (processes / "4711" / link).symlink_to(used / "config.json")
    assert in_use([used], processes) == [used]


def test_process_that_ends_meanwhile(processes: Path, tmp_path: Path) -> None:
    (processes / "4712").mkdir()
    assert in_use([tmp_path / COMMIT], processes) == []


def listing(content: bytes) -> Listing:
    facts = FileFacts(len(content), hashlib.sha256(content).hexdigest(), None)
    return Listing(NAME, COMMIT, "mit", gated=False, files={"x": facts})


def test_publish_replaces_a_damaged_snapshot(tmp_path: Path) -> None:
    store = Store(tmp_path, NAME)
    wanted = listing(b"good")
    damaged = store.snapshot(COMMIT)
    damaged.mkdir(parents=True)
    (damaged / "x").write_bytes(b"bad")
    # What a run that was killed between two renames left behind.
    (store.folder / f".{COMMIT}.broken").mkdir()
    partial = store.begin(wanted, ["x"])
    (partial / "x").write_bytes(b"good")
    (partial / "y.part").write_bytes(b"half")

    store.publish(wanted)

    assert [path.read_bytes() for path in damaged.iterdir()] == [b"good"]
    assert sorted(path.name for path in store.folder.iterdir()) == [COMMIT, f"{COMMIT}.json"]
    assert store.listing(COMMIT) == wanted


@pytest.mark.parametrize("text", ["", "{", "[]", '{"revisions": 1}', '{"revisions": {"main": 1}}'])
def test_damaged_lock_counts_as_none(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path, NAME)
    store.folder.mkdir()
    (store.folder / "lock.json").write_text(text)
    assert store.pinned("main") is None
    store.pin("main", COMMIT)
    assert store.pinned("main") == COMMIT
    assert json.loads((store.folder / "lock.json").read_text())["repository"] == NAME


def test_damaged_note_means_not_known(tmp_path: Path) -> None:
    store = Store(tmp_path, NAME)
    store.folder.mkdir()
    for text in ("", "{}", json.dumps(listing(b"x").as_json() | {"commit": OTHER})):
        (store.folder / f"{COMMIT}.json").write_text(text)
        assert store.listing(COMMIT) is None


FACTS = FileFacts(1, "0" * 64, None)


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ("config.json model.safetensors", "pytorch_model.bin"),
        ("config.json pytorch_model.bin pytorch_model.bin.index.json", ""),
        ("config.json model.safetensors", "consolidated.safetensors"),
        ("model-00001-of-00001.safetensors", "m.gguf a/model.safetensors ../model.safetensors"),
        ("chat_template.jinja LICENSE", ".gitattributes model.onnx model.onnx_data tf_model.h5"),
    ],
)
def test_needed_files(kept: str, left: str) -> None:
    files = dict.fromkeys([*left.split(), *kept.split()], FACTS)
    assert needed_files(files).keys() == set(kept.split())
