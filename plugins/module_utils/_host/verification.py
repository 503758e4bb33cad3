# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules that verify a service share: their options, their deadline, their answer."""

from __future__ import annotations

import typing as t
import urllib.parse

from ansible_collections.sparerig.llm.plugins.module_utils._host.files import parse_env

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host
    from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Deadline


class OptionError(Exception):
    """An option's value that cannot be meant; said before anything is asked."""


def check_numbers(
    params: Mapping[str, t.Any], *, positive: Sequence[str], not_negative: Sequence[str] = ()
) -> None:
    """Refuse numbers that make no sense; None is none given."""
    for name in positive:
        if params[name] is not None and not params[name] > 0:
            raise OptionError(f"{name} is {params[name]}: it must be above 0")
    for name in not_negative:
        if params[name] is not None and not params[name] >= 0:
            raise OptionError(f"{name} is {params[name]}: it must be 0 or more")


def check_url(name: str, url: str) -> None:
    """Refuse what is no address of a server."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise OptionError(f"{name} is '{url}': it must look like http://127.0.0.1:8000")
    if parts.username is not None or parts.query or parts.fragment:
        raise OptionError(
            f"{name} is an address with a user, a query or a fragment: leave them out"
        )
    if parts.path.rstrip("/").endswith("/v1"):
        raise OptionError(
            f"{name} is '{url}': leave out /v1, it is the server's address that is wanted"
        )


def read_secret(host: Host, option: str, path: str, name: str) -> str:
    """Read one value from a file of NAME=value lines, as Docker and systemd take them."""
    text = host.read(path)
    if text is None:
        raise OptionError(
            f"{option} {path} is not there or not readable: run with become, or correct it"
        )
    value = parse_env(text).get(name, "").strip()
    if not value:
        raise OptionError(f"{option} {path} has no line {name}=VALUE")
    return value


def give_up(names: Sequence[str], deadline: Deadline, evidence: Evidence) -> None:
    """Leave checks out for want of time, which must not look like success."""
    if evidence.first_failure is None:
        expected = f"all checks within {deadline.seconds:g} s"
        seen = f"no time left for {names[0]}"
        evidence.failed("deadline", "deadline-spent", expected=expected, seen=seen)
    evidence.skip(names, "the checks before it used up the deadline")


def outcome(evidence: Evidence) -> dict[str, t.Any]:
    """Return what such a module answers of its checks."""
    failure = evidence.first_failure
    return {
        "checks": evidence.checks,
        "report": evidence.report(),
        "failure": failure.failure if failure else "",
    }
