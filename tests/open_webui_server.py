# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers as a real Open WebUI gave them, and notes of what was asked."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import Answer, Request

FIXTURES = Path(__file__).parent / "fixtures/open_webui"

Given = str | tuple[int, t.Any] | Exception
"""The name of a recorded answer, an answer written out, or what the network does."""


def recorded(name: str) -> t.Any:
    """Return the body of a recorded answer."""
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))["body"]


EMPTY_SYNC: dict[str, t.Any] = {
    "added": [],
    "modified": [],
    "deleted": [],
    "mkdir": [],
    "rmdir": [],
    "directory_map": {},
}

READS: dict[str, Given] = {
    "GET /api/version": "version",
    "POST /api/v1/auths/signin": "signin",
    "GET /api/v1/auths/": "session",
    "GET /api/v1/users/all": "users",
    "GET /api/v1/users/default/permissions": "permissions",
    "GET /api/v1/groups/": "groups",
    "GET /api/v1/groups/id/*/export": "group_export",
    "GET /api/v1/models/all": "models",
    "GET /api/models": "served",
    "GET /api/v1/knowledge/": "knowledge",
    "GET /api/v1/knowledge/*/files": "knowledge_files",
    "GET /api/v1/knowledge/*/files/pending": (200, []),
    "GET /api/v1/configs/export": "settings",
    "GET /api/v1/files/*": "file_completed",
}


@dataclass
class Server:
    """Stands in for the network: one answer for each route, or one after the other from a list."""

    answers: dict[str, Given | list[Given]] = field(default_factory=dict)
    asked: list[tuple[str, t.Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def __call__(self, request: Request, _timeout: float, /) -> Answer:
        """Answer one request."""
        route = self._route(request)
        body = (
            request.body if b"multipart" in _kind(request) else json.loads(request.body or b"null")
        )
        self.asked.append((route, body))
        self.tokens.append(request.headers.get("Authorization", ""))
        given = self.answers.get(route, READS.get(route))
        assert given is not None, f"nothing was recorded for {route}"
        if isinstance(given, list):
            given = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(given, Exception):
            raise given
        if isinstance(given, str):
            answer = json.loads((FIXTURES / f"{given}.json").read_text(encoding="utf-8"))
            return Answer(answer["status"], json.dumps(answer["body"]).encode())
        status, content = given
        return Answer(
            status, content if isinstance(content, bytes) else json.dumps(content).encode()
        )

    def _route(self, request: Request) -> str:
        """Name a route without the ids in it."""
        parts = urlsplit(request.url).path.split("/")
        shown = ["*" if len(part) == 36 and part.count("-") == 4 else part for part in parts]
        return f"{request.method} {'/'.join(shown)}"

    @property
    def changes(self) -> list[tuple[str, t.Any]]:
        """Return what was asked that could have changed something."""
        harmless = ("GET ", "POST /api/v1/auths/signin", "POST /api/v1/knowledge/*/sync/diff")
        return [asked for asked in self.asked if not asked[0].startswith(harmless)]


def _kind(request: Request) -> bytes:
    return request.headers.get("Content-Type", "").encode()
