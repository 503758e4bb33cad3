# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes with a package, and what was unneeded before and stays."""

from __future__ import annotations

import typing as t

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer
from ansible_collections.sparerig.llm.plugins.modules import purged_packages
from stand_ins import FakeHost

if t.TYPE_CHECKING:
    from collections.abc import Callable

    RunModule = Callable[..., dict[str, t.Any]]


def stanza(name: str, state: str = "installed", architecture: str = "amd64") -> str:
    return f"Package: {name}\nStatus: hold ok {state}\nArchitecture: {architecture}\nVersion: 1\n"


STATUS = "\n".join(
    [
        stanza("cuda-nvcc-12-1"),
        stanza("cuda-cudart-12-1", "config-files"),
        stanza("cuda-nvcc-11-8"),
        stanza("cuda-gone-12-1", "not-installed"),
        stanza("libnvidia-gl", architecture="i386"),
    ]
)
SIMULATE = "apt-get --simulate --allow-change-held-packages -o Debug::NoLocking=1"
UNNEEDED = "Remv old-junk [1]\n"
WITH = "Purg cuda-nvcc-12-1 [1]\nPurg libonly-for-nvcc [2]\nRemv old-junk [1]\n"


@pytest.fixture
def purged(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Make the host; return the commands that change it."""
    host = FakeHost(
        files={"/var/lib/dpkg/status": STATUS},
        commands={f"{SIMULATE} autoremove": UNNEEDED, f"{SIMULATE} purge --autoremove": WITH},
    )
    ran: list[list[str]] = []

    def run(_unused: AnsibleModule, argv: list[str], **_more: t.Any) -> tuple[int, str, str]:
        ran.append(argv)
        return 100 if "libnvidia-gl:i386" in argv else 0, "", "E: dpkg is upset"

    monkeypatch.setattr(purged_packages, "LocalHost", lambda: host)
    monkeypatch.setattr(AnsibleModule, "run_command", run)
    return ran


GOES = ["cuda-cudart-12-1", "cuda-nvcc-12-1", "libonly-for-nvcc"]


@pytest.mark.parametrize("check", [False, True])
def test_it_goes_with_what_only_it_needed(
    run_module: RunModule, purged: list[list[str]], *, check: bool
) -> None:
    answer = run_module(purged_packages, packages=["*-12-1"], check=check)
    assert (answer["changed"], answer["removed"]) == (True, GOES)
    assert answer["diff"]["before"].split() == GOES
    assert [argv[-3:] for argv in purged] == ([] if check else [GOES])


def test_nothing_there_is_nothing_to_do(run_module: RunModule, purged: list[list[str]]) -> None:
    answer = run_module(purged_packages, packages=["cuda-gone-12-1", "cuda-nvcc"])
    assert (answer["changed"], answer["removed"], purged) == (False, [], [])


def test_apt_that_fails_is_quoted(run_module: RunModule, purged: list[list[str]]) -> None:
    answer = run_module(purged_packages, packages=["libnvidia-gl:i386"])
    assert answer["failed"]
    assert "did not remove" in answer["msg"]
    assert "E: dpkg is upset" in answer["msg"]
    assert len(purged) == 1


def test_apt_that_can_t_tell_stops_it(
    run_module: RunModule, purged: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(
        files={"/var/lib/dpkg/status": STATUS},
        commands={SIMULATE: Answer(100, "", "E: Unmet dependencies.")},
    )
    monkeypatch.setattr(purged_packages, "LocalHost", lambda: host)
    answer = run_module(purged_packages, packages=["*-12-1"])
    assert answer["failed"]
    assert "E: Unmet dependencies. Fix what apt names" in answer["msg"]
    assert purged == []
