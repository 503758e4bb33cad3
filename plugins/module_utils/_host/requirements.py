# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be known of a host before anything on it is changed.

PRIVATE to this collection.
"""

from __future__ import annotations

import errno
import os
import shlex
import socket
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Check
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    JsonError,
    parse_env,
    read_json_object,
)

GIB = 1024**3
IN_USE = "is in use by another program"

SUPPORTED = ("ubuntu 22.04", "ubuntu 24.04", "debian 12")


def parse_os_release(text: str) -> dict[str, str]:
    """Read /etc/os-release, whose values may be quoted as in a shell."""
    return {name: _unquoted(value) for name, value in parse_env(text).items()}


def _unquoted(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:  # a quotation mark without its other half
        return value


def check_system(os_release: str, machine: str) -> Check:
    """Compare the system, by the text of its /etc/os-release, with what the roles were made for."""
    values = parse_os_release(os_release)
    system = f"{values.get('ID', 'unknown')} {values.get('VERSION_ID', '')}".strip()
    seen = f"{values.get('PRETTY_NAME', system)} on {machine}"
    expected = "Ubuntu 22.04 (the reference), Ubuntu 24.04 or Debian 12, on x86_64"
    if system in SUPPORTED and machine == "x86_64":
        return Check.passed("system", expected=expected, seen=seen)
    return Check.failed("system", "host-untested", expected=expected, seen=seen)


def check_disk(path: str, min_free_gib: float) -> Check:
    """Measure the room where something big will be written; the path need not exist yet."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    stat = os.statvfs(place)
    free = stat.f_bavail * stat.f_frsize / GIB
    expected, seen = f"{min_free_gib:g} GiB free for {path}", f"{free:.1f} GiB free"
    if free >= min_free_gib:
        return Check.passed(f"disk {path}", expected=expected, seen=seen)
    failure = describe(
        "disk-full",
        {"path": str(place)},
        cause=f"{path} needs {min_free_gib:g} GiB and its file system has {free:.1f} GiB free.",
    )
    return Check.failed(f"disk {path}", failure, expected=expected, seen=seen)


def published_by_unit(config_file: str) -> set[int]:
    """Return the host ports that a unit of ours publishes already."""
    try:
        config = read_json_object(config_file)
    except (FileNotFoundError, JsonError):
        return set()
    options = [word for command in config.get("create", []) for word in command]
    return {int(word.split(":")[-2]) for word in options if word.startswith("--publish=")}


def bind_problem(address: str, port: int) -> str | None:
    """Say why a port cannot be listened on; None when it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return IN_USE
            if error.errno == errno.EADDRNOTAVAIL:
                return "cannot be had, as this host has no such address"
            return f"cannot be had: {error.strerror}"
    return None


def check_port(address: str, port: int, config_file: str) -> Check:
    """Tell whether the port is free, or ours already."""
    name, expected = f"port {port}", "free or ours"
    problem = bind_problem(address, port)
    if problem is None:
        return Check.passed(name, expected=expected, seen="free")
    if problem == IN_USE and port in published_by_unit(config_file):
        return Check.passed(name, expected=expected, seen="ours already")
    failure = describe(
        "port-in-use" if problem == IN_USE else "address-unavailable",
        {"port": str(port)},
        cause=f"{address} port {port} {problem}.",
    )
    return Check.failed(name, failure, expected=expected, seen=problem)
