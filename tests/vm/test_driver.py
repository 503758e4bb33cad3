# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver role on a PC with a real kernel that enforces signatures. The tests go in order."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from vm.conftest import Pc

NO_CARD = "the module found no card that it can drive"


def test_the_pc_starts_as_one_with_nouveau_and_an_older_kernel(pc: Pc) -> None:
    assert "nouveau" in pc.run("lsmod")
    assert pc.run("cat /proc/cmdline").endswith("module.sig_enforce=1")
    assert len(pc.machine.booted) == 1


def test_without_leave_to_reboot_the_play_stops_and_says_why(pc: Pc) -> None:
    done = pc.play("driver.yml", "-e", "nvidia_driver_reboot=never")
    assert done.returncode != 0
    assert "vm needs a reboot: nouveau drives the card" in done.stdout
    assert "nvidia_driver_reboot is 'never'" in done.stdout
    assert len(pc.machine.booted) == 1


def test_the_play_reboots_once_and_goes_on(pc: Pc) -> None:
    done = pc.play("driver.yml")
    # As far as a PC without a card can come: the kernel took the module, the module saw no card.
    assert NO_CARD in done.stdout, done.stdout[-4000:]
    assert len(pc.machine.booted) == 2, pc.machine.booted
    assert pc.run("modinfo -F signer nvidia") == "Canonical Ltd. Kernel Module Signing"


def test_nouveau_stays_out(pc: Pc) -> None:
    assert "nouveau" not in pc.run("lsmod")
    assert "nouveau.ko" not in pc.run("lsinitramfs /boot/initrd.img-$(uname -r)")


def test_the_kernel_accepts_the_signed_module(pc: Pc) -> None:
    answer = pc.module("sparerig.llm.nvidia_kernel_module")
    assert "No such device" in answer["stderr"]
    assert answer["failure"] == "gpu-missing"
    assert "NVRM: No NVIDIA GPU found." in pc.run("dmesg")


def test_the_kernel_refuses_an_unsigned_module_and_it_is_explained(pc: Pc) -> None:
    # A signature stands at the end: the signature, its description with its length, a marker.
    cut = (
        'import sys; file = open(sys.argv[1], "r+b"); data = file.read();'
        ' size = int.from_bytes(data[-32:-28], "big"); file.truncate(len(data) - 40 - size)'
    )
    module = pc.run("modinfo -F filename nvidia")
    pc.run(f"cp {module} /root/signed.ko && python3 -c '{cut}' {module}")
    try:
        answer = pc.module("sparerig.llm.nvidia_kernel_module")
    finally:
        pc.run(f"mv /root/signed.ko {module}")
    assert "Key was rejected by service" in answer["stderr"]
    assert answer["failure"] == "module-key-rejected"
    assert "the NVIDIA module is not signed" in answer["msg"]
    assert "sudo mokutil --import" in answer["msg"]


def test_driver_and_kernel_are_held(pc: Pc) -> None:
    held = pc.run("apt-mark showhold").split()
    assert "nvidia-headless-no-dkms-580-server-open" in held
    assert f"linux-modules-nvidia-580-server-open-{pc.machine.booted[-1]}" in held


def test_after_a_kernel_update_and_a_reboot_the_module_is_there(pc: Pc) -> None:
    """A newer kernel is released; the role brings it with its module, and only the role does."""
    older = pc.machine.booted[-1]
    pc.run("rm /etc/apt/preferences.d/not-released-yet")
    assert "Inst linux-image" not in pc.run("apt-get --simulate dist-upgrade")
    done = pc.play("driver.yml", "-e", "nvidia_driver_upgrade=true")
    assert NO_CARD in done.stdout, done.stdout[-4000:]
    pc.module("ansible.builtin.reboot", "reboot_timeout=900")
    newer = pc.machine.booted[-1]
    assert pc.run("uname -r") == newer != older
    assert pc.run("modinfo -F signer nvidia") == "Canonical Ltd. Kernel Module Signing"
    answer = pc.module("sparerig.llm.nvidia_kernel_module")
    assert answer["failure"] == "gpu-missing"
    assert "linux-modules-nvidia-580-server-open-generic-hwe-22.04" in pc.run("apt-mark showhold")
