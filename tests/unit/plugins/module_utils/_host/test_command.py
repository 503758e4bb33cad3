# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real commands and files of this machine."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import (
    CommandTimedOutError,
    LocalHost,
    SysrootHost,
    kernel_host,
)

if t.TYPE_CHECKING:
    from pathlib import Path

HOST = LocalHost()


def test_command() -> None:
    answer = HOST.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=20)

    assert answer is not None
    assert (answer.rc, answer.stdout, answer.stderr, answer.ok) == (3, "out\n", "err\n", False)


def test_no_such_command() -> None:
    assert HOST.run(["no-such-command-at-all"], timeout=20) is None


def test_found_and_understood_without_the_caller_s_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.delenv("PATH")

    answer = HOST.run(["sh", "-c", "echo $LC_ALL"], timeout=20)

    assert answer is not None
    assert answer.stdout == "C\n"


def test_hanging_command() -> None:
    with pytest.raises(CommandTimedOutError, match="'sleep 60' gave no answer"):
        HOST.run(["sleep", "60"], timeout=0.1)


def test_files(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"\xff text")
    link.symlink_to(file)

    assert HOST.read_bytes(str(file)) == b"\xff text"
    assert HOST.read(str(file)) == "\N{REPLACEMENT CHARACTER} text"
    assert HOST.names(str(tmp_path)) == ["file", "link"]
    assert HOST.resolve(str(link)) == str(file)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")

    assert HOST.read(missing) is None
    assert HOST.read_bytes(missing) is None
    assert HOST.names(missing) == []


def test_only_proc_and_sys_come_from_the_sysroot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "modules").write_text("nouveau 1 0\n")
    own = tmp_path / "own"
    own.write_text("own")
    monkeypatch.setenv("SPARERIG_TEST_SYSROOT", str(tmp_path))
    host = kernel_host()
    assert host.read("/proc/modules") == "nouveau 1 0\n"
    assert host.names("/proc/") == ["modules"]
    assert host.read(str(own)) == "own"
    assert host.resolve("/sys/x") == f"{tmp_path}/sys/x"


def test_without_a_stand_in_the_host_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARERIG_TEST_SYSROOT", raising=False)
    host = kernel_host()
    assert isinstance(host, LocalHost)
    assert not isinstance(host, SysrootHost)
