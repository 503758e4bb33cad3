# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PC that is a program: it boots the newest kernel of its disk, as often as it reboots."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import typing as t

from testbed.machine import answers, free_port, need
from testbed.progress import TestbedError

from vm import disk

if t.TYPE_CHECKING:
    from pathlib import Path

BOOT_SECONDS = 600  # half a minute on an idle machine
# Signatures are enforced as Secure Boot does it.
COMMAND_LINE = "root=/dev/vda rw console=ttyS0 mitigations=off module.sig_enforce=1"


class Machine:
    """A PC with a disk of its own, reached by SSH on a loopback port."""

    def __init__(self, folder: Path) -> None:
        need("qemu-system-x86_64", "qemu-system-x86", "run a real kernel")
        self.disk = disk.copy_to(folder / "disk.img")
        self.folder = folder
        self.port = free_port()
        self.booted: list[str] = []  # the kernels that were started, one for each boot
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._watcher = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Switch it on, and wait for SSH."""
        self._wanted = True
        self._watcher = threading.Thread(target=self._run, daemon=True)
        self._watcher.start()
        self.wait()

    def wait(self) -> None:
        """Wait for SSH."""
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            if self._says_hello():
                return
            time.sleep(0.5)
        raise TestbedError(f"the virtual PC does not answer; its console: {self.console}")

    def cut_power(self) -> None:
        """Switch it off without warning."""
        self._wanted = False
        if self._process:
            self._process.kill()
        self._watcher.join()

    @property
    def console(self) -> Path:
        """Where everything goes that it prints."""
        return self.folder / "console.log"

    def _says_hello(self) -> bool:
        """Ask for SSH's greeting: QEMU itself accepts connections long before the guest does."""
        if not answers("127.0.0.1", self.port, 1):
            return False
        asked = subprocess.run(
            ["ssh-keyscan", "-T", "5", "-p", str(self.port), "127.0.0.1"],
            capture_output=True,
            check=False,
        )
        return bool(asked.stdout)

    def _run(self) -> None:
        """Boot whenever it is off and wanted on: a reboot ends the program that is the PC."""
        while self._wanted:
            release = disk.kernels(self.disk)[-1]
            self.booted.append(release)
            kernel = disk.take(self.disk, f"/boot/vmlinuz-{release}", self.folder / "vmlinuz")
            initrd = disk.take(self.disk, f"/boot/initrd.img-{release}", self.folder / "initrd")
            with self.console.open("ab") as console:
                self._process = subprocess.Popen(
                    self._command(kernel, initrd), stdout=console, stderr=console
                )
                self._process.wait()

    def _command(self, kernel: Path, initrd: Path) -> list[str]:
        # Emulation works everywhere; a /dev/kvm that is there does not always.
        kvm = os.environ.get("VM_ACCEL") == "kvm"
        return [
            "nice", "qemu-system-x86_64",
            *(("-accel", "kvm", "-cpu", "host") if kvm else ("-accel", "tcg,thread=multi,tb-size=512")),
            "-smp", "2", "-m", "2048", "-nographic", "-no-reboot",
            "-kernel", str(kernel), "-initrd", str(initrd), "-append", COMMAND_LINE,
            "-drive", f"file={self.disk},if=virtio,format=raw,cache=unsafe",
            "-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{self.port}-:22",
        ]  # fmt: skip
