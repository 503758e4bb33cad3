# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files in one step."""

from __future__ import annotations

import typing as t

from ansible_collections.sparerig.llm.plugins.modules import host_files

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]


def test_files_are_written_once(run_module: RunModule, tmp_path: Path) -> None:
    files = [
        {"path": str(tmp_path / "new" / "a"), "content": "one\n"},
        {"path": str(tmp_path / "b"), "content": "two\n", "mode": "0750"},
    ]
    predicted = run_module(host_files, check=True, diff=True, files=files)
    assert predicted["changed_paths"] == [files[0]["path"], files[1]["path"]]
    assert not list(tmp_path.iterdir())
    done = run_module(host_files, diff=True, files=files)
    assert done["diff"] == predicted["diff"]
    assert (tmp_path / "new" / "a").read_text() == "one\n"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "new"]
    assert run_module(host_files, files=files)["changed"] is False


def test_only_what_differs_is_changed(run_module: RunModule, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("old\n")
        (tmp_path / name).chmod(0o644)
    done = run_module(
        host_files,
        files=[
            {"path": str(tmp_path / "a"), "content": "old\n"},
            {"path": str(tmp_path / "b"), "content": "old\n", "mode": "0600"},
            {"path": str(tmp_path / "c"), "state": "absent"},
            {"path": str(tmp_path / "d"), "state": "absent"},
        ],
    )
    assert done["changed_paths"] == [str(tmp_path / "b"), str(tmp_path / "c")]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "c").exists()


def test_a_mode_that_is_no_number_changes_nothing(run_module: RunModule, tmp_path: Path) -> None:
    answer = run_module(host_files, files=[{"path": str(tmp_path / "a"), "mode": "u=rw"}])
    assert answer["failed"]
    assert "'u=rw'" in answer["msg"]
    assert not (tmp_path / "a").exists()
