# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two services as systemd sees them: they come back from whatever happens to them."""

from __future__ import annotations

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
    assert "alembic.runtime.migration" in rig.journal(PAGE)


@pytest.mark.parametrize(
    "command",
    [
        f"docker kill {PAGE}",
        f"pkill -9 -f '[d]ocker start --attach {PAGE}'",
        f"pkill -9 -f '[s]upervisor.py /etc/sparerig/{PAGE}.json'",
    ],
    ids=["container killed", "docker client killed", "supervisor killed"],
)
def test_it_comes_back(rig: Rig, command: str) -> None:
    container = rig.container(PAGE)
    rig.root(command)
    rig.wait_until_active(PAGE, but_not=container)
    assert container not in rig.root("docker ps --all --quiet --no-trunc"), "a container is left"


def test_it_stops_in_order_and_leaves_no_container(rig: Rig) -> None:
    rig.root(f"timeout 60 systemctl stop {PAGE}")
    assert rig.show(PAGE, "Result") == "success"
    assert PAGE not in rig.root("docker ps --all --format '{{.Names}}'")
    rig.root(f"systemctl start {PAGE}")
    assert rig.host.service(PAGE).is_running, "`systemctl start` returned before the page answered"


def test_a_hung_engine_is_noticed_and_restarted(rig: Rig) -> None:
    container = rig.container(ENGINE)
    rig.root(f"docker pause {ENGINE}")
    rig.wait_until_active(ENGINE, but_not=container)
    assert "(engine-hung): It hangs: " in rig.journal(ENGINE)


def test_a_failed_start_says_why(rig: Rig) -> None:
    config = f"/etc/sparerig/{ENGINE}.json"
    rig.root(f"cp {config} /root/kept.json")
    try:
        rig.root(f'sed -i \'s/"--max-model-len"/"--max-model-lon"/\' {config}')
        assert rig.host.run(f"sudo systemctl restart {ENGINE}").rc != 0
        status = rig.host.run(f"systemctl status --no-pager {ENGINE}").stdout
        assert "(service-ended): the container ended with exit status 2" in status
        assert "--max-model-lon" in status
    finally:
        rig.root(f"mv /root/kept.json {config}")
        rig.root(f"systemctl restart {ENGINE}")


def test_everything_comes_back_after_the_host_restarts(rig: Rig) -> None:
    rig.restart()
    for unit in (ENGINE, PAGE):
        rig.wait_until_active(unit)
