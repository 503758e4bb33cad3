# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems to build on: pulled where a registry answers, bootstrapped otherwise."""

from __future__ import annotations

import functools
import os
import subprocess
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

from docker.errors import DockerException, ImageNotFound

from testbed.inputs import fingerprint
from testbed.machine import need, only_one
from testbed.progress import TestbedError, say, step
from testbed.settings import CACHE, LABEL, Release

if t.TYPE_CHECKING:
    from docker import DockerClient

PROBE_SECONDS = 5
CHUNK = 1 << 20
OPTIONS = (
    "--mode=root",
    "--variant=minbase",
    "--include=apt,ca-certificates",
    "--dpkgopt=force-unsafe-io",  # a root that is thrown away on failure needs no syncing
)
PULLED = CACHE / "pulled"  # official images bear no label of ours: this is how `down` knows them


@functools.cache
def registry_answers(host: str) -> bool:
    """Ask a registry whether it is there. TESTBED_PULL=no skips the question."""
    if os.environ.get("TESTBED_PULL") == "no":
        return False
    try:
        urllib.request.urlopen(f"https://{host}/v2/", timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # "401: who are you?" is an answer
    except OSError:
        say(f"No image registry answers at {host}: building from packages instead")
        return False
    return True


def pull(client: DockerClient, reference: str, host: str) -> bool:
    """Pull an official image, if its registry is there and has it."""
    if not registry_answers(host):
        return False
    try:
        with step(f"Pulling {reference}"):
            client.images.pull(reference)
    except DockerException as error:
        say(f"{reference} could not be pulled ({error}): building from packages instead")
        return False
    with PULLED.open("a") as pulled:
        pulled.write(f"{reference}\n")
    return True


def has_image(client: DockerClient, name: str) -> bool:
    """Tell whether the engine has an image of this name."""
    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


def root_image(client: DockerClient, release: Release) -> str:
    """Give the name of an image with the bare distribution."""
    if has_image(client, release.pulled):
        return release.pulled
    made_from = fingerprint(
        *OPTIONS, repr(release.suites), release.components, release.keyring_package
    )
    name = f"sparerig/root-{release.name}:{made_from}"
    if has_image(client, name):
        return name
    if pull(client, release.pulled, "registry-1.docker.io"):
        return release.pulled
    with only_one(f"root-{release.name}") as scratch:
        if has_image(client, name):
            return name
        archive = bootstrap(release, scratch)
        repository, _colon, tag = name.rpartition(":")
        with archive.open("rb") as tar:
            client.api.import_image_from_stream(
                iter(functools.partial(tar.read, CHUNK), b""),
                repository=repository,
                tag=tag,
                changes=[f"LABEL {LABEL}=root"],
            )
    return name


def bootstrap(release: Release, scratch: Path) -> Path:
    """Install a minimal system with apt, which checks every signature and hash on the way.

    The archive's key is the only trust: for Ubuntu the one in the keys folder, since Debian 12
    packages no Ubuntu keyring; for Debian the machine's own keyring.
    """
    need("mmdebstrap", "mmdebstrap", f"bootstrap {release.name}")
    keyring = Path(release.key)
    if not keyring.is_file():
        need(str(keyring), release.keyring_package, f"check the signatures of {release.name}")
    archive = scratch / f"{release.name}.tar"
    log = CACHE / "logs" / f"bootstrap-{release.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap",
        *OPTIONS,
        f"--keyring={keyring}",
        f"--include={release.keyring_package}",
        release.suites[0][0],
        str(archive),
        *(
            f"deb {release.mirror}{path} {suite} {release.components}"
            for suite, path in release.suites
        ),
    ]
    what = f"Bootstrapping {release.name} from {release.mirror}"
    with step(what), log.open("w") as output:
        done = subprocess.run(
            command,
            check=False,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise TestbedError(
            f"{release.name} could not be bootstrapped from {release.mirror}:\n{last}\n"
            f"If the mirror did not answer, name another one in TESTBED_UBUNTU_MIRROR or "
            f"TESTBED_DEBIAN_MIRROR and run this again. The whole log: {log}"
        )
    return archive
