# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of Open WebUI, presets and served ones: what has to change to make them as wanted.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import (
    Change,
    Grant,
    Mode,
    describe_grants,
    grant_list,
    grants_for,
    grants_of,
    only_differences,
    refuse_duplicates,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUI,
    OpenWebUIError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.knowledge import (
    knowledge_by_name,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.users import groups_by_name

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Entry = t.Mapping[str, t.Any]
Record = dict[str, t.Any]


def check_models(entries: Sequence[Entry]) -> None:
    """Refuse what can be seen to be wrong without asking anybody."""
    refuse_duplicates("Models", (entry["id"] for entry in entries))
    wrong = [entry["id"] for entry in entries if not re.fullmatch(r"\S{1,256}", entry["id"])]
    if wrong:
        raise OpenWebUIError(f"A model id has no spaces and at most 256 characters: {wrong}.")
    loops = [entry["id"] for entry in entries if entry["id"] == entry["base_model"]]
    if loops:
        raise OpenWebUIError(
            f"A model cannot be based on itself: {', '.join(loops)}. Leave base_model out."
        )


@dataclass(frozen=True)
class _Surroundings:
    """What the entries refer to by name."""

    records: Mapping[str, Record]
    group_ids: Mapping[str, str]
    knowledge: Mapping[str, Record]
    mode: Mode

    @property
    def group_names(self) -> dict[str, str]:
        return {group_id: name for name, group_id in self.group_ids.items()}


def plan_models(client: OpenWebUI, entries: Sequence[Entry], mode: Mode) -> list[Change]:
    """Compare the wanted models with those that are registered."""
    around = _Surroundings(
        records={record["id"]: record for record in client.get("/api/v1/models/all")},
        group_ids={name: group["id"] for name, group in groups_by_name(client).items()},
        knowledge=knowledge_by_name(client) if any(entry["knowledge"] for entry in entries) else {},
        mode=mode,
    )
    served = {model["id"] for model in client.get("/api/models")["data"]}
    changes: list[Change] = []
    for entry in _with_shared_bases(entries, around):
        engine = entry["base_model"] or entry["id"]
        if entry["state"] == "present" and engine not in served:
            names = ", ".join(sorted(served)) or "nothing"
            mode.warn(f"Model {entry['id']}: {engine} is not served now (served: {names}).")
        change = _change(client, entry, around)
        if change:
            changes.append(change)
    return changes


def _with_shared_bases(entries: Sequence[Entry], around: _Surroundings) -> list[Entry]:
    """Share base models with those who may use their presets, as Open WebUI asks for both."""
    listed = {entry["id"] for entry in entries}
    needed: dict[str, set[Grant]] = {}
    for entry in entries:
        base = entry["base_model"]
        if entry["state"] == "present" and base and base not in listed:
            grants = grants_for(entry, around.group_ids, f"Model {entry['id']}", around.mode)
            needed.setdefault(base, set()).update(grants)
    shared = [
        {"id": base, "state": "present", "base_model": None, "grants": grants}
        for base, grants in needed.items()
        if not grants <= grants_of(around.records.get(base, {}))
    ]
    nothing = dict.fromkeys(
        ("name", "system", "params", "description", "knowledge", "capabilities", "enabled")
    )
    return [*({**nothing, **base} for base in shared), *entries]


def _change(client: OpenWebUI, entry: Entry, around: _Surroundings) -> Change | None:
    model_id = entry["id"]
    record = around.records.get(model_id)
    if entry["state"] == "absent":
        if not record:
            return None
        shown = {"name": record["name"], "base_model": record["base_model_id"]}
        return Change(
            model_id,
            shown,
            None,
            lambda: client.post("/api/v1/models/model/delete", {"id": model_id}),
        )
    blank = {
        "id": model_id,
        "name": model_id,
        "base_model_id": None,
        "meta": {},
        "params": {},
        "is_active": True,
    }
    before: Record = record or blank
    after = _wanted_record(entry, before, around)
    if record and _comparable(before, around) == _comparable(after, around):
        return None
    path = "/api/v1/models/model/update" if record else "/api/v1/models/create"

    def make() -> None:
        client.post(path, after)

    if not record:
        return Change(model_id, None, _comparable(after, around), make)
    shown_before, shown_after = only_differences(
        _comparable(before, around), _comparable(after, around)
    )
    return Change(model_id, shown_before, shown_after, make)


def _wanted_record(entry: Entry, before: Record, around: _Surroundings) -> Record:
    """Lay the entry over the record: what the entry leaves out stays as it is."""
    meta = dict(before["meta"] or {})
    params = {key: value for key, value in (before["params"] or {}).items() if value is not None}
    if entry["description"] is not None:
        meta["description"] = entry["description"]
    if entry["capabilities"] is not None:
        meta["capabilities"] = {**(meta.get("capabilities") or {}), **entry["capabilities"]}
    if entry["knowledge"] is not None:
        meta["knowledge"] = _knowledge_items(entry, around)
    if entry["params"] is not None:
        params = {**entry["params"], **({"system": params["system"]} if "system" in params else {})}
    if entry["system"] is not None:
        params["system"] = entry["system"]
    if "grants" in entry:  # a base model that presets are shared through keeps who has it already
        grants = entry["grants"] | grants_of(before)
    else:
        grants = grants_for(entry, around.group_ids, f"Model {entry['id']}", around.mode)
    return {
        "id": entry["id"],
        "name": entry["name"] or before["name"],
        "base_model_id": entry["base_model"] or before["base_model_id"],
        "meta": meta,
        "params": params,
        "access_grants": grant_list(grants),
        "is_active": before["is_active"] if entry["enabled"] is None else entry["enabled"],
    }


def _knowledge_items(entry: Entry, around: _Surroundings) -> list[dict[str, str]]:
    known = around.knowledge
    unknown = sorted(set(entry["knowledge"]) - set(known))
    if unknown:
        names = ", ".join(unknown)
        around.mode.missing(f"Model {entry['id']}: no knowledge base named {names}.")
    ids = {name: known[name]["id"] if name in known else "" for name in entry["knowledge"]}
    return [{"id": ids[name], "name": name, "type": "collection"} for name in entry["knowledge"]]


def _comparable(record: Record, around: _Surroundings) -> Record:
    """Pick what the module manages, in the form that a diff shows."""
    meta = record["meta"] or {}
    return {
        "name": record["name"],
        "base_model": record["base_model_id"],
        "enabled": record["is_active"],
        "params": {
            key: value for key, value in (record["params"] or {}).items() if value is not None
        },
        "description": meta.get("description"),
        "capabilities": meta.get("capabilities") or {},
        "knowledge": [item.get("name") for item in meta.get("knowledge") or []],
        "visibility": describe_grants(grants_of(record), around.group_names),
    }
