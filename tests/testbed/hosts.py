# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts: containers that boot systemd, run Docker inside and answer SSH."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import tarfile
import time
import typing as t

from docker.errors import APIError, NotFound

from testbed import images, model, registry
from testbed.machine import free_port, need, only_one
from testbed.progress import TestbedError, step
from testbed.settings import (
    CACHE,
    CLONE,
    CLONE_LABEL,
    DEMO_HOST,
    DEMO_PAGE_PORT,
    LABEL,
    MODELS_ON_HOST,
    NETWORK,
    OWN,
    USER,
)

if t.TYPE_CHECKING:
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container

KEY = CACHE / "ssh_key"
KNOWN_HOSTS = OWN / "ssh_known_hosts"
SSH_CONFIG = OWN / "ssh_config"
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
DOCKER_PARTS = ("docker", "containerd")
OURS = {CLONE_LABEL: CLONE}
BOOT_SECONDS = 600
STOP_SECONDS = 120
# What a PC's root has and a container's lacks, named one by one: asking for all of them fails on
# a machine that is itself short of one.
CAPABILITIES = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_MODULE", "IPC_LOCK"]

# The number of /dev/fuse, which a stand-in card goes by: a device that can be opened, and that
# Docker in the host gives to no container by itself.
CARD_DEVICE = "c 10:229 rwm"


def container_name(name: str) -> str:
    """Give the name of a host's container: another checkout's host of this name has another."""
    return f"sparerig-host-{CLONE}-{name}"


def find(client: DockerClient, name: str) -> Container | None:
    """Find the container of a host."""
    try:
        return client.containers.get(container_name(name))
    except NotFound:
        return None


def up(client: DockerClient, name: str, release: str, page_port: int | None = None) -> Container:
    """Give a host that has booted, answers SSH and holds the models; make what is missing."""
    if not NAME.fullmatch(name):
        raise TestbedError(
            f"{name!r} cannot be a host's name: use up to 31 of a-z, 0-9 and -, a letter first."
        )
    with only_one(f"host-{CLONE}-{name}"):
        container = make(client, name, release, page_port)
    write_ssh_config(client)
    return container


def make(client: DockerClient, name: str, release: str, page_port: int | None) -> Container:
    """Create and boot a host, as far as that is not done."""
    container = find(client, name)
    if container is None or container.status == "created":
        container = create(client, name, release, page_port)
    elif container.labels[f"{LABEL}.release"] != release:
        raise TestbedError(
            f"The host {name} exists and is {container.labels[f'{LABEL}.release']}, not {release}. "
            f"Remove it first: python -m testbed host down {name}"
        )
    if container.status != "running":
        try:
            container.start()
        except APIError as error:
            raise TestbedError(
                f"The host {name} does not start: {error.explanation}. If a port is taken, free it "
                f"or remove the host (python -m testbed host down {name}) and choose another one "
                f"with --page-port."
            ) from error
    wait_until_booted(container, name)
    let_in(container)
    copy_models(container)
    return container


def create(client: DockerClient, name: str, release: str, page_port: int | None) -> Container:
    """Create the container of a host, in place of one that never ran."""
    image = images.host(client, release)
    registry.network(client)
    if (stale := find(client, name)) is not None:
        stale.remove(force=True, v=True)
    if page_port is None:
        page_port = DEMO_PAGE_PORT if name == DEMO_HOST else free_port()
    full_name = container_name(name)
    return client.containers.create(
        image,
        name=full_name,
        hostname=name,
        network=NETWORK,
        networking_config={NETWORK: client.api.create_endpoint_config(aliases=[name])},
        cgroupns="private",
        cap_add=CAPABILITIES,
        device_cgroup_rules=[CARD_DEVICE],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        tmpfs={"/run": "exec,mode=755", "/run/lock": ""},
        # Docker inside needs a real file system below it, not this container's overlay.
        volumes={
            registry.volume(client, f"{full_name}-{part}", OURS): {
                "bind": f"/var/lib/{part}",
                "mode": "rw",
            }
            for part in DOCKER_PARTS
        },
        ports={
            "22/tcp": ("127.0.0.1", free_port()),
            "8080/tcp": ("127.0.0.1", page_port),
        },
        stop_signal="SIGRTMIN+3",  # what systemd takes for "shut down"
        labels={LABEL: "host", f"{LABEL}.release": release, **OURS},
    )


def run(container: Container, *command: str) -> tuple[int, str]:
    """Run a command in a host; give its exit status and what it printed."""
    status, output = container.exec_run(list(command))
    assert status is not None
    assert isinstance(output, bytes)
    return status, output.decode(errors="replace").strip()


def wait_until_booted(container: Container, name: str) -> None:
    """Wait until systemd says that it has started everything and sshd listens."""
    state = ""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        container.reload()
        if container.status != "running":
            break
        _status, state = run(container, "systemctl", "is-system-running")
        if state == "degraded":
            break
        if state == "running" and run(container, "systemctl", "is-active", "ssh")[0] == 0:
            return
        time.sleep(0.2)
    failed = run(container, "systemctl", "--failed", "--plain", "--no-legend")[1]
    raise TestbedError(
        f"The host {name} did not boot within {BOOT_SECONDS} s: systemd says {state!r}, its "
        f"container is {container.status}. Failed units:\n{failed or 'none'}\nLook around with: "
        f"docker exec -it {container.name} journalctl -b, or start over with: "
        f"python -m testbed host down {name}"
    )


def key() -> Path:
    """Give the private key with which the hosts are reached; make it once."""
    need("ssh-keygen", "openssh-client", "reach the test hosts")
    with only_one("ssh-key") as scratch:
        if KEY.exists():
            return KEY
        half_made = scratch / "ssh_key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sparerig", "-f", half_made],
            check=True,
        )
        half_made.with_suffix(".pub").rename(KEY.with_suffix(".pub"))
        half_made.rename(KEY)
    return KEY


def let_in(container: Container) -> None:
    """Put our public key where sshd looks for it."""
    public = key().with_suffix(".pub").read_bytes()
    put(container, f"/home/{USER}/.ssh", {"authorized_keys": public}, user=(1000, USER))


def put(
    container: Container, folder: str, files: dict[str, bytes], user: tuple[int, str] = (0, "root")
) -> None:
    """Write files into a folder of a host."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o644, int(time.time())
            member.uid = member.gid = user[0]
            member.uname = member.gname = user[1]
            tar.addfile(member, io.BytesIO(content))
    container.put_archive(folder, buffer.getvalue())


def copy_models(container: Container) -> None:
    """Copy both tiny models to a host, unless it has them."""
    source = model.make()
    mark = f"{MODELS_ON_HOST}/.made-from"
    if run(container, "cat", mark) == (0, source.name):
        return
    files = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file()
    }
    put(container, MODELS_ON_HOST, files)
    put(container, MODELS_ON_HOST, {".made-from": source.name.encode()})


def running(client: DockerClient) -> list[Container]:
    """List the containers of this checkout's hosts that run."""
    wanted = [f"{LABEL}=host", f"{CLONE_LABEL}={CLONE}"]
    found = client.containers.list(filters={"label": wanted})
    return sorted(found, key=lambda container: str(container.name))


def describe(container: Container) -> dict[str, t.Any]:
    """Say how a host is reached."""
    bindings = container.attrs["HostConfig"]["PortBindings"]
    page = int(bindings["8080/tcp"][0]["HostPort"])
    return {
        "name": str(container.name).removeprefix(container_name("")),
        "release": container.labels[f"{LABEL}.release"],
        "status": container.status,
        "address": "127.0.0.1",
        "port": int(bindings["22/tcp"][0]["HostPort"]),
        "user": USER,
        "key": str(KEY),
        "ssh_config": str(SSH_CONFIG),
        "page": f"http://127.0.0.1:{page}",
    }


def write_ssh_config(client: DockerClient) -> None:
    """Write down how to reach every host that runs, for ssh and for Ansible."""
    OWN.mkdir(parents=True, exist_ok=True)
    with only_one(f"ssh-config-{CLONE}"):
        known, config = describe_all(client)
        for path, text in ((KNOWN_HOSTS, known), (SSH_CONFIG, config)):
            half_made = path.with_name(f"{path.name}.new")
            half_made.write_text(text)
            half_made.rename(path)


def describe_all(client: DockerClient) -> tuple[str, str]:
    """Give the known host keys and the SSH configuration of every host that runs."""
    before = KNOWN_HOSTS.read_text().splitlines() if KNOWN_HOSTS.exists() else []
    keys = dict(line.split(" ", 1) for line in before if " " in line)
    known, config = "", "# Written by python -m testbed at every change of a host: do not edit.\n"
    for container in running(client):
        host = describe(container)
        status, public = run(container, "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
        # One that is going down or coming up just now does not tell; it keeps its key.
        known += f"{host['name']} {keys.get(host['name'], '') if status else public}\n"
        config += (
            f"\nHost {host['name']}\n"
            f"    HostName {host['address']}\n"
            f"    Port {host['port']}\n"
            f"    HostKeyAlias {host['name']}\n"
        )
    config += (
        f"\nHost *\n"
        f"    User {USER}\n"
        f"    IdentityFile {KEY}\n"
        f"    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {KNOWN_HOSTS}\n"
        f"    GlobalKnownHostsFile /dev/null\n"
        f"    StrictHostKeyChecking yes\n"
        f"    LogLevel ERROR\n"
    )
    return known, config


def restart(client: DockerClient, name: str) -> Container:
    """Restart a host as a PC restarts: everything is stopped in order, then it boots."""
    container = find(client, name)
    if container is None:
        raise TestbedError(
            f"There is no host {name}. Make it with: python -m testbed host up {name}"
        )
    with step(f"Restarting the host {name}"):
        container.restart(timeout=STOP_SECONDS)
        wait_until_booted(container, name)
    write_ssh_config(client)
    return container


def down(client: DockerClient, name: str) -> None:
    """Remove a host and what is on it."""
    if (container := find(client, name)) is not None:
        container.remove(force=True, v=True)
    for part in DOCKER_PARTS:
        with contextlib.suppress(NotFound):
            client.volumes.get(f"{container_name(name)}-{part}").remove(force=True)
    write_ssh_config(client)
