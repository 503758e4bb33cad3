# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every module: it has unit tests, and the documentation knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
FAMILY = "open_webui_"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_run_by_unit_tests(name: str) -> None:
    """In a file of its own name; the family of Open WebUI may share one."""
    folder = ROOT / "tests" / "unit" / "plugins" / "modules"
    names = [name, "open_webui"] if name.startswith(FAMILY) else [name]
    texts = [path.read_text() for stem in names if (path := folder / f"test_{stem}.py").exists()]
    assert any(f"{name}," in text or f"{name})" in text for text in texts), "no test runs it"


@pytest.mark.parametrize("name", MODULES)
def test_the_architecture_knows_every_module(name: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    shown = f"`_{name.removeprefix(FAMILY)}`" if name.startswith(FAMILY) else f"`{name}`"
    assert shown in page or f"`{name}`" in page
