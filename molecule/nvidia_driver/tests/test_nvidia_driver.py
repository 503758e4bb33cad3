# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The genuine driver packages: installed, held, exchanged, interrupted, removed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
import typing as t

import pytest

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

CONVERGE = "molecule/nvidia_driver/converge.yml"
LOADED = "/opt/stand-in/proc/driver/nvidia/version"
CARD = "/opt/stand-in/sys/bus/pci/devices/0000:01:00.0/device"


def driver_packages(rig: Rig) -> dict[str, str]:
    listing = rig.host.check_output(
        "dpkg-query --show --showformat '${Package} ${db:Status-Abbrev}\\n'"
    )
    rows = (line.split() for line in listing.splitlines() if "nvidia" in line)
    return {row[0]: row[1] for row in rows if not row[0].startswith("linux-signatures")}


def test_driver_and_modules_have_one_version(rig: Rig) -> None:
    version = rig.host.package("nvidia-headless-no-dkms-580-server-open").version
    assert version.startswith("580.")
    kernel = rig.root("cat /opt/stand-in/proc/sys/kernel/osrelease")
    module = rig.host.check_output(f"/usr/sbin/modinfo -k {kernel} -F version nvidia")
    assert version.startswith(f"{module}-")


def test_canonical_signed_the_module(rig: Rig) -> None:
    kernel = rig.root("cat /opt/stand-in/proc/sys/kernel/osrelease")
    signer = rig.host.check_output(f"/usr/sbin/modinfo -k {kernel} -F signer nvidia")
    assert signer == "Canonical Ltd. Kernel Module Signing"


def test_every_package_of_the_driver_is_held(rig: Rig) -> None:
    held = set(rig.host.check_output("apt-mark showhold").split())
    assert {name for name, state in driver_packages(rig).items() if state != "rc"} == held


def test_unattended_upgrades_leave_driver_and_kernel_alone(rig: Rig) -> None:
    shown = rig.host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    for pattern in ("^nvidia-", "^libnvidia-", "^linux-(image|headers|modules|modules-extra)-"):
        assert f'"{pattern}"' in shown


def test_the_driver_stays_awake_and_so_does_the_pc(rig: Rig) -> None:
    unit = rig.host.check_output("systemctl cat nvidia-persistenced.service")
    assert unit.rstrip().endswith("--persistence-mode --verbose")
    assert "AllowSuspend=no" in rig.host.check_output("cat /etc/systemd/sleep.conf.d/*")


BAD_INPUT = [
    ("nvidia_driver_branch=999", "has no package nvidia-headless-no-dkms-999-server-open"),
    ("nvidia_driver_branch=535 nvidia_driver_for_image=''", "The archive ended branch 535"),
    ("nvidia_driver_branch=570 nvidia_driver_for_image=x/y:v0.33.0", "needs CUDA 13.0"),
    ("nvidia_driver_modules=closed", "value of nvidia_driver_modules must be one of"),
    ("nvidia_driver_min_ram_gib=900", "900 GiB of main memory are needed"),
]


@pytest.mark.parametrize(("options", "message"), BAD_INPUT)
def test_bad_input_changes_nothing_and_is_explained(
    rig: Rig, play: Play, options: str, message: str
) -> None:
    before = driver_packages(rig)
    done = play("-e", options, playbook=CONVERGE)
    assert done.returncode != 0
    assert message in " ".join(done.stdout.split())
    assert driver_packages(rig) == before


@pytest.fixture
def other_card(rig: Rig) -> Iterator[Callable[[str], None]]:
    """Put another card into the slot."""

    def put(device: str) -> None:
        rig.root(f"sh -c 'echo {device} > {CARD}'")

    yield put
    put("0x2503")


def test_a_card_that_is_too_old(other_card: Callable[[str], None], play: Play) -> None:
    other_card("0x1b80")
    done = play(playbook=CONVERGE)
    assert done.returncode != 0
    assert "docs/failures/card-too-old.md" in done.stdout


def test_an_upgrade_behind_our_back_needs_a_reboot_even_while_all_seems_well(
    rig: Rig, play: Play
) -> None:
    """Libraries and loaded module differ; the play must not go on as if nothing were."""
    rig.root(f"sed -i 's/  580[0-9.]*  /  580.65.06  /' {LOADED}")
    done = play("-e", "nvidia_driver_reboot=never", playbook=CONVERGE)
    rig.root("modprobe nvidia")
    assert done.returncode != 0
    assert "driver 580.65.06 is loaded while the libraries are" in " ".join(done.stdout.split())


@pytest.mark.parametrize("number", range(int(os.environ.get("POWER_CUTS", "2"))))
def test_after_a_power_cut_the_next_run_completes_the_exchange(
    rig: Rig, play: Play, number: int
) -> None:
    """The power fails at a random point while one kind of kernel modules replaces the other."""
    modules = ("proprietary", "open")[number % 2]
    options = ("-e", f"nvidia_driver_modules={modules} nvidia_driver_reboot=never")
    run = threading.Thread(target=play, args=options, kwargs={"playbook": CONVERGE})
    run.start()
    time.sleep(random.uniform(5, 40))  # noqa: S311 - any point will do
    subprocess.run(["docker", "kill", f"sparerig-host-{rig.name}"], check=True)
    run.join()
    subprocess.run([sys.executable, "-m", "testbed", "host", "up", rig.name], check=True)
    done = play(*options, playbook=CONVERGE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert rig.root("dpkg --audit") == ""
    kinds = {"open" if "-open" in name else "proprietary" for name in driver_packages(rig)
             if name.startswith(("linux-modules-nvidia", "nvidia-headless"))}  # fmt: skip
    assert kinds == {modules}


def test_another_branch_leaves_nothing_of_the_old_one(rig: Rig, play: Play) -> None:
    options = ("-e", "nvidia_driver_branch=595 nvidia_driver_reboot=never")
    done = play(*options, playbook=CONVERGE)
    # The stand-in machine has the old one loaded: a real one reboots here.
    assert "needs a reboot" in done.stdout, done.stdout[-4000:]
    left = [name for name in driver_packages(rig) if "-580" in name]
    assert left == []
    rig.root("modprobe nvidia")
    assert play(*options, playbook=CONVERGE).returncode == 0


def test_the_pc_is_given_back_as_it_was(rig: Rig, play: Play) -> None:
    done = play("-e", "nvidia_driver_state=absent nvidia_driver_reboot=never", playbook=CONVERGE)
    assert "the removed driver is still loaded" in " ".join(done.stdout.split())
    assert driver_packages(rig) == {}
    assert rig.host.check_output("apt-mark showhold") == ""
    assert rig.root("find /etc -path '*sparerig*' -not -name 'sparerig-test-host*'") == ""
    rig.root(f"rm {LOADED}")
    assert play(playbook=CONVERGE).returncode == 0
