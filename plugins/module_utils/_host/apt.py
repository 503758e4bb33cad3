# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the packages that are removed together: the named ones, and those that only they need."""

from __future__ import annotations

import re
import typing as t
from fnmatch import fnmatchcase

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

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


def known(status: str, patterns: Sequence[str]) -> list[str]:
    """List the packages that dpkg knows by patterns, those with only settings left included."""
    found = []
    for stanza in status.split("\n\n"):
        name = re.search(r"^Package: (\S+)", stanza, re.MULTILINE)
        state = re.search(r"^Status: \S+ \S+ (\S+)", stanza, re.MULTILINE)
        if name is None or state is None or state[1] == "not-installed":
            continue
        foreign = re.search(r"^Architecture: (i386|armhf)$", stanza, re.MULTILINE)
        full_name = f"{name[1]}:{foreign[1]}" if foreign else name[1]
        if any(fnmatchcase(full_name, pattern) for pattern in patterns):
            found.append(full_name)
    return sorted(found)


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
