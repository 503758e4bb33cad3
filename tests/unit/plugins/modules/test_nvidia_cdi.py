# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of the cards: written where it has to be, looked at, taken away."""

from __future__ import annotations

import json
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
    monkeypatch.setattr(nvidia_cdi, "kernel_host", lambda: host)
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
    monkeypatch.setattr(nvidia_cdi, "kernel_host", lambda: host)
    assert "Access denied" in run_module(nvidia_cdi, state="absent")["msg"]


# Present

DRIVER = "580.178.04"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so"
SPECIFICATION = "/var/run/cdi/nvidia.yaml"
IMAGE = "registry.example/engine:1"


class Toolkit(FakeHost):
    """A host with the toolkit, whose unit writes a specification of the installed driver."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.written = f"- hostPath: {file}\n  containerPath: libcuda.so.{DRIVER}\n"
        self.links = {f"{LIBRARY}.1": f"{LIBRARY}.{DRIVER}"}
        self.commands = {
            "systemctl is-enabled": "enabled\n",
            "systemctl restart": "",
            "systemctl enable": "",
            "nvidia-ctk cdi list": "nvidia.com/gpu=0\nnvidia.com/gpu=all\n",
            "docker info": json.dumps({"CDISpecDirs": ["/etc/cdi"]}),
            "docker run": "GPU 0: NVIDIA GeForce RTX 3060\n",
        }

    def run(self, argv: t.Any, *, timeout: float) -> Answer | None:
        """Note what is changed; a restarted unit writes."""
        line = " ".join(argv)
        self.asked += [] if "is-enabled" in line else [line]
        if line.startswith("systemctl restart"):
            self.files[SPECIFICATION] = self.written
        return super().run(argv, timeout=timeout)

    def changes(self) -> list[str]:
        """Return what was changed, and forget it."""
        done = [line for line in self.asked if line.startswith("systemctl")]
        self.asked.clear()
        return done


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Toolkit:
    host = Toolkit(tmp_path)
    monkeypatch.setattr(nvidia_cdi, "kernel_host", lambda: host)
    return host


def test_a_specification_is_written_once(run_module: RunModule, toolkit: Toolkit) -> None:
    foretold = run_module(nvidia_cdi, check=True)
    assert foretold["changed"]
    assert toolkit.changes() == []

    first = run_module(nvidia_cdi, test_image=IMAGE)
    assert first["written_because"] == "there is no CDI specification"
    assert {check["status"] for check in first["checks"]} == {"pass"}
    assert [check["name"] for check in first["checks"]][-1] == "container"
    assert any(line.startswith("docker run") and IMAGE in line for line in toolkit.asked)
    assert toolkit.changes() == [f"systemctl restart {SERVICE}"]

    second = run_module(nvidia_cdi)
    assert (second["changed"], second["written_because"]) == (False, "")
    assert not any(line.startswith("docker run") for line in toolkit.asked)
    assert toolkit.changes() == []


def test_one_of_another_driver_is_written_anew(run_module: RunModule, toolkit: Toolkit) -> None:
    toolkit.files[SPECIFICATION] = toolkit.written.replace("580.", "570.")
    assert "is for driver 570.178.04" in run_module(nvidia_cdi)["written_because"]
    assert not run_module(nvidia_cdi)["changed"]


def test_units_that_are_off_are_switched_on(run_module: RunModule, toolkit: Toolkit) -> None:
    toolkit.files[SPECIFICATION] = toolkit.written
    toolkit.commands["systemctl is-enabled"] = Answer(1, "disabled\n", "")
    assert run_module(nvidia_cdi)["changed"]
    assert toolkit.changes() == [f"systemctl enable --now {PATH_UNIT} {SERVICE}"]


def test_a_docker_without_cdi_is_told_and_no_failure(
    run_module: RunModule, toolkit: Toolkit
) -> None:
    toolkit.commands["docker info"] = "{}"
    answer = run_module(nvidia_cdi, test_image=IMAGE)
    assert not answer.get("failed")
    assert answer["docker_reads_cdi"] is False
    assert "container" not in [check["name"] for check in answer["checks"]]


@pytest.mark.parametrize(
    ("command", "answer", "name"),
    [
        ("nvidia-ctk cdi list", "", "devices"),
        ("docker run", Answer(125, "", "could not select device driver"), "container"),
    ],
)
def test_what_did_not_come_of_it_fails(
    run_module: RunModule, toolkit: Toolkit, command: str, answer: Answer | str, name: str
) -> None:
    toolkit.commands[command] = answer
    told = run_module(nvidia_cdi, test_image=IMAGE)
    assert told["failed"]
    assert [check["name"] for check in told["checks"] if check["status"] == "fail"] == [name]
