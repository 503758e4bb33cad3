# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CUDA 12.1 is there for people who compile; apt never takes a driver from NVIDIA's repository."""

from __future__ import annotations

import typing as t

import pytest

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

CONVERGE = "molecule/cuda_toolkit/converge.yml"


def test_nvcc_says_12_1_in_a_login_shell(rig: Rig) -> None:
    assert "release 12.1," in rig.host.check_output("bash --login -c 'nvcc --version'")
    assert rig.host.check_output("bash --login -c 'echo $CUDA_HOME'") == "/usr/local/cuda-12.1"


def test_the_linker_knows_the_libraries_folder(rig: Rig) -> None:
    assert rig.host.file("/etc/ld.so.conf.d/sparerig-cuda.conf").content_string.strip() == (
        "/usr/local/cuda-12.1/lib64"
    )


def test_the_newest_build_of_12_1_is_installed(rig: Rig) -> None:
    assert rig.host.package("cuda-toolkit-12-1").version == "12.1.1-1"


@pytest.mark.parametrize(
    "name", ["cuda-drivers", "libnvidia-compute-580-server", "nvidia-utils-580-server", "curl"]
)
def test_apt_takes_no_bait(rig: Rig, name: str) -> None:
    """The stand-in repository offers each of them with a version that beats Ubuntu's."""
    policy = rig.host.check_output(f"apt-cache policy {name}")
    assert "cuda.stand-in.invalid" in policy, "the bait is on offer"
    candidate = policy.split("Candidate: ")[1].splitlines()[0]
    assert not candidate.startswith("99")


def test_no_driver_came_along(rig: Rig) -> None:
    installed = rig.host.check_output("dpkg-query --show --showformat '${Package}\\n'").split()
    assert not [name for name in installed if "nvidia" in name or "drivers" in name]


def test_a_key_with_another_fingerprint_is_refused(rig: Rig, play: Play) -> None:
    before = rig.root("cat /etc/apt/keyrings/sparerig-cuda.gpg | sha256sum")
    other = "0" * 40
    done = play("-e", f"cuda_toolkit_key_fingerprint={other}", playbook=CONVERGE)
    assert done.returncode != 0
    assert f"expected was {other}. Nothing was changed." in " ".join(done.stdout.split())
    assert rig.root("cat /etc/apt/keyrings/sparerig-cuda.gpg | sha256sum") == before


def test_an_old_file_for_the_same_repository_is_found_and_explained(rig: Rig, play: Play) -> None:
    old = "/etc/apt/sources.list.d/cuda-ubuntu2204-x86_64.list"
    line = "deb [signed-by=/usr/share/keyrings/cuda.gpg] http://cuda.stand-in.invalid:8099/cuda /"
    rig.root(f"sh -c 'echo \"{line}\" > {old}'")
    try:
        done = play(playbook=CONVERGE)
        assert done.returncode != 0
        assert "conflicting-signed-by" in done.stdout
        assert f"sudo rm {old}" in done.stdout
    finally:
        rig.root(f"rm {old}")


def test_it_goes_without_a_trace(rig: Rig, play: Play) -> None:
    done = play("-e", "cuda_toolkit_state=absent", playbook=CONVERGE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert not rig.host.file("/usr/local/cuda-12.1").exists
    traces = "find /etc -name '*sparerig-cuda*'"
    assert rig.root(traces) == ""
    assert play(playbook=CONVERGE).returncode == 0
