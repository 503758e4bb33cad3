# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two services as systemd sees them: they come back from whatever happens to them."""

from __future__ import annotations

import subprocess
import sys
import typing as t

import pytest

if t.TYPE_CHECKING:
    from conftest import Rig

ENGINE, PAGE = "sparerig-vllm", "sparerig-open-webui"


@pytest.mark.parametrize("unit", [ENGINE, PAGE])
def test_it_runs_now_and_at_boot(rig: Rig, unit: str) -> None:
    service = rig.host.service(unit)
    assert service.is_running, rig.journal(unit)[-4000:]
    assert service.is_enabled


def test_it_is_ordered_after_docker_the_network_and_the_engine(rig: Rig) -> None:
    for unit in (ENGINE, PAGE):
        after = rig.show(unit, "After").split()
        assert "docker.service" in after
        assert "network-online.target" in after
    assert f"{ENGINE}.service" in rig.show(PAGE, "After").split()


def test_the_journal_holds_what_the_container_wrote(rig: Rig) -> None:
    assert "vLLM" in rig.journal(ENGINE)
    assert "Uvicorn running" in rig.journal(PAGE)


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("the container is killed", f"docker kill {PAGE}"),
        ("the docker client is killed", f"pkill -9 -f 'docker start --attach {PAGE}'"),
        ("the supervisor is killed", f"pkill -9 -f 'supervisor.py /etc/sparerig/{PAGE}.json'"),
    ],
)
def test_it_comes_back(rig: Rig, what: str, command: str) -> None:
    before = rig.show(PAGE, "NRestarts")
    container = rig.root(f"docker inspect --format '{{{{.Id}}}}' {PAGE}")
    rig.root(command)
    rig.host.run(
        f"timeout 60 sh -c 'until [ $(systemctl show -p NRestarts --value {PAGE}) != {before} ]; do sleep 1; done'"
    )
    rig.wait_until_active(PAGE)
    assert rig.show(PAGE, "NRestarts") != before, what
    assert container not in rig.root("docker ps --all --quiet --no-trunc"), (
        "the old container is gone"
    )


def test_it_stops_in_order_and_leaves_no_container(rig: Rig) -> None:
    rig.root(f"timeout 30 systemctl stop {PAGE}")
    assert rig.show(PAGE, "Result") == "success"
    assert PAGE not in rig.root("docker ps --all --format '{{.Names}}'")
    rig.root(f"systemctl start {PAGE}")
    assert rig.host.service(PAGE).is_running, "`systemctl start` returned before the page answered"


def test_a_hung_engine_is_noticed_and_restarted(rig: Rig) -> None:
    container = rig.root(f"docker inspect --format '{{{{.Id}}}}' {ENGINE}")
    rig.root(f"docker pause {ENGINE}")
    rig.host.run(
        f"timeout 120 sh -c 'while sudo docker inspect {container} >/dev/null 2>&1; do sleep 1; done'"
    )
    rig.wait_until_active(ENGINE)
    assert "it hangs: " in rig.journal(ENGINE)
    assert rig.root(f"docker inspect --format '{{{{.Id}}}}' {ENGINE}") != container


def test_a_failed_start_says_why(rig: Rig) -> None:
    config = f"/etc/sparerig/{ENGINE}.json"
    rig.root(f"cp {config} /root/kept.json")
    try:
        rig.root(f'sed -i \'s/"--max-model-len"/"--max-model-lon"/\' {config}')
        assert rig.host.run(f"sudo systemctl restart {ENGINE}").rc != 0
        status = rig.host.run(f"systemctl status --no-pager {ENGINE}").stdout
        assert "the container ended with exit status 2" in status
        assert "--max-model-lon" in status
    finally:
        rig.root(f"mv /root/kept.json {config}")
        rig.root(f"systemctl restart {ENGINE}")


def test_everything_comes_back_after_the_host_restarts(rig: Rig) -> None:
    booted = rig.root("stat --format %Y /proc/1")
    subprocess.run([sys.executable, "-m", "testbed", "host", "restart", rig.name], check=True)
    assert rig.root("stat --format %Y /proc/1") != booted
    for unit in (ENGINE, PAGE):
        rig.wait_until_active(unit)
