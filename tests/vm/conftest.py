# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One virtual PC for all tests of this folder, and the two ways to speak to it."""

from __future__ import annotations

import json
import os
import subprocess
import typing as t
from pathlib import Path

import pytest
from testbed import hosts
from testbed.settings import USER

from vm.machine import Machine

PROJECT = Path(__file__).parents[2]


class Pc:
    """The virtual PC as its user sees it."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.inventory = folder / "hosts.json"
        self._answers = folder / "answers"
        variables = {
            "ansible_host": "127.0.0.1",
            "ansible_port": machine.port,
            "ansible_user": USER,
            "ansible_become": True,
            "ansible_ssh_private_key_file": str(hosts.key()),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            " -o LogLevel=ERROR",
            # It shows our modules the stand-in card; prepare.yml makes it.
            "ansible_python_interpreter": "/opt/stand-in/python3",
        }
        self.inventory.write_text(json.dumps({"all": {"hosts": {"vm": variables}}}))

    def play(self, playbook: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook of this folder."""
        return self._ansible("ansible-playbook", str(Path(__file__).with_name(playbook)), *options)

    def module(self, name: str, arguments: str = "") -> dict[str, t.Any]:
        """Run one module; return its answer, failed or not."""
        self._ansible("ansible", "all", "-m", name, "-a", arguments, "--tree", str(self._answers))
        found: dict[str, t.Any] = json.loads((self._answers / "vm").read_text())
        return found

    def run(self, command: str) -> str:
        """Run a command as root; it has to work."""
        answer = self.module("ansible.builtin.shell", command)
        assert answer["rc"] == 0, answer
        return str(answer["stdout"]).strip()

    def _ansible(self, *command: str) -> subprocess.CompletedProcess[str]:
        program, *rest = command
        return subprocess.run(
            [program, "-i", str(self.inventory), *rest],
            cwd=PROJECT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_TIMEOUT": "120",  # an emulated PC takes its time
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="session")
def pc(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Pc]:
    """Boot the virtual PC, with a stand-in card on a stand-in bus; all else of it is real."""
    folder = tmp_path_factory.mktemp("vm")
    machine = Machine(folder)
    try:
        machine.start()
        found = Pc(machine, folder)
        prepared = found.play("prepare.yml")
        assert prepared.returncode == 0, prepared.stdout
        yield found
    finally:
        machine.cut_power()
