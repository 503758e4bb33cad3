# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of the cards, taken away."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer
from ansible_collections.sparerig.llm.plugins.modules import nvidia_cdi
from stand_ins import FakeHost

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]

PATH_UNIT, SERVICE = nvidia_cdi.UNITS


# Which units start by themselves, and whether there is a specification.
HOSTS = [([PATH_UNIT, SERVICE], True), ([PATH_UNIT], False), ([], True), ([], False)]


@pytest.fixture(params=HOSTS)
def is_there(request: t.Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Make a host; say whether there is anything to take away."""
    enabled, written = request.param
    if written:
        (tmp_path / "nvidia.yaml").touch()
    disable = " ".join(["systemctl disable --now", *enabled])
    host = FakeHost({f"systemctl is-enabled {unit}": "enabled\n" for unit in enabled})
    host.commands |= {"systemctl is-enabled": Answer(1, "", "No such file"), disable: ""}
    monkeypatch.setattr(nvidia_cdi, "SysrootHost", lambda _unused: host)
    monkeypatch.setattr(nvidia_cdi, "SPECIFICATIONS", (str(tmp_path / "nvidia.yaml"),))
    return bool(enabled or written)


@pytest.mark.parametrize("check", [False, True])
def test_nothing_of_it_is_left(
    run_module: RunModule, tmp_path: Path, *, is_there: bool, check: bool
) -> None:
    before = (tmp_path / "nvidia.yaml").exists()
    answer = run_module(nvidia_cdi, state="absent", check=check)

    assert answer["changed"] == is_there
    assert (tmp_path / "nvidia.yaml").exists() == (check and before)


def test_systemd_that_refuses_is_quoted(
    run_module: RunModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost({"systemctl is-enabled": "enabled\n"})
    host.commands["systemctl disable"] = Answer(1, "", "Access denied")
    monkeypatch.setattr(nvidia_cdi, "SysrootHost", lambda _unused: host)
    assert "Access denied" in run_module(nvidia_cdi, state="absent")["msg"]
