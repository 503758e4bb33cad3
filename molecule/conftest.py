# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of every scenario share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import testinfra
from testbed.hosts import SSH_CONFIG

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

PROJECT = Path(__file__).parents[1]
# Seconds after which a test gives up: many times what it takes where nothing else runs.
PATIENCE = 600


class Rig:
    """The host under test, as its user and as its owner see it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name: str = host.backend.get_hostname()

    def root(self, command: str) -> str:
        """Run a command as root; it has to work."""
        return str(self.host.check_output("sudo " + command))

    def secret(self, unit: str, name: str) -> str:
        """Return one secret of a unit, as root reads it."""
        text = self.root(f"cat /etc/sparerig/{unit}.secrets.env")
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)[name]

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return str(self.host.check_output(f"systemctl show --property {name} --value {unit}"))

    def journal(self, unit: str) -> str:
        """Return all that a unit wrote."""
        return self.root(f"journalctl --unit {unit} --output cat --no-pager")

    @property
    def address(self) -> str:
        """The host's address on the network of the test bed."""
        routes = json.loads(self.host.check_output("ip -json route get 192.0.2.1"))
        return str(routes[0]["prefsrc"])

    def container(self, unit: str) -> str:
        """Return the id of the container that a unit runs; empty when there is none."""
        template = "{{.Id}}"
        return str(
            self.host.run(f"sudo docker inspect --format '{template}' {unit}").stdout
        ).strip()

    def restart(self) -> None:
        """Restart the host as a PC restarts; return when it has booted anew."""
        booted = self.root("stat --format %Y /proc/1")
        subprocess.run([sys.executable, "-m", "testbed", "host", "restart", self.name], check=True)
        assert self.root("stat --format %Y /proc/1") != booted

    def wait_until_active(self, unit: str, *, but_not: str = "", seconds: int = PATIENCE) -> None:
        """Wait for a unit to be ready, with another container; show its journal if it is not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            container = self.container(unit)
            if container not in {"", but_not} and self.show(unit, "ActiveState") == "active":
                return
            time.sleep(1)
        pytest.fail(f"{unit} was not active after {seconds} s:\n{self.journal(unit)[-4000:]}")


@pytest.fixture(scope="module")
def rig(host: Host) -> Rig:
    """Return the host under test, by the SSH settings of the test bed.

    testinfra reads Ansible's inventory, but not the variables in it that refer to others.
    """
    name = host.backend.get_hostname()
    return Rig(testinfra.get_host(f"ssh://{name}", ssh_config=str(SSH_CONFIG)))


@pytest.fixture(scope="session")
def play() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a playbook of the project on the hosts of the scenario, as a user would."""

    def run(*arguments: str, playbook: str = "site.yml") -> subprocess.CompletedProcess[str]:
        inventory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
        return subprocess.run(
            ["ansible-playbook", "-i", inventory, playbook, *arguments],
            cwd=PROJECT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )

    return run
