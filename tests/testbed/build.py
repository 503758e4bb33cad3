# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build an image: run one script in a container, then keep what it left."""

from __future__ import annotations

import io
import os
import re
import shlex
import tarfile
import typing as t
from urllib.parse import urlsplit

from docker.errors import NotFound
from docker.types import Mount

from testbed.inputs import fingerprint
from testbed.machine import for_pip, only_one
from testbed.progress import TestbedError, step
from testbed.roots import has_image
from testbed.settings import CACHE, LABEL, PROCESS_LABEL

if t.TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from docker import DockerClient

# What pip and apt say when nobody answers them.
UNREACHABLE = re.compile(
    r"(NewConnectionError|Could not resolve|Failed to resolve|Connection refused|timed out"
    r"|No matching distribution|CERTIFICATE_VERIFY_FAILED|Failed to fetch)"
)


def packed(folder: Path) -> bytes:
    """Pack a folder as a tar archive owned by root, to lay over a root file system."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        tar.add(folder, arcname=".", filter=owned_by_root)
    return buffer.getvalue()


def image(  # noqa: PLR0913
    client: DockerClient,
    what: str,
    *,
    base: str,
    script: Path,
    files: Sequence[Path] = (),
    overlay: Path | None = None,
    changes: Sequence[str] = (),
    uses_pip: bool = False,
) -> str:
    """Give the name of an image; build it unless the engine has one made from the same things.

    The script sees its own folder as /testbed. It runs in the machine's network, because a proxy
    or a package index may listen on the machine's loopback address only; pip's settings and the
    machine's certificates are lent for the time of the build and do not get into the image.
    """
    inputs: list[str | Path] = [base, script, *files, *([overlay] if overlay else []), *changes]
    name = f"sparerig/{script.stem}:{fingerprint(*inputs)}"
    if has_image(client, name):
        return name
    container_name = f"sparerig-build-{script.stem}"
    with only_one(script.stem) as scratch:
        if has_image(client, name):
            return name
        remove_container(client, container_name)
        variables, mounts = for_pip() if uses_pip else ({}, {})
        # A file and not the container's environment, which would be kept in the image.
        settings = scratch / "env"
        settings.write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        )
        container = client.containers.create(
            base,
            ["sh", "-c", f". /run/testbed/env && exec sh /testbed/{script.name}"],
            name=container_name,
            entrypoint="",
            # As mounts: what is given as volumes would be declared by the image for ever.
            mounts=[
                Mount(target, str(source), type="bind", read_only=True)
                for target, source in (
                    mounts | {"/testbed": script.parent, "/run/testbed/env": settings}
                ).items()
            ],
            network_mode="host",
            labels={LABEL: "build", PROCESS_LABEL: str(os.getpid())},
        )
        try:
            if overlay:
                container.put_archive("/", packed(overlay))
            log = CACHE / "logs" / f"{script.stem}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with step(f"Building {what}"), log.open("wb") as output:
                container.start()
                for chunk in container.logs(stream=True, follow=True):
                    output.write(chunk)
            if status := container.wait()["StatusCode"]:
                raise TestbedError(explain(what, status, log, variables))
            repository, _colon, tag = name.rpartition(":")
            container.commit(repository, tag, changes=[*changes, f"LABEL {LABEL}=image"])
        finally:
            container.remove(force=True, v=True)
    return name


def remove_container(client: DockerClient, name: str) -> None:
    """Remove a container of an earlier run, if there is one."""
    try:
        client.containers.get(name).remove(force=True, v=True)
    except NotFound:
        return


def explain(what: str, status: int, log: Path, variables: dict[str, str]) -> str:
    """Say why a build failed and what to do."""
    text = log.read_text(errors="replace")
    last = "\n".join(text.splitlines()[-8:])
    message = f"Building {what} failed (exit status {status}):\n{last}\nThe whole log: {log}"
    if UNREACHABLE.search(text):
        index = urlsplit(variables.get("PIP_INDEX_URL", "https://pypi.org/simple")).hostname
        message += (
            f"\nA package could not be fetched. System packages come from the distribution, "
            f"Python packages from {index}, PyTorch for CPUs from download.pytorch.org or a "
            f"local wheel folder. See what this machine is told with: python3 -m pip config list"
        )
    return message
