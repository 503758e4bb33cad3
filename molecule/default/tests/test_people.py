# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""People, groups, knowledge and models follow the inventory: made, kept, changed, removed."""

from __future__ import annotations

import copy
import json
import re
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui import Account, OpenWebUI
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui_info import gather

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

PAGE = "sparerig-open-webui"
MODEL = "tiny-llama-gptq"
LISTS = {"users": "email", "groups": "name", "knowledge": "name", "models": "id"}
CONTENT: dict[str, list[dict[str, t.Any]]] = {
    "users": [
        {"email": "ada@example.com", "name": "Ada", "password_file": "/etc/sparerig/ada.password"},
        {"email": "eve@example.com", "password": "quite-long-for-eve", "role": "pending"},
    ],
    "groups": [{"name": "Family", "members": ["ada@example.com"]}],
    "knowledge": [{"name": "Papers", "src": ["/srv/papers"]}],
    "models": [
        {"id": "short", "base_model": MODEL, "system": "Be short.", "knowledge": ["Papers"]}
    ],
}


@pytest.fixture(scope="module")
def page(rig: Rig) -> OpenWebUI:
    """Return the page, signed in as its administrator."""
    password = rig.secret(PAGE, "WEBUI_ADMIN_PASSWORD")
    url = f"http://{rig.address}:8080"
    return OpenWebUI(Account(url, "admin@localhost.localdomain", password))


def apply(play: Play, content: dict[str, list[dict[str, t.Any]]]) -> int:
    """Run the play with this content; return how many tasks changed something."""
    variables = json.dumps({f"open_webui_{name}": entries for name, entries in content.items()})
    done = play("-e", variables, playbook="playbooks/serve.yml")
    assert done.returncode == 0, done.stdout[-4000:]
    return sum(int(count) for count in re.findall(r"changed=(\d+)", done.stdout))


def test_content_follows_the_inventory(rig: Rig, play: Play, page: OpenWebUI) -> None:
    rig.root("mkdir -p /srv/papers")
    rig.root("sh -c 'echo The boiler is 12 years old. > /srv/papers/boiler.txt'")
    assert apply(play, CONTENT) >= len(LISTS)
    facts = gather(page, list(LISTS), None)
    assert {"email": "ada@example.com", "name": "Ada", "role": "user"} in facts["users"]
    assert facts["groups"] == [
        {"name": "Family", "description": "", "members": ["ada@example.com"]}
    ]
    assert facts["knowledge"][0]["files"] == [{"name": "boiler.txt", "status": "completed"}]
    assert "short" in [model["id"] for model in facts["models"]]

    assert apply(play, CONTENT) == 0

    other = copy.deepcopy(CONTENT)
    other["users"][1]["role"] = "user"
    other["groups"][0]["members"].append("eve@example.com")
    rig.root("sh -c 'echo The roof is new. > /srv/papers/roof.txt'")
    rig.root("rm /srv/papers/boiler.txt")
    assert apply(play, other) == 3
    facts = gather(page, list(LISTS), None)
    assert facts["groups"][0]["members"] == ["ada@example.com", "eve@example.com"]
    assert facts["knowledge"][0]["files"] == [{"name": "roof.txt", "status": "completed"}]

    gone = {
        name: [{key: entry[key], "state": "absent"} for entry in CONTENT[name]]
        for name, key in LISTS.items()
    }
    assert apply(play, gone) == len(LISTS)
    facts = gather(page, list(LISTS), None)
    assert [user["role"] for user in facts["users"]] == ["admin"]
    assert not facts["groups"]
    assert not facts["knowledge"]
    assert apply(play, gone) == 0


def test_documents_work_without_internet(page: OpenWebUI) -> None:
    facts = gather(page, ["documents"], MODEL)
    assert facts["documents_ok"], facts["checks"]
