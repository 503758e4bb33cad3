# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users and groups of Open WebUI: what has to change to make them as wanted.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import os
import re
import secrets
import typing as t
from dataclasses import replace
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import (
    Change,
    Mode,
    only_differences,
    refuse_duplicates,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUI,
    OpenWebUIError,
    can_sign_in,
    quoted,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Entry = t.Mapping[str, t.Any]

_ADDRESS = re.compile(r"[^@\s]+@([^@\s]+\.[^@\s]+|localhost)")
_ALWAYS = "always"
_AS_IT_WAS = "as it was"  # the words that a diff shows in place of a password
_SET_ANEW = "set anew"
_LONGEST_PASSWORD = 72  # bytes: bcrypt reads no further, so Open WebUI refuses more


def check_users(entries: Sequence[Entry]) -> None:
    """Refuse what can be seen to be wrong without asking anybody."""
    refuse_duplicates("Users", (entry["email"].lower() for entry in entries))
    wrong = sorted(entry["email"] for entry in entries if not _ADDRESS.fullmatch(entry["email"]))
    if wrong:
        raise OpenWebUIError(
            f"Not an e-mail address: {', '.join(wrong)}. Write it as name@host.domain."
        )
    long = [e["email"] for e in entries if len((e["password"] or "").encode()) > _LONGEST_PASSWORD]
    if long:
        names = ", ".join(long)
        limit = f"longer than {_LONGEST_PASSWORD} bytes"
        raise OpenWebUIError(f"The password of {names} is {limit}: Open WebUI takes no more.")


def plan_users(client: OpenWebUI, entries: Sequence[Entry]) -> list[Change]:
    """Compare the wanted users with those that exist."""
    existing = {user["email"].lower(): user for user in client.get("/api/v1/users/all")["users"]}
    _keep_own_account(client, entries)
    without = [
        entry["email"]
        for entry in entries
        if entry["state"] == "present"
        and entry["email"].lower() not in existing
        and not (entry["password"] or entry["password_file"])
    ]
    if without:
        names = ", ".join(without)
        message = f"New users need a password or a password_file: {names}. Nothing was changed."
        raise OpenWebUIError(message)
    changes = (
        _user_change(client, entry, existing.get(entry["email"].lower())) for entry in entries
    )
    return [change for change in changes if change]


def _keep_own_account(client: OpenWebUI, entries: Sequence[Entry]) -> None:
    for entry in entries:
        own = entry["email"].lower() == client.account.email.lower()
        if own and (entry["state"] == "absent" or entry["role"] != "admin"):
            message = (
                f"{entry['email']} is the account this play signs in with: "
                "it stays, and stays admin. Nothing was changed."
            )
            raise OpenWebUIError(message)


def _user_change(client: OpenWebUI, entry: Entry, user: Entry | None) -> Change | None:
    email = entry["email"].lower()
    if entry["state"] == "absent":
        if not user:
            return None
        shown = {"name": user["name"], "role": user["role"]}
        return Change(
            email, shown, None, lambda: client.delete(f"/api/v1/users/{quoted(user['id'])}")
        )
    password = _Password(entry)
    if not user:
        wanted = {"name": entry["name"] or email.partition("@")[0], "role": entry["role"]}

        def create() -> None:
            client.post("/api/v1/auths/add", {**wanted, "email": email, "password": password.get()})

        return Change(email, None, wanted, create)
    before = {"name": user["name"], "role": user["role"], "password": _AS_IT_WAS}
    after = {**before, "role": entry["role"], "name": entry["name"] or user["name"]}
    if entry["update_password"] == _ALWAYS and not password.works(client, email):
        after["password"] = _SET_ANEW
    before, after = only_differences(before, after)
    if not after:
        return None

    def update() -> None:
        form = {key: value for key, value in after.items() if key != "password"}
        if "password" in after:
            form["password"] = password.get()
        client.post(f"/api/v1/users/{quoted(user['id'])}/update", form)

    return Change(email, before, after, update)


class _Password:
    """A password that is given, or kept in a file which is made when it is first needed."""

    def __init__(self, entry: Entry) -> None:
        self._given: str | None = entry["password"]
        self._path: str | None = entry["password_file"]

    def _known(self) -> str | None:
        if self._given or not self._path:
            return self._given
        try:
            return Path(self._path).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OpenWebUIError(
                f"The password file {self._path} cannot be read: {error.strerror}."
            ) from error

    def works(self, client: OpenWebUI, email: str) -> bool:
        known = self._known()
        if known:
            return can_sign_in(
                replace(client.account, email=email, password=known), client.transport
            )
        return not self._path

    def get(self) -> str:
        known = self._known()
        if known or not self._path:
            return known or ""
        made = secrets.token_urlsafe(15)
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(made + "\n")
        except OSError as error:
            raise OpenWebUIError(
                f"The password file {self._path} cannot be written: {error.strerror}."
            ) from error
        return made


def check_groups(entries: Sequence[Entry]) -> None:
    """Refuse what can be seen to be wrong without asking anybody."""
    refuse_duplicates("Groups", (entry["name"] for entry in entries))


def groups_by_name(client: OpenWebUI) -> dict[str, Entry]:
    """List the groups; refuse to guess between two of one name."""
    groups = client.get("/api/v1/groups/")
    refuse_duplicates("Groups in Open WebUI", (group["name"] for group in groups))
    return {group["name"]: group for group in groups}


def plan_groups(client: OpenWebUI, entries: Sequence[Entry], mode: Mode) -> list[Change]:
    """Compare the wanted groups, their permissions and members with those that exist."""
    existing = groups_by_name(client)
    ids = {user["email"].lower(): user["id"] for user in client.get("/api/v1/users/all")["users"]}
    _known_members(entries, ids, mode)
    if any(entry["permissions"] for entry in entries):
        known = client.get("/api/v1/users/default/permissions")
        for entry in entries:
            _known_permissions(entry, known)
    changes = (_group_change(client, entry, existing.get(entry["name"]), ids) for entry in entries)
    return [change for change in changes if change]


def _known_members(entries: Sequence[Entry], ids: Mapping[str, str], mode: Mode) -> None:
    wanted = {
        email.lower() for e in entries if e["state"] == "present" for email in e["members"] or []
    }
    unknown = sorted(wanted - set(ids))
    if unknown:
        mode.missing(f"No such users: {', '.join(unknown)}. Make them with open_webui_user first.")


def _known_permissions(entry: Entry, known: Mapping[str, t.Any]) -> None:
    for area, switches in (entry["permissions"] or {}).items():
        if area not in known or not isinstance(switches, dict):
            areas = ", ".join(known)
            message = f"Group {entry['name']}: no permissions area {area!r}; there are {areas}."
            raise OpenWebUIError(message)
        wrong = sorted(
            name
            for name, value in switches.items()
            if name not in known[area] or not isinstance(value, bool)
        )
        if wrong:
            allowed = ", ".join(known[area])
            message = (
                f"Group {entry['name']}: {area} has no switch {', '.join(wrong)}, "
                f"or its value is neither true nor false; there are {allowed}."
            )
            raise OpenWebUIError(message)


def _group_change(
    client: OpenWebUI, entry: Entry, group: Entry | None, ids: Mapping[str, str]
) -> Change | None:
    name = entry["name"]
    if entry["state"] == "absent":
        if not group:
            return None
        path = f"/api/v1/groups/id/{quoted(group['id'])}/delete"
        shown = {"description": group["description"]}
        return Change(name, shown, None, lambda: client.delete(path))
    before = _group_state(client, group, ids)
    after = {
        "description": before["description"]
        if entry["description"] is None
        else entry["description"],
        "permissions": _merged(before["permissions"], entry["permissions"] or {}),
        "members": before["members"],
    }
    if entry["members"] is not None:
        after["members"] = sorted({email.lower() for email in entry["members"]})
    if group and after == before:
        return None

    def make() -> None:
        form = {
            "name": name,
            "description": after["description"],
            "permissions": after["permissions"],
        }
        path = (
            f"/api/v1/groups/id/{quoted(group['id'])}/update" if group else "/api/v1/groups/create"
        )
        group_path = f"/api/v1/groups/id/{quoted(client.post(path, form)['id'])}"
        added = [ids[email] for email in after["members"] if email not in before["members"]]
        gone = [
            ids.get(email, email) for email in before["members"] if email not in after["members"]
        ]
        if added:
            client.post(f"{group_path}/users/add", {"user_ids": added})
        if gone:
            client.post(f"{group_path}/users/remove", {"user_ids": gone})

    if not group:
        return Change(name, None, after, make)
    shown_before, shown_after = only_differences(before, after)
    return Change(name, shown_before, shown_after, make)


def _group_state(
    client: OpenWebUI, group: Entry | None, ids: Mapping[str, str]
) -> dict[str, t.Any]:
    if not group:
        return {"description": "", "permissions": {}, "members": []}
    emails = {user_id: email for email, user_id in ids.items()}
    members = client.get(f"/api/v1/groups/id/{quoted(group['id'])}/export")["user_ids"]
    return {
        "description": group["description"],
        "permissions": group["permissions"] or {},
        "members": sorted(emails.get(user_id, user_id) for user_id in members),
    }


def _merged(base: Mapping[str, t.Any], top: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Lay switches over switches, two levels deep, as Open WebUI keeps them."""
    return {
        **base,
        **{area: {**(base.get(area) or {}), **switches} for area, switches in top.items()},
    }
