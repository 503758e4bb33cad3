# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules for Open WebUI, through main(), against answers that a real one gave."""

from __future__ import annotations

import hashlib
import stat
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui import client
from ansible_collections.sparerig.llm.plugins.modules import (
    open_webui_group,
    open_webui_info,
    open_webui_knowledge,
    open_webui_model,
    open_webui_user,
)
from open_webui_server import EMPTY_SYNC, Given, Server, recorded

if t.TYPE_CHECKING:
    from pathlib import Path

Run = t.Callable[..., dict[str, t.Any]]

HUSH = "the-admin-password"
PUBLIC = {"principal_type": "user", "principal_id": "*", "permission": "read"}
FAMILY = recorded("groups")[0]["id"]
PAPERS = recorded("knowledge")["items"][0]["id"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Answer what the modules ask; waiting takes no time."""
    made = Server()
    monkeypatch.setattr(client, "http_transport", lambda **_unused: made)
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(waits))
    return made


@pytest.fixture
def run(run_module: Run, server: Server) -> Run:
    """Run a module as the administrator; nothing it answers may hold the password."""

    def call(module: t.Any, **options: t.Any) -> dict[str, t.Any]:
        account = {"email": "admin@example.com", "password": HUSH, "timeout": 30}
        given = {name: value for name, value in {**account, **options}.items() if value is not None}
        answer = run_module(module, **given)
        assert HUSH not in str(answer["diff"] if "diff" in answer else answer.get("msg", ""))
        return answer

    assert not server.asked
    return call


# Users. Recorded: ada@example.com (Ada, user) and admin@example.com (Admin, admin).

BOB = {"email": "Bob@example.com", "password": "bobs-password"}
ADDED = "POST /api/v1/auths/add"
UPDATED = "POST /api/v1/users/*/update"


@pytest.mark.parametrize(
    ("user", "changes", "sent"),
    [
        ({"email": "ADA@example.com"}, [], []),
        ({"email": "ada@example.com", "name": "Ada", "password": "other"}, [], []),
        ({"email": "nobody@example.com", "state": "absent"}, [], []),
        (
            BOB,
            [("bob@example.com", "created")],
            [
                (
                    ADDED,
                    {
                        "email": "bob@example.com",
                        "name": "bob",
                        "password": "bobs-password",
                        "role": "user",
                    },
                )
            ],
        ),
        (
            {"email": "ada@example.com", "role": "admin"},
            [("ada@example.com", "changed")],
            [(UPDATED, {"role": "admin"})],
        ),
        (
            {"email": "ada@example.com", "name": "A."},
            [("ada@example.com", "changed")],
            [(UPDATED, {"name": "A."})],
        ),
        (
            {"email": "ada@example.com", "state": "absent"},
            [("ada@example.com", "removed")],
            [("DELETE /api/v1/users/*", None)],
        ),
    ],
)
def test_users_become_as_wanted(
    server: Server, run: Run, user: t.Any, changes: t.Any, sent: t.Any
) -> None:
    server.answers = {
        ADDED: "user_added",
        UPDATED: (200, {}),
        "DELETE /api/v1/users/*": (200, True),
    }
    predicted = run(open_webui_user, users=[user], check=True, diff=True)
    assert server.changes == []
    made = run(open_webui_user, users=[user], diff=True)
    assert server.changes == sent
    assert predicted["diff"] == made["diff"]
    for answer in (predicted, made):
        assert answer["changed"] == bool(changes)
        assert [(c["name"], c["action"]) for c in answer["changes"]] == changes


def test_someone_who_waits_is_let_in(server: Server, run: Run) -> None:
    users = recorded("users")
    for user in users["users"]:
        user["role"] = "pending" if user["email"].startswith("ada") else user["role"]
    server.answers = {"GET /api/v1/users/all": (200, users), UPDATED: (200, {})}
    assert run(open_webui_user, users=[{"email": "ada@example.com"}])["changed"]
    assert server.changes == [(UPDATED, {"role": "user"})]


@pytest.mark.parametrize(
    ("known", "sent"), [("signin", []), ("signin_wrong", [(UPDATED, {"password": "new"})])]
)
def test_an_enforced_password_is_tried_first(
    server: Server, run: Run, known: str, sent: t.Any
) -> None:
    server.answers = {"POST /api/v1/auths/signin": ["signin", known], UPDATED: (200, {})}
    user = {"email": "ada@example.com", "password": "new", "update_password": "always"}
    answer = run(open_webui_user, users=[user], diff=True)
    assert server.changes == sent
    assert answer["changed"] == bool(sent)
    assert "'new'" not in str(answer["diff"])


def test_a_password_file_is_made_once(server: Server, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bob"
    server.answers = {ADDED: "user_added"}
    user = {"email": "bob@example.com", "password_file": str(file)}
    run(open_webui_user, users=[user], check=True)
    assert not file.exists()
    run(open_webui_user, users=[user])
    run(open_webui_user, users=[user])
    first, second = (body["password"] for _unused, body in server.changes)
    assert first == second == file.read_text(encoding="utf-8").strip()
    assert len(first) >= 16
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (
            [
                {"email": "a@b.c", "password": "quite-long"},
                {"email": "A@B.C", "password": "quite-long"},
            ],
            "Users listed more than once: a@b.c",
        ),
        (
            [{"email": "ada.example.com", "password": "quite-long"}],
            "Not an e-mail address: ada.example.com",
        ),
        (
            [{"email": "new@example.com"}, {"email": "too@example.com"}],
            "need a password or a password_file: new@example.com, too@example.com",
        ),
        ([{"email": "long@example.com", "password": "é" * 37}], "longer than 72 bytes"),
        (
            [{"email": "admin@example.com", "state": "absent"}],
            "the account this play signs in with",
        ),
        ([{"email": "admin@example.com"}], "it stays, and stays admin"),
        (
            [{"email": "new@example.com", "password_file": "/proc/no/such"}],
            "The password file /proc/no/such cannot be written",
        ),
    ],
)
def test_users_that_cannot_be_are_refused(
    server: Server, run: Run, users: t.Any, message: str
) -> None:
    answer = run(open_webui_user, users=users)
    assert answer["failed"]
    assert message in answer["msg"]
    assert server.changes == []


def test_a_failure_names_the_step_and_what_was_done(server: Server, run: Run) -> None:
    server.answers = {ADDED: ["user_added", "user_taken"]}
    users = [BOB, {"email": "eve@example.com", "password": "quite-long"}]
    message = run(open_webui_user, users=users)["msg"]
    assert message.startswith(
        "eve@example.com: POST http://127.0.0.1:8080/api/v1/auths/add answered 400"
    )
    assert message.endswith("Done before it: bob@example.com.")


def test_removing_the_first_administrator_is_explained(server: Server, run: Run) -> None:
    server.answers = {"DELETE /api/v1/users/*": "admin_delete"}
    assert (
        "the first administrator cannot be"
        in run(open_webui_user, users=[{"email": "ada@example.com", "state": "absent"}])["msg"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"email": None}, "missing parameter(s) required by 'password': email"),
        ({"password": None}, "password, credentials_file"),
        ({"credentials_file": "/x"}, "mutually exclusive"),
        (
            {"password": None, "email": None, "credentials_file": "/no/such"},
            "The credentials file /no/such cannot be read",
        ),
    ],
)
def test_an_account_has_to_be_given(run: Run, options: t.Any, message: str) -> None:
    assert message in run(open_webui_user, users=[], **options)["msg"]


def test_the_credentials_file_stands_for_the_account(
    server: Server, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "page.env"
    file.write_text(
        "WEBUI_ADMIN_EMAIL=admin@example.com\nWEBUI_ADMIN_PASSWORD=from-the-file\n",
        encoding="utf-8",
    )
    where = {"email": None, "password": None, "credentials_file": str(file)}
    assert not run(open_webui_user, users=[], **where)["changed"]
    sign_ins = [body for route, body in server.asked if route.endswith("signin")]
    assert sign_ins == [{"email": "admin@example.com", "password": "from-the-file"}]
    run(open_webui_user, users=[], **where)
    assert len([route for route, _unused in server.asked if route.endswith("signin")]) == 1


def test_a_newer_version_is_a_warning(server: Server, run: Run) -> None:
    server.answers = {"GET /api/version": (200, {"version": "0.14.0"})}
    answer = run(open_webui_user, users=[])
    assert answer["version"] == "0.14.0"
    assert "newer than the tested" in str(answer["warnings"])


# Groups. Recorded: Family, with ada@example.com in it and the permission to export chats.


@pytest.mark.parametrize(
    ("group", "action", "sent"),
    [
        ({"name": "Family"}, None, []),
        (
            {
                "name": "Family",
                "members": ["ADA@example.com"],
                "permissions": {"chat": {"export": True}},
            },
            None,
            [],
        ),
        ({"name": "Gone", "state": "absent"}, None, []),
        (
            {"name": "Family", "state": "absent"},
            "removed",
            [("DELETE /api/v1/groups/id/*/delete", None)],
        ),
        (
            {"name": "Family", "description": "us", "permissions": {"chat": {"delete": False}}},
            "changed",
            [
                (
                    "POST /api/v1/groups/id/*/update",
                    {
                        "name": "Family",
                        "description": "us",
                        "permissions": {"chat": {"export": True, "delete": False}},
                    },
                )
            ],
        ),
        (
            {"name": "Friends", "members": ["admin@example.com"]},
            "created",
            [
                (
                    "POST /api/v1/groups/create",
                    {"name": "Friends", "description": "", "permissions": {}},
                ),
                ("POST /api/v1/groups/id/*/users/add", {"user_ids": [recorded("signin")["id"]]}),
            ],
        ),
    ],
)
def test_groups_become_as_wanted(
    server: Server, run: Run, group: t.Any, action: t.Any, sent: t.Any
) -> None:
    routes = ("create", "id/*/update", "id/*/users/add", "id/*/users/remove")
    server.answers = {f"POST /api/v1/groups/{route}": "group_created" for route in routes}
    server.answers["DELETE /api/v1/groups/id/*/delete"] = (200, True)
    predicted = run(open_webui_group, groups=[group], check=True, diff=True)
    assert server.changes == []
    made = run(open_webui_group, groups=[group], diff=True)
    assert server.changes == sent
    assert predicted["diff"] == made["diff"]
    assert [c["action"] for c in made["changes"]] == ([action] if action else [])


def test_members_who_are_not_listed_leave(server: Server, run: Run) -> None:
    server.answers = {
        f"POST /api/v1/groups/id/*/{route}": "group_created" for route in ("update", "users/remove")
    }
    run(open_webui_group, groups=[{"name": "Family", "members": []}])
    ada = next(user["id"] for user in recorded("users")["users"] if user["email"].startswith("ada"))
    assert server.changes[-1] == ("POST /api/v1/groups/id/*/users/remove", {"user_ids": [ada]})


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            {"name": "F", "members": ["no@example.com"]},
            "No such users: no@example.com. Make them with open_webui_user first",
        ),
        (
            {"name": "F", "permissions": {"chta": {"x": True}}},
            "no permissions area 'chta'; there are",
        ),
        ({"name": "F", "permissions": {"chat": {"exprot": True}}}, "chat has no switch exprot"),
        (
            {"name": "F", "permissions": {"chat": {"export": "yes"}}},
            "chat has no switch export, or its value is neither true nor false",
        ),
    ],
)
def test_groups_that_cannot_be_are_refused(
    server: Server, run: Run, group: t.Any, message: str
) -> None:
    assert message in run(open_webui_group, groups=[group])["msg"]
    assert server.changes == []


def test_members_who_are_still_to_be_made_are_a_warning_in_check_mode(run: Run) -> None:
    answer = run(
        open_webui_group, groups=[{"name": "F", "members": ["no@example.com"]}], check=True
    )
    assert answer["changed"]
    assert "No such users: no@example.com" in str(answer["warnings"])


# Models. Recorded: the preset "short" on the served "stand-in", open to everyone.

CREATED, CHANGED = "POST /api/v1/models/create", "POST /api/v1/models/model/update"
SHORT = {"id": "short", "name": "Short", "base_model": "stand-in", "params": {"temperature": 0.2}}
BASE = {"id": "stand-in"}


def _run_models(server: Server, run: Run, models: t.Any, **options: t.Any) -> dict[str, t.Any]:
    server.answers = {
        CREATED: "model_created",
        CHANGED: "model_created",
        "POST /api/v1/models/model/delete": (200, True),
        **server.answers,
    }
    return run(open_webui_model, models=models, **options)


@pytest.mark.parametrize(
    ("models", "changes"),
    [
        ([{"id": "gone", "state": "absent"}], []),
        ([{"id": "short", "state": "absent"}], [("short", "removed")]),
        ([SHORT], [("stand-in", "created")]),  # whoever may use the preset has to see its base
        ([BASE, SHORT], [("stand-in", "created")]),
        ([BASE, {**SHORT, "system": "Be short."}], [("stand-in", "created"), ("short", "changed")]),
        ([{**SHORT, "visibility": "private"}], [("short", "changed")]),
        ([{**SHORT, "id": "new"}], [("stand-in", "created"), ("new", "created")]),
    ],
)
def test_models_become_as_wanted(server: Server, run: Run, models: t.Any, changes: t.Any) -> None:
    predicted = _run_models(server, run, models, check=True, diff=True)
    assert server.changes == []
    made = _run_models(server, run, models, diff=True)
    assert [(c["name"], c["action"]) for c in made["changes"]] == changes
    assert predicted["diff"] == made["diff"]
    assert len(server.changes) == len(changes)


def test_a_preset_is_sent_whole(server: Server, run: Run) -> None:
    preset = {
        **SHORT,
        "id": "new",
        "system": "Be short.",
        "description": "Two sentences",
        "knowledge": ["Papers"],
    }
    preset |= {"visibility": "groups", "groups": ["Family"], "capabilities": {"vision": False}}
    _run_models(server, run, [BASE, preset])
    assert server.changes[-1] == (
        CREATED,
        {
            "id": "new",
            "name": "Short",
            "base_model_id": "stand-in",
            "params": {"temperature": 0.2, "system": "Be short."},
            "meta": {
                "description": "Two sentences",
                "knowledge": [{"id": PAPERS, "name": "Papers", "type": "collection"}],
                "capabilities": {"vision": False},
            },
            "access_grants": [
                {"principal_type": "group", "principal_id": FAMILY, "permission": "read"}
            ],
            "is_active": True,
        },
    )


def test_the_base_of_a_group_preset_is_opened_to_that_group(server: Server, run: Run) -> None:
    _run_models(server, run, [{**SHORT, "visibility": "groups", "groups": ["Family"]}])
    grants = [(body["id"], body["access_grants"]) for _unused, body in server.changes]
    group = [{"principal_type": "group", "principal_id": FAMILY, "permission": "read"}]
    assert grants == [("stand-in", group), ("short", group)]


def test_a_model_that_is_not_served_is_a_warning(server: Server, run: Run) -> None:
    server.answers = {"GET /api/models": (200, {"data": []})}
    answer = _run_models(server, run, [BASE])
    assert "stand-in is not served now (served: nothing)" in str(answer["warnings"])


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([BASE, BASE], "Models listed more than once: stand-in"),
        ([{"id": "a b"}], "A model id has no spaces"),
        ([{"id": "x", "base_model": "x"}], "A model cannot be based on itself: x"),
        (
            [{**SHORT, "visibility": "groups"}],
            "visibility is groups but all of the following are missing: groups",
        ),
        (
            [{**SHORT, "visibility": "groups", "groups": ["Nobody"]}],
            "no group named Nobody (there are: Family)",
        ),
        ([{**SHORT, "knowledge": ["Nothing"]}], "no knowledge base named Nothing"),
    ],
)
def test_models_that_cannot_be_are_refused(
    server: Server, run: Run, models: t.Any, message: str
) -> None:
    assert message in _run_models(server, run, models)["msg"]
    assert server.changes == []


# Knowledge. Recorded: Papers ("Manuals", public), with a.txt in it.


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """Make a directory with two good files, a hidden one, and one in a folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("The secret word is oboe.\n", encoding="utf-8")
    (tmp_path / "sub/中文 名.md").write_text("秘密\n", encoding="utf-8")
    (tmp_path / ".hidden").write_text("", encoding="utf-8")
    return tmp_path


DIFF = "POST /api/v1/knowledge/*/sync/diff"
UPLOAD = "POST /api/v1/files/"
MISSING = {**EMPTY_SYNC, "added": [{"filename": "中文 名.md", "path": "sub"}], "mkdir": ["sub"]}
WRITES: dict[str, Given | list[Given]] = {
    "POST /api/v1/knowledge/create": "knowledge_created",
    "POST /api/v1/knowledge/*/update": "knowledge_created",
    "POST /api/v1/knowledge/*/access/update": "knowledge_created",
    "POST /api/v1/knowledge/*/dirs/create": (200, {"id": "the-folder"}),
    "POST /api/v1/knowledge/*/sync/cleanup": (200, {"status": True}),
    "POST /api/v1/knowledge/*/reset": "knowledge_created",
    "DELETE /api/v1/knowledge/*/delete": (200, True),
    "DELETE /api/v1/files/*": (200, {}),
    UPLOAD: "file_uploaded",
}


def _routes(server: Server) -> list[str]:
    return [route for route, _unused in server.changes]


def test_files_in_step_are_left_alone(server: Server, run: Run, papers: Path) -> None:
    server.answers = {**WRITES, DIFF: (200, EMPTY_SYNC)}
    answer = run(open_webui_knowledge, knowledge=[{"name": "Papers", "src": [str(papers)]}])
    assert not answer["changed"]
    manifest = next(body["manifest"] for route, body in server.asked if route == DIFF)
    assert manifest == [
        {
            "filename": file.name,
            "path": folder,
            "checksum": hashlib.sha256(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
        }
        for file, folder in ((papers / "a.txt", ""), (papers / "sub/中文 名.md", "sub"))
    ]


def test_a_missing_file_is_sent_and_waited_for(server: Server, run: Run, papers: Path) -> None:
    busy = (200, {"data": {"status": "processing"}})
    server.answers = {
        **WRITES,
        DIFF: [(200, MISSING), (200, EMPTY_SYNC)],
        "GET /api/v1/files/*": [busy, busy, "file_completed"],
    }
    answer = run(
        open_webui_knowledge, knowledge=[{"name": "Papers", "src": [str(papers)]}], diff=True
    )
    assert answer["changes"] == [{"name": "Papers", "action": "changed"}]
    assert list(answer["diff"]["after"]["Papers"]["files"]) == ["sub/中文 名.md"]
    assert _routes(server) == ["POST /api/v1/knowledge/*/dirs/create", UPLOAD]
    sent = server.changes[1][1].decode()
    assert 'filename="中文 名.md"' in sent
    assert f'"knowledge_id": "{PAPERS}"' in sent
    assert '"directory_id": "the-folder"' in sent
    assert [route for route, _unused in server.asked].count("GET /api/v1/files/*") == 3


def test_a_stale_file_goes_after_the_new_one_is_indexed(
    server: Server, run: Run, papers: Path
) -> None:
    stale = {**EMPTY_SYNC, "modified": [{"filename": "a.txt", "path": "", "stale_file_id": "old"}]}
    stale |= {"deleted": [{"file_id": "gone", "filename": "x.txt"}], "rmdir": ["folder"]}
    server.answers = {**WRITES, DIFF: [(200, stale), (200, EMPTY_SYNC)]}
    run(open_webui_knowledge, knowledge=[{"name": "Papers", "src": [str(papers)]}])
    assert _routes(server) == [UPLOAD, "POST /api/v1/knowledge/*/sync/cleanup"]
    assert server.changes[1][1] == {"file_ids": ["old", "gone"], "dir_ids": ["folder"]}


def test_failed_indexing_is_a_failure(server: Server, run: Run, papers: Path) -> None:
    server.answers = {**WRITES, DIFF: (200, MISSING), "GET /api/v1/files/*": "file_failed"}
    message = run(open_webui_knowledge, knowledge=[{"name": "Papers", "src": [str(papers)]}])["msg"]
    reason = recorded("file_failed")["data"]["error"]
    assert f"Open WebUI could not index {papers}/sub/中文 名.md: {reason}" in message
    assert _routes(server)[-1] == "DELETE /api/v1/files/*", "the failed upload was left behind"


def test_indexing_that_never_ends_is_a_failure(server: Server, run: Run, papers: Path) -> None:
    server.answers = {
        **WRITES,
        DIFF: (200, MISSING),
        "GET /api/v1/files/*": (200, {"data": {"status": "processing"}}),
    }
    entry = {"name": "Papers", "src": [str(papers)], "index_timeout": 9}
    assert (
        "still processing after 9 s; raise index_timeout"
        in run(open_webui_knowledge, knowledge=[entry])["msg"]
    )


BUSY: Given = (200, {"data": {"status": "processing"}})


@pytest.mark.parametrize(
    ("states", "sent"),
    [
        (["file_completed"], []),
        (["file_failed", "file_completed"], ["DELETE /api/v1/files/*", UPLOAD]),
        # Open WebUI was restarted meanwhile and has forgotten it.
        ([*[BUSY] * 8, "file_completed"], ["DELETE /api/v1/files/*", UPLOAD]),
    ],
)
def test_uploads_of_an_earlier_run_are_seen_through(
    server: Server, run: Run, papers: Path, states: list[Given], sent: list[str]
) -> None:
    missing = {**MISSING, "mkdir": [], "directory_map": {"sub": "the-folder"}}
    server.answers = {
        **WRITES,
        "GET /api/v1/knowledge/*/files/pending": (200, [{"id": recorded("file_completed")["id"]}]),
        DIFF: [(200, EMPTY_SYNC), (200, missing), (200, EMPTY_SYNC)],
        "GET /api/v1/files/*": states,
    }
    entry = {"name": "Papers", "src": [str(papers)], "index_timeout": 1}
    assert run(open_webui_knowledge, knowledge=[entry])["changed"] is bool(sent)
    assert _routes(server) == sent


def test_a_missing_embedding_model_is_named(server: Server, run: Run, papers: Path) -> None:
    failed = {"data": {"status": "failed", "error": "No embedding model is loaded"}}
    server.answers = {**WRITES, DIFF: (200, MISSING), "GET /api/v1/files/*": (200, failed)}
    message = run(open_webui_knowledge, knowledge=[{"name": "Papers", "src": [str(papers)]}])["msg"]
    assert "RAG_EMBEDDING_MODEL has to be a folder that the container sees" in message


def test_a_sync_that_did_not_help_is_a_failure(server: Server, run: Run, papers: Path) -> None:
    server.answers = {**WRITES, DIFF: (200, MISSING)}
    message = run(open_webui_knowledge, knowledge=[{"name": "Papers", "src": [str(papers)]}])["msg"]
    assert "Open WebUI still misses something" in message


def test_a_new_knowledge_base(server: Server, run: Run, papers: Path) -> None:
    server.answers = {**WRITES, DIFF: [(200, MISSING), (200, EMPTY_SYNC)]}
    entry = {"name": "New", "src": [str(papers)], "visibility": "groups", "groups": ["Family"]}
    assert run(open_webui_knowledge, knowledge=[entry], check=True)["changed"]
    assert server.changes == []
    assert run(open_webui_knowledge, knowledge=[entry])["changes"] == [
        {"name": "New", "action": "created"}
    ]
    grants = [{"principal_type": "group", "principal_id": FAMILY, "permission": "read"}]
    assert server.changes[0][1] == {"name": "New", "description": "", "access_grants": grants}


@pytest.mark.parametrize(
    ("entry", "routes"),
    [
        ({"description": "Other"}, ["POST /api/v1/knowledge/*/update"]),
        ({"visibility": "private"}, ["POST /api/v1/knowledge/*/access/update"]),
        (
            {"state": "absent"},
            ["POST /api/v1/knowledge/*/reset", "DELETE /api/v1/knowledge/*/delete"],
        ),
    ],
)
def test_a_knowledge_base_is_changed_and_removed(
    server: Server, run: Run, entry: t.Any, routes: t.Any
) -> None:
    server.answers = {**WRITES, DIFF: (200, EMPTY_SYNC)}
    assert run(open_webui_knowledge, knowledge=[{"name": "Papers", **entry}])["changed"]
    assert _routes(server) == routes


def _many(path: Path, content: dict[str, bytes]) -> list[str]:
    for name, data in content.items():
        (path / name).write_bytes(data)
    return [str(path / name) for name in content]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"empty.txt": b""}, "empty.txt is empty"),
        ({"junk.bin": b"abc\0def"}, "junk.bin is neither text nor a document format"),
        (
            {"big.txt": b"x" * (1024 * 1024 + 1)},
            "big.txt has 1 MiB, more than max_file_size (1 MiB)",
        ),
        ({"a.txt": b"same", "b.txt": b"same"}, "b.txt have the same content"),
        ({"e.txt": b"", "j.bin": b"\0"}, "j.bin is neither"),
    ],
)
def test_files_that_cannot_be_indexed_are_refused_before_anything_is_asked(
    server: Server, run: Run, tmp_path: Path, content: dict[str, bytes], message: str
) -> None:
    entry = {"name": "Papers", "src": _many(tmp_path, content), "max_file_size": 1}
    answer = run(open_webui_knowledge, knowledge=[entry])
    assert message in answer["msg"]
    assert "Nothing was changed" in answer["msg"]
    assert server.asked == []


def test_a_pdf_may_have_any_bytes(server: Server, run: Run, tmp_path: Path) -> None:
    server.answers = {DIFF: (200, EMPTY_SYNC)}
    entry = {"name": "Papers", "src": _many(tmp_path, {"scan.PDF": b"%PDF\0\1\2"})}
    assert not run(open_webui_knowledge, knowledge=[entry])["changed"]


def test_other_sources_that_cannot_be_are_refused(run: Run, tmp_path: Path) -> None:
    _many(tmp_path, {"a.txt": b"one"})
    (tmp_path / "other").mkdir()
    _many(tmp_path / "other", {"a.txt": b"two"})
    sources = [str(tmp_path / "a.txt"), str(tmp_path / "other/a.txt"), "/no/such.txt", "/dev/null"]
    message = run(open_webui_knowledge, knowledge=[{"name": "Papers", "src": sources}])["msg"]
    assert "/no/such.txt does not exist on this host" in message
    assert "/dev/null is not a file" in message
    assert "would have the same name" in message


# Reading.


def test_a_secret_setting_is_hidden(server: Server, run: Run) -> None:
    settings = {**recorded("settings"), "openai.api_keys": ["hush"], "rag.top_k": 5}
    server.answers = {"GET /api/v1/configs/export": (200, settings)}
    told = run(open_webui_info, gather=["settings"])["settings"]
    assert told["openai.api_keys"] == "(hidden)"
    assert told["rag.top_k"] == 5
    assert "hush" not in str(told)


def test_what_is_there_is_told(run: Run) -> None:
    answer = run(open_webui_info, gather=["users", "groups", "models", "knowledge", "settings"])
    assert not answer["changed"]
    assert {"email": "ada@example.com", "name": "Ada", "role": "user"} in answer["users"]
    assert answer["groups"] == [
        {"name": "Family", "description": "", "members": ["ada@example.com"]}
    ]
    assert {
        "id": "short",
        "name": "Short",
        "base_model": "stand-in",
        "visibility": "public",
    } in answer["models"]
    assert {
        "id": "stand-in",
        "name": "stand-in",
        "base_model": None,
        "visibility": "not registered",
    } in answer["models"]
    files = [{"name": "a.txt", "status": "completed"}]
    assert answer["knowledge"] == [
        {"name": "Papers", "description": "Manuals", "visibility": "public", "files": files}
    ]
    assert answer["settings"]["openai.api_keys"] == "(hidden)"


CHAT = "POST /api/chat/completions"


def _chat_with(text: str) -> Given:
    answer = recorded("chat")
    answer["sources"][0]["document"] = [text]
    return (200, answer)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ({CHAT: _chat_with("... is probe-0123. It ...")}, ("document_in_prompt", "asked with it")),
        ({CHAT: _chat_with("something else")}, ("document_in_prompt", "asked without it")),
        ({CHAT: (200, {"choices": []})}, ("document_in_prompt", "asked without it")),
        ({"GET /api/v1/files/*": "file_failed"}, ("document_index", "Stream has ended")),
        (
            {CHAT: (400, {"detail": "Model not found"})},
            ("document_in_prompt", "Model not found"),
        ),
        (
            {"GET /api/models": (200, {"data": []})},
            ("document_in_prompt", "sees no model to ask: is vLLM up"),
        ),
        ({UPLOAD: "file_empty"}, ("document_upload", "content provided is empty")),
    ],
)
def test_documents_are_proved(
    server: Server,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    answers: t.Any,
    outcome: tuple[str, str],
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _unused: "0123")
    server.answers = {UPLOAD: "file_uploaded", "DELETE /api/v1/files/*": (200, {}), **answers}
    answer = run(open_webui_info, gather=["documents"])
    check = [check for check in answer["checks"] if check["status"] != "skipped"][-1]
    ok = outcome[1] == "asked with it"
    assert answer["documents_ok"] is ok
    assert check["name"] == outcome[0]
    assert check["status"] == ("pass" if ok else "fail")
    assert outcome[1] in check["seen"]
    assert bool(check["failure"] and check["cause"] and check["remedy"]) is not ok
    removed = [route for route, _unused in server.changes if route.startswith("DELETE")]
    assert len(removed) == (0 if check["name"] == "document_upload" else 1), "it left its document"


def test_a_document_that_cannot_be_removed_is_told(server: Server, run: Run) -> None:
    server.answers = {
        UPLOAD: "file_uploaded",
        CHAT: (200, {}),
        "DELETE /api/v1/files/*": (500, {"detail": "no"}),
    }
    check = run(open_webui_info, gather=["documents"])["checks"][-1]
    assert (check["name"], check["status"]) == ("document_removal", "unknown")
    assert "sparerig-document-probe.txt is left" in check["cause"]


def test_check_mode_uploads_nothing(server: Server, run: Run) -> None:
    answer = run(open_webui_info, gather=["documents"], check=True)
    assert server.changes == []
    assert "documents_ok" not in answer
