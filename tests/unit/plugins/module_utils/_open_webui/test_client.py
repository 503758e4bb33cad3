# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of Open WebUI: versions, sign-in, retries, and what its errors say."""

from __future__ import annotations

import contextlib
import stat
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    Account,
    OpenWebUI,
    OpenWebUIError,
    Request,
    SessionFile,
    http_transport,
    parse_version,
    read_credentials,
)
from open_webui_server import Given, Server, recorded

if t.TYPE_CHECKING:
    from pathlib import Path

ACCOUNT = Account("http://page:3000/", "admin@example.com", "the-password", timeout=30)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let waiting take no time, but note it."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(waits))
    return waits


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.12.4", (0, 12, 4)),
        ("v0.13.0-dev", (0, 13, 0)),
        ("1.0", (1, 0)),
        ("nightly", ()),
        ("", ()),
    ],
)
def test_versions_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_version(text) == numbers


@pytest.mark.parametrize(
    ("version", "warning"),
    [
        ("0.12.4", None),
        ("0.11.0", None),
        ("0.13.0", "newer than the tested 0.12.x"),
        ("1.0.0", "newer"),
    ],
)
def test_a_version_that_may_work_is_used(version: str, warning: str | None) -> None:
    warnings: list[str] = []
    client = OpenWebUI(
        ACCOUNT,
        warn=warnings.append,
        transport=Server({"GET /api/version": (200, {"version": version})}),
    )
    assert client.version == version
    assert [warning in text for text in warnings if warning] == ([True] if warning else [])
    assert bool(warnings) == bool(warning)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {"version": "0.6.5"}), "Open WebUI 0.6.5 at http://page:3000 is older than 0.11"),
        ((200, {"version": "?"}), "this is not Open WebUI"),
        ((200, [1]), "this is not Open WebUI"),
        ((200, b"<html>"), "something that is not JSON. This is not the API of Open WebUI"),
        (
            (404, {"detail": "Not Found"}),
            "GET http://page:3000/api/version answered 404: Not Found",
        ),
        (
            ConnectionRefusedError("no"),
            "Nobody listens at http://page:3000, for 30 s. Is Open WebUI running",
        ),
        (TimeoutError("timed out"), "failed (timed out), for 30 s"),
        ((502, b"<html>bad gateway"), "answered 502: an answer that is not Open WebUI's"),
    ],
)
def test_what_is_not_a_known_open_webui_is_refused(answer: t.Any, message: str) -> None:
    server = Server({"GET /api/version": answer})
    with pytest.raises(OpenWebUIError) as caught:
        OpenWebUI(ACCOUNT, transport=server)
    assert message in str(caught.value)
    assert not any("signin" in route for route, _unused in server.asked), (
        "the password was sent to a stranger"
    )


def test_starting_up_is_waited_for() -> None:
    busy: list[Given] = [ConnectionRefusedError("no"), (503, {}), (200, {"version": "0.12.4"})]
    assert OpenWebUI(ACCOUNT, transport=Server({"GET /api/version": busy})).version == "0.12.4"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("signin_wrong", "The address admin@example.com or its password is wrong"),
        (
            (429, {"detail": "API rate limit exceeded"}),
            "allows 15 sign-ins per address in three minutes",
        ),
        ((200, {**recorded("signin"), "role": "user"}), "with the role 'user'"),
    ],
)
def test_a_sign_in_that_fails_is_explained(answer: t.Any, message: str) -> None:
    with pytest.raises(OpenWebUIError) as caught:
        OpenWebUI(ACCOUNT, transport=Server({"POST /api/v1/auths/signin": answer}))
    assert message in str(caught.value)
    assert ACCOUNT.password not in str(caught.value)


def test_too_many_sign_ins_are_waited_out(clock: list[float]) -> None:
    OpenWebUI(ACCOUNT, transport=Server({"POST /api/v1/auths/signin": [(429, {}), "signin"]}))
    assert clock == [20.0]


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (TimeoutError("timed out"), 1),  # it may have arrived
        (ConnectionResetError("reset"), 1),
        ((503, {}), 1),
    ],
)
def test_a_change_is_never_sent_twice(failure: t.Any, times: int) -> None:
    server = Server({"POST /api/v1/groups/create": [failure, "group_created"]})
    client = OpenWebUI(ACCOUNT, transport=server)
    with pytest.raises(OpenWebUIError):
        client.post("/api/v1/groups/create", {"name": "x"})
    assert len(server.changes) == times


def test_a_change_that_nobody_heard_is_said_again() -> None:
    server = Server({"POST /api/v1/groups/create": [ConnectionRefusedError("no"), "group_created"]})
    assert (
        OpenWebUI(ACCOUNT, transport=server).post("/api/v1/groups/create", {})["name"] == "Family"
    )


def test_what_is_gone_already_counts_as_removed() -> None:
    server = Server({"DELETE /api/v1/users/x": (404, {"detail": "gone"})})
    assert OpenWebUI(ACCOUNT, transport=server).delete("/api/v1/users/x") is None


def test_a_validation_error_does_not_repeat_what_was_sent() -> None:
    detail = [
        {
            "type": "missing",
            "loc": ["body", "name"],
            "msg": "Field required",
            "input": {"password": "hush"},
        }
    ]
    client = OpenWebUI(ACCOUNT, transport=Server({"POST /x": (422, {"detail": detail})}))
    with pytest.raises(OpenWebUIError) as caught:
        client.post("/x", {"password": "hush"})
    assert "name: Field required" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_session_is_kept_and_used_again(tmp_path: Path) -> None:
    sessions = SessionFile(tmp_path / "page.session")
    OpenWebUI(ACCOUNT, transport=Server(), sessions=sessions)
    assert stat.S_IMODE(sessions.path.stat().st_mode) == 0o600
    assert ACCOUNT.password not in sessions.path.read_text(encoding="utf-8")
    again = Server()
    OpenWebUI(ACCOUNT, transport=again, sessions=sessions)
    assert [route for route, _unused in again.asked] == ["GET /api/version", "GET /api/v1/auths/"]
    assert again.tokens[-1] == "Bearer a-session-token"


@pytest.mark.parametrize(
    "change", [{"password": "another"}, {"email": "b@example.com"}, {"url": "http://other"}]
)
def test_a_session_does_not_serve_another_account(tmp_path: Path, change: dict[str, str]) -> None:
    sessions = SessionFile(tmp_path / "page.session")
    OpenWebUI(ACCOUNT, transport=Server(), sessions=sessions)
    other = Server({"POST /api/v1/auths/signin": "signin_wrong"})
    with pytest.raises(OpenWebUIError, match="password is wrong"):
        OpenWebUI(Account(**{**vars(ACCOUNT), **change}), transport=other, sessions=sessions)


def test_an_ended_session_is_renewed(tmp_path: Path) -> None:
    sessions = SessionFile(tmp_path / "page.session")
    OpenWebUI(ACCOUNT, transport=Server(), sessions=sessions)
    ended = Server({"GET /api/v1/auths/": (401, {"detail": "expired"})})
    OpenWebUI(ACCOUNT, transport=ended, sessions=sessions)
    assert "POST /api/v1/auths/signin" in [route for route, _unused in ended.asked]


def test_check_mode_and_a_place_that_cannot_be_written_keep_no_session(tmp_path: Path) -> None:
    OpenWebUI(ACCOUNT, transport=Server(), sessions=SessionFile(tmp_path / "kept", keep=False))
    OpenWebUI(ACCOUNT, transport=Server(), sessions=SessionFile(tmp_path / "no/such/folder"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "result"),
    [
        ("WEBUI_ADMIN_EMAIL=a@b.c\nWEBUI_ADMIN_PASSWORD=x=y z\n", ("a@b.c", "x=y z")),
        ("# WEBUI_ADMIN_PASSWORD=old\nOTHER=1\n\nWEBUI_ADMIN_PASSWORD=new\n", (None, "new")),
    ],
)
def test_credentials_are_read(tmp_path: Path, content: str, result: tuple[str | None, str]) -> None:
    (tmp_path / "env").write_text(content, encoding="utf-8")
    assert read_credentials(str(tmp_path / "env")) == result


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), ("A=1\n", "has no line WEBUI_ADMIN_PASSWORD")],
)
def test_credentials_that_are_missing_are_told(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "env").write_text(content, encoding="utf-8")
    with pytest.raises(OpenWebUIError, match=message):
        read_credentials(str(tmp_path / "env"))


def test_the_page_is_asked_directly_and_by_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real transport, against a server that sends back what it was sent."""
    monkeypatch.undo()  # the clock of the other tests stands still
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    send = http_transport()

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            said = f"{self.command} {self.path} {self.headers['X-Word']} {body.decode()}".encode()
            self.send_response(418)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def do_GET(self) -> None:
            """Drip: each byte would start an ordinary timeout anew."""
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    self.wfile.write(b"x")

        def log_message(self, *_given: object) -> None:
            """Say nothing."""

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        try:
            answer = send(Request("POST", f"{base}/a/b?c=d%20e", b"body", {"X-Word": "w"}), 10)
            with pytest.raises(ConnectionError, match="did not finish before the deadline"):
                send(Request("GET", f"{base}/drips"), 0.5)
        finally:
            over.set()
            server.shutdown()
    assert (answer.status, answer.body) == (418, b"POST /a/b?c=d%20e w body")
    with pytest.raises(ConnectionRefusedError):
        send(Request("GET", f"{base}/gone"), 10)
