# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker engine that answers."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import docker
from docker import DockerClient
from docker.errors import DockerException

from testbed.machine import need, only_one
from testbed.progress import TestbedError, say, step
from testbed.settings import CACHE

START_SECONDS = 60
LOG = CACHE / "dockerd.log"
INSTALLED_MARK = CACHE / "engine-installed-by-testbed"


def connect() -> DockerClient | None:
    """Connect to the engine, if one answers."""
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except DockerException:
        return None
    return client


def ensure() -> DockerClient:
    """Connect to the engine; install and start one where none answers."""
    if client := connect():
        return client
    if named := os.environ.get("DOCKER_HOST"):
        raise TestbedError(
            f"No Docker engine answers at DOCKER_HOST={named}. Start it, or unset DOCKER_HOST."
        )
    if os.geteuid() != 0:
        raise TestbedError(
            "No Docker engine answers. If one runs on this machine, this user may not be allowed "
            "to use it (sudo usermod -aG docker $USER, then sign in anew). If none does, run this "
            "as root: it then installs and starts one."
        )
    with only_one("engine"):
        return connect() or install_and_start()


def install_and_start() -> DockerClient:
    """Install the distribution's engine where there is none, start it, wait for its answer."""
    if not Path("/usr/sbin/dockerd").exists() and not Path("/usr/bin/dockerd").exists():
        INSTALLED_MARK.touch()
    need("dockerd", "docker.io", "run the test hosts")
    with step("Starting the Docker engine"):
        start()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if client := connect():
                return client
            time.sleep(0.5)
    raise TestbedError(
        f"The Docker engine was started but did not answer within {START_SECONDS} s. "
        f"Its log says why: {LOG} or, where systemd runs it, journalctl -u docker."
    )


def start() -> None:
    """Start the engine: by systemd where that runs the machine, else in a session of its own."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=False)
        return
    say(f"systemd does not run this machine: dockerd runs by itself, its log is {LOG}")
    with LOG.open("ab") as log:
        subprocess.Popen(
            ["dockerd"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
