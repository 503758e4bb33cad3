# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules for Open WebUI share: options, a plan of changes, and making them.

A planner compares what is wanted with what is there and returns changes; nothing has been changed
yet. Check mode stops here, so it predicts with the very code that acts.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    PUBLIC,
    Account,
    OpenWebUI,
    OpenWebUIError,
    SessionFile,
    read_credentials,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Options = dict[str, t.Any]
Grant = tuple[str, str, str]

CONNECTION_OPTIONS: Options = {
    "url": {"type": "str", "default": "http://127.0.0.1:8080"},
    "email": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "credentials_file": {"type": "path"},
    "timeout": {"type": "int", "default": 120},
    "validate_certs": {"type": "bool", "default": True},
}
CONNECTION_RULES: Options = {
    "required_one_of": [("password", "credentials_file")],
    "mutually_exclusive": [("password", "credentials_file")],
    "required_by": {"password": "email"},
}
SHARING_OPTIONS: Options = {
    "visibility": {"type": "str", "choices": ["public", "private", "groups"], "default": "public"},
    "groups": {"type": "list", "elements": "str"},
}

SHARING_RULES: Options = {"required_if": [("visibility", "groups", ["groups"])]}


@dataclass(frozen=True)
class Change:
    """One change: what it concerns, how that looks before and after, and how to make it."""

    name: str
    before: Mapping[str, t.Any] | None
    after: Mapping[str, t.Any] | None
    make: Callable[[], None] = field(repr=False)

    @property
    def action(self) -> str:
        """Say it in one word."""
        if self.before is None:
            return "created"
        return "removed" if self.after is None else "changed"


@dataclass(frozen=True)
class Mode:
    """How the play runs."""

    check: bool
    warn: Callable[[str], None]

    def missing(self, what: str) -> None:
        """Stop for something that is not there; in check mode another task may make it."""
        if not self.check:
            raise OpenWebUIError(f"{what} Nothing was changed.")
        self.warn(f"{what} Outside check mode this fails, unless an earlier task makes it.")


def account_from(params: Mapping[str, t.Any]) -> Account:
    """Build the account from module parameters, reading the credentials file when there is one."""
    email, password = params["email"], params["password"]
    if params["credentials_file"]:
        known_email, password = read_credentials(params["credentials_file"])
        email = email or known_email
    if not email:
        file = params["credentials_file"]
        message = f"Whose password is it? Give email, or put WEBUI_ADMIN_EMAIL into {file}."
        raise OpenWebUIError(message)
    return Account(
        params["url"], email, password, float(params["timeout"]), params["validate_certs"]
    )


def connect(params: Mapping[str, t.Any], mode: Mode) -> OpenWebUI:
    """Reach Open WebUI as the parameters of a module say."""
    kept = params["credentials_file"] and Path(f"{params['credentials_file']}.session")
    sessions = SessionFile(kept, keep=not mode.check) if kept else None
    return OpenWebUI(account_from(params), warn=mode.warn, sessions=sessions)


def apply_changes(changes: Sequence[Change], mode: Mode) -> dict[str, t.Any]:
    """Make the changes in order, unless only asked about; return what a module answers."""
    done: list[str] = []
    for change in [] if mode.check else changes:
        try:
            change.make()
        except OpenWebUIError as error:
            finished = f" Done before it: {', '.join(done)}." if done else ""
            raise OpenWebUIError(f"{change.name}: {error}{finished}") from error
        done.append(change.name)
    return {
        "changed": bool(changes),
        "changes": [{"name": change.name, "action": change.action} for change in changes],
        "diff": {
            "before": {
                change.name: change.before for change in changes if change.before is not None
            },
            "after": {change.name: change.after for change in changes if change.after is not None},
        },
    }


def refuse_duplicates(what: str, names: Iterable[str]) -> None:
    """Stop before the first change when a list names the same thing twice."""
    seen: set[str] = set()
    twice = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if twice:
        raise OpenWebUIError(
            f"{what} listed more than once: {', '.join(twice)}. Keep one entry of each."
        )


def grants_for(
    entry: Mapping[str, t.Any], group_ids: Mapping[str, str], what: str, mode: Mode
) -> set[Grant]:
    """Turn visibility and groups of an entry into Open WebUI's access grants."""
    if entry["visibility"] == "public":
        return {(PUBLIC["principal_type"], PUBLIC["principal_id"], PUBLIC["permission"])}
    if entry["visibility"] == "private":
        return set()
    unknown = sorted(set(entry["groups"]) - set(group_ids))
    if unknown:
        known = ", ".join(sorted(group_ids)) or "none"
        mode.missing(f"{what}: no group named {', '.join(unknown)} (there are: {known}).")
    return {("group", group_ids.get(name, name), "read") for name in entry["groups"]}


def grants_of(record: Mapping[str, t.Any]) -> set[Grant]:
    """Read the access grants of a record, without what the server numbers them with."""
    return {
        (g["principal_type"], g["principal_id"], g["permission"])
        for g in record.get("access_grants") or []
    }


def grant_list(grants: Iterable[Grant]) -> list[dict[str, str]]:
    """Write access grants the way the API takes them."""
    return [
        dict(zip(("principal_type", "principal_id", "permission"), grant, strict=True))
        for grant in sorted(grants)
    ]


def describe_grants(grants: Iterable[Grant], group_names: Mapping[str, str]) -> str | list[str]:
    """Say in a diff who may see something."""
    grants = set(grants)
    if any(kind in ("user", "anyone") and who == "*" for kind, who, _unused in grants):
        return "public"
    return (
        sorted(f"{kind} {group_names.get(who, who)}" for kind, who, _unused in grants) or "private"
    )


def only_differences(
    before: Mapping[str, t.Any], after: Mapping[str, t.Any]
) -> tuple[Options, Options]:
    """Keep what differs, so that a diff shows the change and not the whole thing."""
    keys = [key for key in after if before.get(key) != after[key]]
    return {key: before.get(key) for key in keys}, {key: after[key] for key in keys}
