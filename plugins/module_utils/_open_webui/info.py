# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in Open WebUI, in the words that the modules' options use.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import (
    describe_grants,
    grants_of,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUI,
    quoted,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.document_probe import (
    probe_documents,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.knowledge import (
    knowledge_by_name,
)

if t.TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Facts = dict[str, t.Any]

UNITS = {"unit": "sparerig-vllm", "web_unit": "sparerig-open-webui"}
"""What the roles call the services, for the commands in the evidence."""

_MANY = 10_000
_SECRET = re.compile(r"(key|keys|secret|password|token)s?$", re.IGNORECASE)
HIDDEN = "(hidden)"


def gather(client: OpenWebUI, wanted: Collection[str], model: str | None) -> Facts:
    """Read what is asked for."""
    readers = {"users": _users, "groups": _groups, "models": _models, "knowledge": _knowledge}
    facts: Facts = {name: read(client) for name, read in readers.items() if name in wanted}
    if "settings" in wanted:
        facts["settings"] = shown_settings(client.get("/api/v1/configs/export"))
    if "documents" in wanted:
        evidence = Evidence(UNITS)
        probe_documents(client, model, evidence)
        facts["checks"] = evidence.checks
        facts["documents_ok"] = evidence.first_failure is None
    return facts


def shown_settings(settings: Mapping[str, t.Any]) -> Facts:
    """Hide what could be a secret."""
    return {
        name: HIDDEN if _SECRET.search(name) and value else value
        for name, value in settings.items()
    }


def _users(client: OpenWebUI) -> list[Facts]:
    users = client.get("/api/v1/users/all")["users"]
    return [{key: user[key] for key in ("email", "name", "role")} for user in users]


def _groups(client: OpenWebUI) -> list[Facts]:
    emails = {user["id"]: user["email"] for user in client.get("/api/v1/users/all")["users"]}
    groups = []
    for group in client.get("/api/v1/groups/"):
        members = client.get(f"/api/v1/groups/id/{quoted(group['id'])}/export")["user_ids"]
        shown = sorted(emails.get(user_id, user_id) for user_id in members)
        groups.append(
            {"name": group["name"], "description": group["description"], "members": shown}
        )
    return groups


def _models(client: OpenWebUI) -> list[Facts]:
    records = {record["id"]: record for record in client.get("/api/v1/models/all")}
    names = {group["id"]: group["name"] for group in client.get("/api/v1/groups/")}
    return [
        {
            "id": model["id"],
            "name": model["name"],
            "base_model": records.get(model["id"], {}).get("base_model_id"),
            "visibility": describe_grants(grants_of(records[model["id"]]), names)
            if model["id"] in records
            else "not registered",
        }
        for model in client.get("/api/models")["data"]
    ]


def _knowledge(client: OpenWebUI) -> list[Facts]:
    names = {group["id"]: group["name"] for group in client.get("/api/v1/groups/")}
    found = []
    for name, record in knowledge_by_name(client).items():
        path = f"/api/v1/knowledge/{quoted(record['id'])}/files"
        files = client.get(path, limit=_MANY)["items"]
        found.append(
            {
                "name": name,
                "description": record["description"],
                "visibility": describe_grants(grants_of(record), names),
                "files": [_file(file) for file in files],
            }
        )
    return found


def _file(file: Facts) -> Facts:
    folder = file.get("directory_path")
    name = f"{folder}/{file['filename']}" if folder else file["filename"]
    return {"name": name, "status": (file.get("data") or {}).get("status", "completed")}
