# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What apt and dpkg know of a host: packages, repositories, locks, and what would go together."""

from __future__ import annotations

import fcntl
import re
import struct
import typing as t
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._host.command import LocalHost

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

# --- Packages -----------------------------------------------------------------------------------

INSTALLED: t.Final = "installed"


@dataclass(frozen=True)
class Package:
    """A package as dpkg or the archive knows it."""

    name: str
    version: str
    depends: str = ""
    want: str = "install"  # hold: somebody put a hold on it
    state: str = INSTALLED  # dpkg's third word: config-files, half-installed, unpacked, ...

    @property
    def held(self) -> bool:
        """Whether apt is told to leave it alone."""
        return self.want == "hold"


def parse_stanzas(text: str, wanted: re.Pattern[str]) -> dict[str, Package]:
    """Parse what dpkg's status file or apt-cache show says, newest version first, by name.

    A package of another architecture is called NAME:ARCHITECTURE, as dpkg itself does.
    """
    packages: dict[str, Package] = {}
    for stanza in text.split("\n\n"):
        name = re.match(r"\s*Package: (\S+)", stanza)
        if name is None or not wanted.search(name[1]):
            continue
        fields = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", stanza, re.MULTILINE))
        words = fields.get("Status", "install ok installed").split()
        foreign = fields.get("Architecture") in {"i386", "armhf"}
        key = f"{name[1]}:{fields['Architecture']}" if foreign else name[1]
        packages.setdefault(
            key,
            Package(
                name=key,
                version=fields.get("Version", ""),
                depends=", ".join(
                    value for key, value in fields.items() if key in {"Depends", "Pre-Depends"}
                ),
                want=words[0],
                state=words[-1],
            ),
        )
    return packages


def known(status: str, patterns: Sequence[str]) -> list[str]:
    """List the packages that dpkg knows by patterns, those with only settings left included."""
    packages = parse_stanzas(status, re.compile(""))
    return sorted(
        name
        for name, package in packages.items()
        if package.state != "not-installed"
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def dpkg_interrupted(host: Host) -> bool:
    """Whether an installation was cut off half-way, by a power cut for instance.

    Whatever it was of: dpkg does nothing else before that is finished.
    """
    status = host.read("/var/lib/dpkg/status") or ""
    unfinished = re.search(r"^Status: \S+ \S+ (unpacked|half-|triggers-)", status, re.MULTILINE)
    journal = any(name.isdigit() for name in host.names("/var/lib/dpkg/updates"))
    return bool(unfinished) or journal


# --- What goes together -------------------------------------------------------------------------

_TIMEOUT: t.Final = 120.0
_SIMULATE: t.Final = (
    "apt-get",
    "--simulate",
    "--allow-change-held-packages",
    "-o",
    "Debug::NoLocking=1",
)


class AptRefusesError(Exception):
    """Apt can't say what it would remove; the text is its own complaint."""


def freed_by(host: Host, names: Iterable[str]) -> list[str]:
    """List what nothing needs any more once the named packages are gone.

    What nothing needs already is not ours to tidy up, and is left out.
    """
    names = list(names)
    before = _removed(host, "autoremove")
    after = _removed(host, "purge", "--autoremove", *names)
    return sorted(after - before - set(names))


def _removed(host: Host, *what: str) -> set[str]:
    answer = host.run([*_SIMULATE, *what], timeout=_TIMEOUT)
    if answer is None or not answer.ok:
        said = answer.stderr.strip() if answer else "there is no program apt-get"
        raise AptRefusesError(f"'apt-get {' '.join(what)}' would not work: {said}")
    return set(re.findall(r"^(?:Remv|Purg) (\S+)", answer.stdout, re.MULTILINE))


# --- Repositories -------------------------------------------------------------------------------

_NVIDIA_REPOSITORIES: t.Final = re.compile(r"nvidia\.github\.io|developer\.download\.nvidia\.com")


@dataclass(frozen=True)
class AptSource:
    """A repository, as one file under /etc/apt names it."""

    file: str
    uri: str
    signed_by: str


def read_apt_sources(host: Host) -> list[AptSource]:
    """Read the repositories that apt's files name, in both of apt's formats."""
    folder = "/etc/apt/sources.list.d"
    files = ["/etc/apt/sources.list", *(f"{folder}/{name}" for name in host.names(folder))]
    sources: list[AptSource] = []
    for file in files:
        text = host.read(file) or ""
        if file.endswith(".sources"):
            sources += _deb822_sources(file, text)
        elif file.endswith(".list"):
            sources += _one_line_sources(file, text)
    return sources


def _one_line_sources(file: str, text: str) -> Iterable[AptSource]:
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[([^]]*)\]\s+)?(\S+)", line)
        if match:
            key = re.search(r"signed-by=(\S+)", match[1] or "")
            yield AptSource(file, match[2].rstrip("/"), key[1] if key else "")


def _deb822_sources(file: str, text: str) -> Iterable[AptSource]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            key.lower(): value.strip()
            for key, value in re.findall(r"^([A-Za-z-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            yield AptSource(file, uri.rstrip("/"), fields.get("signed-by", ""))


def conflicting_sources(sources: Sequence[AptSource]) -> list[tuple[AptSource, AptSource]]:
    """Find pairs that give one of NVIDIA's repositories two keys: apt refuses all lists then."""
    ours = [s for s in sources if _NVIDIA_REPOSITORIES.search(s.uri)]
    return [
        (first, second)
        for number, first in enumerate(ours)
        for second in ours[number + 1 :]
        if same_repository(first.uri, second.uri) and first.signed_by != second.signed_by
    ]


def same_repository(first: str, second: str) -> bool:
    """Whether two URIs name one repository; $(ARCH) is apt's own way to write the architecture."""
    return _spelt_out(first) == _spelt_out(second)


def _spelt_out(uri: str) -> str:
    return uri.replace("$(ARCH)", "amd64").rstrip("/")


# --- Locks --------------------------------------------------------------------------------------

_DPKG_LOCKS: t.Final = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")


def apt_lock_holder() -> str:
    """Name the program that holds dpkg's lock; empty when nobody does."""
    for lock in _DPKG_LOCKS:
        try:
            with Path(lock).open("rb") as file:
                asked = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
                kind, *_unused, pid = struct.unpack(
                    "hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked)
                )
        except OSError:
            continue
        if kind != fcntl.F_UNLCK:
            name = (LocalHost().read(f"/proc/{pid}/comm") or "a program").strip()
            return f"{name} (process {pid})"
    return ""
