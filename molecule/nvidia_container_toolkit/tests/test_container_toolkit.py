# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers get the card through CDI, and keep it."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._driver.complaints import explain

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

CONVERGE = "molecule/nvidia_container_toolkit/converge.yml"
SPECIFICATION = "/var/run/cdi/nvidia.yaml"
IN_CONTAINER = "docker exec card nvidia-smi -L"


def test_all_four_packages_have_the_pinned_version(rig: Rig) -> None:
    for name in (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
        "libnvidia-container1",
    ):
        assert rig.host.package(name).version == "1.20.1-1"
        assert "Candidate: 1.20.1-1" in rig.host.check_output(f"apt-cache policy {name}")


def test_nothing_else_comes_from_that_repository(rig: Rig) -> None:
    policy = rig.host.check_output("apt-cache policy curl")
    assert "99:1" in policy, "the bait is on offer"
    assert "Candidate: 99:1" not in policy


def test_dockers_default_runtime_is_what_it_was(rig: Rig) -> None:
    assert json.loads(rig.root("docker info --format '{{json .}}'"))["DefaultRuntime"] == "runc"
    assert not rig.host.file("/etc/docker/daemon.json").exists


@pytest.fixture
def container(rig: Rig) -> Iterator[None]:
    """Run a container that has the card."""
    rig.host.run("sudo docker rm --force card")
    rig.root(
        "docker run --detach --name card --network none --device nvidia.com/gpu=all"
        " stand-in/busybox:1 busybox sleep 600"
    )
    yield
    rig.root("docker rm --force card")


@pytest.mark.usefixtures("container")
def test_a_daemon_reload_does_not_take_the_card_away(rig: Rig) -> None:
    assert "GPU 0: NVIDIA GeForce RTX 3060" in rig.root(IN_CONTAINER)
    rig.root("systemctl daemon-reload")
    assert "GPU 0: NVIDIA GeForce RTX 3060" in rig.root(IN_CONTAINER)


# The card is slipped into a container that runs, as the hook of '--gpus' does it.
LOST = """
pid=$(docker inspect --format {{.State.Pid}} old)
group=$(sed -n s/.*:devices://p /proc/$pid/cgroup)
docker exec old busybox mknod /dev/nvidia0 c 10 229
echo c 10:229 rw > /sys/fs/cgroup/devices$group/devices.allow
docker exec old nvidia-smi -L
systemctl daemon-reload
docker exec old nvidia-smi -L || true
"""


def test_a_daemon_reload_takes_a_card_away_that_docker_does_not_know_of(rig: Rig) -> None:
    """What happens to those who do it otherwise: the same host, the same call, no CDI."""
    if not rig.host.file("/sys/fs/cgroup/devices").exists:
        pytest.skip("with cgroup v2 a hook loads a program into the kernel: no stand-in for that")
    rig.host.run("sudo docker rm --force old")
    rig.root(
        "docker run --detach --name old --network none"
        " --volume /usr/share/stand-in-nvidia/nvidia-smi:/usr/bin/nvidia-smi:ro"
        " stand-in/busybox:1 busybox sleep 600"
    )
    there, lost = rig.host.run(f"sudo sh -c '{LOST}'").stdout.splitlines()
    rig.root("docker rm --force old")
    assert there.startswith("GPU 0: NVIDIA GeForce RTX 3060")
    failure = explain(lost)
    assert failure, lost
    assert failure == "gpu-lost-after-daemon-reload"


def test_the_specification_comes_back_with_a_boot(rig: Rig) -> None:
    for unit in ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"):
        assert rig.host.service(unit).is_enabled


def test_a_specification_of_another_driver_is_written_anew(rig: Rig, play: Play) -> None:
    rig.root(f"sed -i s/ml.so.[0-9.]*/ml.so.535.54.03/ {SPECIFICATION}")
    done = play(playbook=CONVERGE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "535.54.03" not in rig.root(f"cat {SPECIFICATION}")


def test_a_specification_that_is_gone_is_written_anew(rig: Rig, play: Play) -> None:
    rig.root(f"rm {SPECIFICATION}")
    assert play(playbook=CONVERGE).returncode == 0
    assert rig.host.file(SPECIFICATION).exists


def test_a_toolkit_that_writes_nothing_is_named(rig: Rig, play: Play) -> None:
    rig.root(f"mv {SPECIFICATION} /root/")
    rig.root("cp /usr/bin/nvidia-ctk /root/")
    rig.root("cp /bin/true /usr/bin/nvidia-ctk")
    try:
        done = play(playbook=CONVERGE)
    finally:
        rig.root("cp /root/nvidia-ctk /usr/bin/nvidia-ctk")
        rig.root(f"mv /root/nvidia.yaml {SPECIFICATION}")
    assert done.returncode != 0
    assert "container-toolkit-missing" in done.stdout


def test_without_a_specification_docker_s_complaint_is_explained(rig: Rig) -> None:
    """The check of a container is the module's last; docker's own words lead to the cause."""
    rig.root(f"mv {SPECIFICATION} /root/")
    try:
        said = rig.host.run(
            "sudo docker run --rm --device nvidia.com/gpu=all stand-in/busybox:1 true"
        ).stderr
    finally:
        rig.root(f"mv /root/nvidia.yaml {SPECIFICATION}")
    assert "unresolvable CDI devices nvidia.com/gpu=all" in said


def test_it_goes_without_a_trace(rig: Rig, play: Play) -> None:
    done = play("-e", "nvidia_container_toolkit_state=absent", playbook=CONVERGE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert not rig.host.package("nvidia-container-toolkit").is_installed
    assert rig.root("find /etc/apt -name '*sparerig-nvidia-container*'") == ""
    assert not rig.host.file(SPECIFICATION).exists
    assert play(playbook=CONVERGE).returncode == 0
