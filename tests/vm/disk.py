# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of the PC that is a program: made once from the test bed's host, kept in the cache."""

from __future__ import annotations

import subprocess
import typing as t
from pathlib import Path

from docker.types import Mount
from testbed import build, engine, hosts, images
from testbed.inputs import fingerprint
from testbed.machine import need, only_one
from testbed.progress import TestbedError, step
from testbed.settings import CACHE, LABEL

if t.TYPE_CHECKING:
    from docker import DockerClient

SCRIPT = Path(__file__).with_name("vm.sh")
DISKS = CACHE / "vm"
# What a container's image cannot hold, because the engine puts its own there.
WRITE_DISK = """set -eu
root=/var/tmp/root
mkdir -p $root
tar --one-file-system --exclude=./var/tmp -cC / . | tar -xC $root
echo 'nameserver 10.0.2.3' > $root/etc/resolv.conf
echo '127.0.0.1 localhost vm' > $root/etc/hosts
echo vm > $root/etc/hostname
install -d -m 700 -o 1000 -g 1000 $root/home/rig/.ssh
install -m 600 -o 1000 -g 1000 /key.pub $root/home/rig/.ssh/authorized_keys
mkdir -m 1777 $root/var/tmp
mke2fs -q -t ext4 -d $root /out/new.img 6G
"""


def copy_to(target: Path) -> Path:
    """Copy the disk, holes and all; make it unless the cache has it."""
    client = engine.ensure()
    base = images.host(client, "ubuntu-22.04")
    name = build.image(client, "the virtual PC's system", base=base, script=SCRIPT)
    public = hosts.key().with_suffix(".pub")
    with only_one("vm-disk"):
        disk = DISKS / f"{fingerprint(name, public, WRITE_DISK)}.img"
        if not disk.exists():
            with step("Writing the virtual PC's disk"):
                write(client, name, public, disk)
        # Another run that makes another disk removes this one.
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", disk, target], check=True)
    return target


def write(client: DockerClient, image: str, public: Path, disk: Path) -> None:
    """Write an image's files to a disk."""
    DISKS.mkdir(parents=True, exist_ok=True)
    for old in DISKS.glob("*.img"):
        old.unlink()
    client.containers.run(
        image,
        ["sh", "-c", WRITE_DISK],
        entrypoint="",
        mounts=[
            Mount("/out", str(DISKS), type="bind"),
            Mount("/key.pub", str(public), type="bind", read_only=True),
        ],
        labels={LABEL: "build"},
        remove=True,
    )
    (DISKS / "new.img").rename(disk)


def kernels(disk: Path) -> list[str]:
    """List the kernels on a disk that is not in use, the one that a boot loader starts last."""
    need("debugfs", "e2fsprogs", "look for the kernel on the virtual PC's disk")
    # As the kernel does at a boot: what the journal holds was written, and is not in its place yet.
    subprocess.run(["e2fsck", "-p", "-E", "journal_only", disk], check=False, capture_output=True)
    listing = _debugfs(disk, "ls -p /boot")
    names = [part for part in listing.replace("\n", "/").split("/") if part.startswith("vmlinuz-")]
    if not names:
        raise TestbedError(f"there is no kernel on {disk}")
    return sorted(
        (name.removeprefix("vmlinuz-") for name in names),
        key=lambda name: [
            int(part) for part in name.replace("-", ".").split(".") if part.isdigit()
        ],
    )


def take(disk: Path, file: str, target: Path) -> Path:
    """Copy a file from a disk that is not in use."""
    _debugfs(disk, f"dump {file} {target}")
    return target


def _debugfs(disk: Path, command: str) -> str:
    done = subprocess.run(
        ["debugfs", "-R", command, disk], check=True, capture_output=True, text=True
    )
    return done.stdout
