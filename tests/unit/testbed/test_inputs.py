# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashes of inputs: every difference that matters, and none that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from testbed.inputs import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tree: (tree / "two").write_text("3"), id="content"),
        pytest.param(lambda tree: (tree / "two").rename(tree / "three"), id="name"),
        pytest.param(lambda tree: (tree / "two").chmod(0o755), id="executable"),
        pytest.param(lambda tree: (tree / "a" / "new").write_text(""), id="new file"),
        pytest.param(lambda tree: (tree / "a" / "one").rename(tree / "one"), id="place"),
    ],
)
def test_notices(tree: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(tree)
    change(tree)
    assert fingerprint(tree) != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tree: (tree / "two").chmod(0o600), id="who may read"),
        pytest.param(lambda tree: (tree / "two").touch(), id="time"),
        pytest.param(lambda tree: (tree / "__pycache__").mkdir(), id="empty folder"),
    ],
)
def test_ignores(tree: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(tree)
    change(tree)
    assert fingerprint(tree) == before


def test_boundaries_between_parts_count() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
