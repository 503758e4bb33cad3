# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On each supported system: Docker as it is wanted, and a container that is a service."""

from __future__ import annotations

import json
import typing as t

if t.TYPE_CHECKING:
    from conftest import Rig

UNIT = "small"


def test_docker_runs_now_and_at_boot_with_our_keys(rig: Rig) -> None:
    assert rig.host.service("docker").is_running
    assert rig.host.service("docker").is_enabled
    assert json.loads(rig.root("cat /etc/docker/daemon.json"))["log-driver"] == "local"
    assert rig.root("docker info --format '{{.LoggingDriver}}'") == "local"


def test_the_service_answers_and_is_there_at_boot(rig: Rig) -> None:
    assert rig.host.service(UNIT).is_running, rig.journal(UNIT)[-4000:]
    assert rig.host.service(UNIT).is_enabled
    assert rig.host.check_output("curl --silent http://127.0.0.1:8000/health") == "well"


def test_it_has_its_settings_and_a_secret_that_only_root_reads(rig: Rig) -> None:
    environment = rig.root(f"docker exec {UNIT} busybox env")
    assert "GREETING=hello" in environment
    assert f"KEY={rig.secret(UNIT, 'KEY')}" in environment
    assert rig.host.run(f"cat /etc/sparerig/{UNIT}.secrets.env").rc != 0


def test_it_comes_back_when_its_container_is_killed(rig: Rig) -> None:
    container = rig.container(UNIT)
    rig.root(f"docker kill {UNIT}")
    rig.wait_until_active(UNIT, but_not=container)
    assert rig.host.check_output("curl --silent http://127.0.0.1:8000/health") == "well"


def test_it_comes_back_after_a_boot(rig: Rig) -> None:
    rig.restart()
    rig.wait_until_active(UNIT)
    assert rig.host.check_output("curl --silent http://127.0.0.1:8000/health") == "well"
