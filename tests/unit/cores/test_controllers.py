# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Python an ansible-core is run with, and with which packages."""

from __future__ import annotations

import typing as t

import pytest
from cores.controllers import PACKAGES, interpreter, pinned

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Callable[[str, int], str]:
    """Put a Python that ends with a status where one is looked for; return its path."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))

    def make(place: str, status: int) -> str:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\nexit {status}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_the_preferred_python_is_taken(program: t.Callable[[str, int], str]) -> None:
    program("bin/python9.1", 0)
    preferred = program("bin/python9.2", 0)
    assert interpreter(["9.2", "9.1"]) == preferred


def test_a_shim_that_does_not_run_gives_way_to_what_is_behind_it(
    program: t.Callable[[str, int], str],
) -> None:
    program("bin/python9.1", 127)
    behind = program("pyenv/versions/9.1.4/bin/python9.1", 0)
    assert interpreter(["9.1"]) == behind


def test_no_python_is_no_error(program: t.Callable[[str, int], str]) -> None:
    program("bin/python9.1", 127)
    assert interpreter(["9.1", "9.2"]) is None


def test_packages_have_the_versions_of_the_lock_file() -> None:
    lines = pinned(PACKAGES)
    assert [line.partition("==")[0].lower() for line in lines] == [
        name.lower() for name in PACKAGES
    ]
    assert all(line.partition("==")[2] for line in lines)
