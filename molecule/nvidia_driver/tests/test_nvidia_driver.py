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
from testbed.hosts import container_name

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

CONVERGE = "molecule/nvidia_driver/converge.yml"
LOADED = "/opt/stand-in/proc/driver/nvidia/version"
BUS = "/opt/stand-in/sys/bus/pci/devices"
CARD = f"{BUS}/0000:01:00.0/device"
EFI = "/opt/stand-in/sys/firmware/efi/efivars"
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
LISTS = "/etc/apt/sources.list.d"
TOOLKIT_REPOSITORY = "https://nvidia.github.io/libnvidia-container/stable/deb/amd64 /"


@pytest.fixture(autouse=True)
def driver(rig: Rig, play: Play, request: pytest.FixtureRequest) -> None:
    """Install the driver where an earlier test left none; or remove it, for a test that has to begin without."""
    absent = request.node.get_closest_marker("without_driver") is not None
    installed = "dpkg-query --show | grep --quiet ^nvidia-headless"
    there = rig.host.run(f"test -e {LOADED} && {installed}").rc == 0
    if there == absent:
        state = "absent" if absent else "present"
        play("-e", f"nvidia_driver_state={state} nvidia_driver_reboot=never", playbook=CONVERGE)
    if absent:
        rig.root(f"rm -f {LOADED}")


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


OWN_KERNEL = "linux-image-7.99.0-1-generic"
# What is wrong with the host, by the name of the failure: how it gets so, how it is put right, and the options.
BAD_HOSTS = [
    ("gpu-missing", f"echo 0x8086 > {BUS}/0000:01:00.0/vendor",
     f"echo 0x10de > {BUS}/0000:01:00.0/vendor", ""),
    ("card-too-old", f"echo 0x1b80 > {CARD}", f"echo 0x2503 > {CARD}", ""),
    ("mixed-cards",
     (f"cp -r {BUS}/0000:01:00.0 {BUS}/0000:02:00.0 && echo 0x1d81 > {BUS}/0000:02:00.0/device"
      f" && echo 0x2b85 > {CARD}"),
     f"rm -r {BUS}/0000:02:00.0 && echo 0x2503 > {CARD}",
     "nvidia_driver_for_image=vllm/vllm-openai:v0.19.1"),
    ("module-key-rejected", f"mkdir -p {EFI} && printf '\\6\\0\\0\\0\\1' > {EFI}/{SECURE_BOOT}",
     f"rm {EFI}/{SECURE_BOOT}", "nvidia_driver_dkms=true"),
    ("foreign-driver", "touch /usr/bin/nvidia-uninstall", "rm /usr/bin/nvidia-uninstall", ""),
    ("system-unsupported", "sed -i.bak s/^ID=ubuntu/ID=debian/ /usr/lib/os-release",
     "mv /usr/lib/os-release.bak /usr/lib/os-release", ""),
    # A kernel that is none of Ubuntu's: a stand-in with nothing in it.
    ("kernel-without-module",
     (f"mkdir -p /tmp/kernel/DEBIAN && printf 'Package: {OWN_KERNEL}\\nVersion: 1\\nArchitecture: all\\n"
      "Maintainer: me\\nDescription: mine\\n' > /tmp/kernel/DEBIAN/control"
      " && dpkg-deb --build /tmp/kernel && dpkg --install /tmp/kernel.deb"),
     f"dpkg --purge {OWN_KERNEL}", ""),
    ("docker-from-snap", "mkdir -p /snap/bin && touch /snap/bin/docker", "rm -r /snap", ""),
    ("conflicting-signed-by",
     (f"echo deb {TOOLKIT_REPOSITORY} > {LISTS}/old.list && touch /etc/apt/keyrings/new.gpg"
      f" && echo deb [signed-by=/etc/apt/keyrings/new.gpg] {TOOLKIT_REPOSITORY} > {LISTS}/new.list"
      f" && apt-get update 2>&1 | grep -q Conflicting.values.set.for.option.Signed-By"),
     f"rm {LISTS}/old.list {LISTS}/new.list /etc/apt/keyrings/new.gpg", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_HOSTS, ids=lambda case: case[0])
def test_a_host_that_is_not_right_is_not_changed(
    rig: Rig, play: Play, case: tuple[str, str, str, str]
) -> None:
    failure, make, unmake, options = case
    before = driver_packages(rig)
    rig.root(f'sh -c "{make}"')
    try:
        done = play("-e", f"{options} nvidia_driver_reboot=never", playbook=CONVERGE)
    finally:
        rig.root(f'sh -c "{unmake}"')
    assert done.returncode != 0
    assert f"docs/failures/{failure}.md" in done.stdout
    assert "changed=0" in done.stdout
    assert driver_packages(rig) == before


def test_a_sleep_is_told(rig: Rig, play: Play) -> None:
    slept = "/opt/stand-in/sys/power/suspend_stats"
    rig.root(f"sh -c 'mkdir -p {slept} && echo 2 > {slept}/success'")
    done = play("-v", playbook=CONVERGE)
    rig.root(f"rm -r {slept}")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "gpu-lost-after-suspend" in done.stdout


HOLD_LOCK = (
    "import fcntl, time; file = open('/var/lib/dpkg/lock-frontend', 'w');"
    " fcntl.lockf(file, fcntl.LOCK_EX); time.sleep({seconds})"
)


@pytest.mark.parametrize(
    ("seconds", "patience", "message"),
    [(900, 2, "Wait until python3 (process"), (40, 600, "s for python3 (process")],
)
def test_an_apt_that_is_busy_is_waited_for(
    rig: Rig, play: Play, seconds: int, patience: int, message: str
) -> None:
    """There is no branch 999, so that the second run stops when it has waited."""
    hold = HOLD_LOCK.format(seconds=seconds)
    rig.root(f'systemd-run --quiet --collect --unit busy python3 -c "{hold}"')
    done = play(
        "-e",
        f"nvidia_driver_branch=999 nvidia_driver_lock_timeout={patience}",
        playbook=CONVERGE,
    )
    rig.host.run("sudo systemctl stop busy")
    said = " ".join((done.stdout + done.stderr).split())
    assert message in said, said[-4000:]
    assert ("branch-unknown" in said) == (seconds < 900)


PORTAL = (
    "import http.server as s; a = lambda h: (h.send_response(200), h.end_headers(),"
    " h.wfile.write(b'<html>Sign in</html>'));"
    " s.HTTPServer(('127.0.0.1', 8098), type('H', (s.BaseHTTPRequestHandler,),"
    " {'do_GET': a})).serve_forever()"
)


def test_a_mirror_that_answers_nonsense_is_named(rig: Rig, play: Play) -> None:
    """It says 200 and sends a page, as the portal of a guest network does."""
    before = driver_packages(rig)
    rig.root(f'systemd-run --quiet --collect --unit portal python3 -c "{PORTAL}"')
    rig.root(f"sh -c 'echo deb http://127.0.0.1:8098/ jammy main > {LISTS}/portal.list'")
    try:
        done = play("-e", "nvidia_driver_branch=595", playbook=CONVERGE)
    finally:
        rig.root(f"sh -c 'systemctl stop portal; rm {LISTS}/portal.list'")
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert "apt could not read the lists of every archive in /etc/apt" in said
    assert "127.0.0.1:8098" in said
    assert driver_packages(rig) == before


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
    subprocess.run(["docker", "kill", container_name(rig.name)], check=True)
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


@pytest.mark.without_driver
def test_somebody_else_s_hold_is_respected(rig: Rig, play: Play) -> None:
    other = "libnvidia-cfg1-595-server"
    rig.root(f"apt-get install --yes --no-install-recommends {other}")
    rig.root(f"apt-mark hold {other}")
    before = driver_packages(rig)
    done = play(playbook=CONVERGE)
    assert "docs/failures/held-package.md" in done.stdout, done.stdout[-4000:]
    assert f"sudo apt-mark unhold {other}" in " ".join(done.stdout.split())
    assert driver_packages(rig) == before
    rig.root(f"apt-mark unhold {other}")
    done = play(playbook=CONVERGE)
    assert done.returncode == 0, done.stdout[-4000:]
    assert other not in driver_packages(rig)
