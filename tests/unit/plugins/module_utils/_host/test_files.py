# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way to replace a file, to read JSON, and to read and write NAME=value lines."""

from __future__ import annotations

import os
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host import files
from ansible_collections.sparerig.llm.plugins.module_utils._service import supervisor

if t.TYPE_CHECKING:
    from pathlib import Path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_file_has_the_mode_asked_for_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.write_atomically(tmp_path / "plain", "a\n")
        files.write_atomically(tmp_path / "secret", "b\n", mode=0o600)
    finally:
        os.umask(before)
    assert (mode_of(tmp_path / "plain"), mode_of(tmp_path / "secret")) == (0o644, 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "secret"]


def test_a_replaced_file_keeps_its_mode_and_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[tuple[int, int]] = []
    path = tmp_path / "kept"
    path.write_text("old")
    path.chmod(0o640)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: owners.append((uid, gid)))
    files.write_atomically(path, "new")
    assert (path.read_text(), mode_of(path)) == ("new", 0o640)
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


def test_the_owner_asked_for_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: owners.append((uid, gid)))
    files.write_atomically(tmp_path / "a", "text", owner=(1000, 1001))
    assert owners == [(1000, 1001)]


def test_what_a_cut_off_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".a.new").write_text("half")
    files.write_atomically(tmp_path / "a", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_refused_replaces_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def refuse(candidate: Path) -> None:
        assert candidate.read_text() == "new"
        message = "refused"
        raise SystemExit(message)

    with pytest.raises(SystemExit, match="refused"):
        files.write_atomically(path, "new", validate=refuse)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_only_a_missing_file_has_no_text(tmp_path: Path) -> None:
    assert files.read_text(tmp_path / "none") is None
    with pytest.raises(IsADirectoryError):
        files.read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "holds a list, not an object"),
        ("null", "holds a NoneType, not an object"),
    ],
)
def test_what_is_no_json_object_is_named(tmp_path: Path, text: str | bytes, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(files.JsonError, match=problem):
        files.read_json_object(path)


def test_a_json_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert files.read_json_object(tmp_path / "a.json") == {"a": [1, "ü"]}


VALUES = {
    "PLAIN": "a",
    "EMPTY": "",
    "EQUALS": "a=b=c",
    "SPACES": " a b ",
    "HASH": "#a",
    "QUOTES": "\"a\" 'b'",
    "SEPARATORS": "a\u2028b\x0bc\x0cd\x1ee",
}


def test_what_was_written_as_an_env_file_is_read_again() -> None:
    text = files.render_env(VALUES, "Managed by nobody")
    assert text.startswith("# Managed by nobody\n")
    assert files.parse_env(text) == VALUES


def test_an_env_file_that_a_person_wrote_is_read() -> None:
    text = "\n  # A comment\r\nNAME=value\r\n\n  OTHER = x\nno equals sign\n#OFF=1\n"
    assert files.parse_env(text) == {"NAME": "value", "OTHER": " x"}


@pytest.mark.parametrize("name", VALUES)
def test_the_supervisor_reads_what_is_written_here(tmp_path: Path, name: str) -> None:
    """The supervisor has its own reader: it is one file on the host."""
    path = tmp_path / "secrets.env"
    path.write_text(files.render_env(VALUES, "comment"), encoding="utf-8")
    assert supervisor.read_variable(str(path), name) == VALUES[name]
