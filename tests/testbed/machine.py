# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine itself: packages it lacks, a lock, its pip settings."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

from testbed.progress import TestbedError, say, step
from testbed.settings import CACHE

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
PIP_OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "retries")
CA_IN_CONTAINER = "/run/testbed/ca.crt"


def need(program: str, package: str, why: str) -> None:
    """Install a Debian or Ubuntu package unless its program (or the file named) is there."""
    if shutil.which(program) or Path(program).is_file():
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise TestbedError(
            f"{program} is missing: it is needed to {why}. Install the package {package} "
            f"(as root: apt-get install {package}), or run this as root on Debian or Ubuntu."
        )
    with only_one("packages"), step(f"Installing {package}, to {why}"):
        apt_get = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
        install = [*apt_get, "install", "--no-install-recommends", package]
        # Package lists may be missing or old: renew them only if the first try fails.
        for command in (install, [*apt_get, "update"], install):
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            )
            if command is install and done.returncode == 0:
                return
    raise TestbedError(
        f"apt-get could not install {package}, which is needed to {why}:\n{done.stderr.strip()}\n"
        f"Check that apt-get update works on this machine, then run this again."
    )


@contextlib.contextmanager
def only_one(name: str) -> Iterator[Path]:
    """Make a thing while no other run or thread makes it; give an empty folder to make it in."""
    lock_file, scratch = CACHE / "locks" / name, CACHE / "tmp" / name
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another run, which is busy with: {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        yield scratch
        shutil.rmtree(scratch)


def free_port() -> int:
    """Pick a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int, seconds: float) -> bool:
    """Tell whether something accepts a connection."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def pip_settings(listing: str, environment: Mapping[str, str]) -> tuple[dict[str, str], list[Path]]:
    """Turn ``pip config list`` into variables for a container and folders to mount there.

    A container has neither the machine's pip settings nor its certificates. Local folders are
    mounted under the path they have here, so that the settings mean the same in there.
    """
    options: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda text: text.startswith(":env:")):
        name, _equals, value = line.partition("=")
        scope, _dot, option = name.rpartition(".")
        if scope in {"global", "install", ":env:"}:
            options[option] = str(ast.literal_eval(value))
    variables = {
        f"PIP_{option.upper().replace('-', '_')}": options[option]
        for option in PIP_OPTIONS
        if option in options
    }
    variables |= {name: environment[name] for name in PROXY_VARIABLES if name in environment}
    mounts: set[Path] = set()
    for option in ("index-url", "extra-index-url", "find-links"):
        for word in options.get(option, "").split():
            place = Path(word.removeprefix("file://"))
            if place.is_absolute():
                # A folder with an index links to files beside it.
                mounts.add(place if option == "find-links" else place.parent)
    return variables, sorted(mounts)


def ca_bundle(listing: str, environment: Mapping[str, str]) -> Path | None:
    """Find the certificates that this machine trusts, where it has been told to trust its own."""
    named = [line.partition("=")[2] for line in listing.splitlines() if ".cert=" in line]
    candidates = [str(ast.literal_eval(value)) for value in named]
    candidates += [environment.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate).resolve()
    return None


def for_pip() -> tuple[dict[str, str], dict[str, Path]]:
    """Give the variables and the mounts (there: here) with which pip works in a container."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    variables, folders = pip_settings(listing, os.environ)
    mounts = {str(path): path for path in folders if path.is_dir()}
    if bundle := ca_bundle(listing, os.environ):
        variables["PIP_CERT"] = CA_IN_CONTAINER
        mounts[CA_IN_CONTAINER] = bundle
    return variables, mounts
