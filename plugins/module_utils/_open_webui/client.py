# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client for the API of Open WebUI: signs in, retries what may be retried, explains the rest.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
import re
import time
import typing as t
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    parse_env,
    read_json_object,
    write_atomically,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    Client,
    Content,
    Deadline,
    HttpError,
    RefusedError,
)

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json = t.Any
"""What the API answers: decoded JSON of a shape that only the caller knows."""

OLDEST = (0, 11)
"""The oldest release line that has every route used here (read in its source)."""
TESTED = (0, 12)
"""The release line that the collection's tests run against."""

PUBLIC = {"principal_type": "user", "principal_id": "*", "permission": "read"}
"""The access grant that opens a model or a knowledge base to everyone who is signed in."""

_PAUSE = 1.0
_PAUSE_LIMITED = (
    20.0  # an attempt that is refused counts too: asking more often keeps the door shut
)
_TOO_MANY = 429
_AGAIN = (502, 503, 504)
_BAD_REQUEST = 400
_UNAUTHORISED = 401
_FORBIDDEN = 403
_NOT_FOUND = 404
_OK = (200, 201, 204)
_MAX_BYTES = 64 * 1024 * 1024  # a list of models carries their pictures


class OpenWebUIError(Exception):
    """Something a person can act on; the message says what."""


class UnexpectedAnswerError(OpenWebUIError):
    """Open WebUI answered, but not with what was asked for."""

    def __init__(self, request: Request, status: int, detail: str, hint: str = "") -> None:
        """Name the request, what was answered and, in ``hint``, what to do about it."""
        self.status = status
        self.detail = detail
        message = f"{request.method} {request.url} answered {status}: {detail or 'no reason given'}"
        super().__init__(f"{message}. {hint}" if hint else message)


@dataclass(frozen=True)
class Account:
    """Where Open WebUI is and who asks."""

    url: str
    email: str
    password: str = field(repr=False)
    timeout: float = 120.0
    validate_certs: bool = True


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, whatever its status."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Request:
    """One HTTP request. ``repeatable``: sending it twice does no harm."""

    method: str
    url: str
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    repeatable: bool = False


class Transport(t.Protocol):
    """Sends one request. Raises ConnectionRefusedError when nobody listens, OSError otherwise."""

    def __call__(self, request: Request, timeout: float, /) -> Answer:
        """Send it and wait for the whole answer."""


def http_transport(*, validate_certs: bool = True) -> Transport:
    """Send requests straight to the host: a proxy has no business between a PC and its own page."""

    def send(request: Request, timeout: float) -> Answer:
        url = urlsplit(request.url)
        base = urlunsplit((url.scheme, url.netloc, "", "", ""))
        path = urlunsplit(("", "", url.path, url.query, ""))
        client = Client(base, validate_certs=validate_certs, max_bytes=_MAX_BYTES)
        content = Content(request.body, request.headers)
        try:
            answer = client.send(request.method, path, Deadline(timeout), content)
        except RefusedError as error:
            raise ConnectionRefusedError(str(error)) from error
        except HttpError as error:
            raise ConnectionError(str(error)) from error
        return Answer(answer.status, answer.body)

    return send


def read_credentials(path: str) -> tuple[str | None, str]:
    """Read address and password of the administrator from an environment file (``NAME=value``)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        message = (
            f"The credentials file {path} cannot be read: {error.strerror}. "
            "The role open_webui makes it, for root only: run the task with become."
        )
        raise OpenWebUIError(message) from error
    values = parse_env(text)
    if not values.get("WEBUI_ADMIN_PASSWORD"):
        raise OpenWebUIError(f"The credentials file {path} has no line WEBUI_ADMIN_PASSWORD=...")
    return values.get("WEBUI_ADMIN_EMAIL"), values["WEBUI_ADMIN_PASSWORD"]


class Sessions(t.Protocol):
    """Where the session of an account may be, so that it need not sign in again."""

    def load(self, account: Account) -> str | None:
        """Return the token of this very account, if there is one."""

    def save(self, account: Account, token: str) -> None:
        """Keep the token."""


@dataclass(frozen=True)
class OpenSession:
    """A session that was opened in this run."""

    token: str = field(repr=False)

    def load(self, _account: Account) -> str:
        """Return its token."""
        return self.token

    def save(self, _account: Account, _token: str) -> None:
        """Keep nothing: it ends with the run."""


@dataclass(frozen=True)
class SessionFile:
    """Keeps a session from one task to the next, readable by its owner only.

    Open WebUI allows 15 sign-ins in three minutes, which three runs of a play would use up.
    """

    path: Path
    keep: bool = True

    def load(self, account: Account) -> str | None:
        """Return the token of this very account, if there is one."""
        try:
            kept = read_json_object(self.path)
            return str(kept["token"]) if kept["account"] == _fingerprint(account) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a session that cannot be read is one that was never kept

    def save(self, account: Account, token: str) -> None:
        """Keep the token; a place that cannot be written costs a sign-in each time, no more."""
        if not self.keep:
            return
        content = json.dumps({"account": _fingerprint(account), "token": token})
        with contextlib.suppress(OSError):
            write_atomically(self.path, content, mode=0o600)


def _fingerprint(account: Account) -> str:
    """Tell accounts apart, passwords included: a wrong one must not pass by an old session."""
    return hashlib.sha256(f"{account.url} {account.email} {account.password}".encode()).hexdigest()


def parse_version(text: str) -> tuple[int, ...]:
    """Turn ``0.12.4`` (or ``v0.12.4-dev``) into numbers; an empty tuple when it has none."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()


class OpenWebUI:
    """A signed-in session with one Open WebUI."""

    def __init__(
        self,
        account: Account,
        *,
        warn: Callable[[str], None] = lambda _unused: None,
        transport: Transport | None = None,
        sessions: Sessions | None = None,
        administrator: bool = True,
    ) -> None:
        """Wait until Open WebUI answers, check its version, sign in."""
        self.account = account
        self._sessions = sessions
        self._administrator = administrator
        self.base = account.url.rstrip("/")
        self.transport = transport or http_transport(validate_certs=account.validate_certs)
        self._headers: dict[str, str] = {"Accept": "application/json"}
        self.version = self._check_version(warn)
        self.user_id = self._open_session()

    # What can be asked.

    def get(self, path: str, **query: str | int) -> Json:
        """Read; asked again while Open WebUI starts or is busy."""
        return self._ask(
            Request("GET", self._url(path, query), headers=self._headers, repeatable=True)
        )

    def post(self, path: str, body: Json = None, **query: str | int) -> Json:
        """Change something; never sent twice once it may have arrived."""
        headers = {**self._headers, "Content-Type": "application/json"}
        return self._ask(
            Request("POST", self._url(path, query), json.dumps(body).encode(), headers)
        )

    def delete(self, path: str) -> Json:
        """Remove something; that it is gone already is no failure."""
        try:
            return self._ask(Request("DELETE", self._url(path, {}), headers=self._headers))
        except UnexpectedAnswerError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def upload(self, name: str, content: bytes, metadata: Mapping[str, str] | None = None) -> Json:
        """Send one file; answers its record at once, indexing goes on behind it."""
        body, content_type = _multipart(name, content, metadata or {})
        headers = {**self._headers, "Content-Type": content_type}
        return self._ask(Request("POST", self._url("/api/v1/files/", {}), body, headers))

    # How it is asked.

    def _url(self, path: str, query: Mapping[str, str | int]) -> str:
        return f"{self.base}{path}" + (f"?{urlencode(query)}" if query else "")

    def _ask(self, request: Request) -> Json:
        return _decode(request, self._exchange(request))

    def _exchange(self, request: Request) -> Answer:
        deadline = time.monotonic() + self.account.timeout
        answer = self._attempt(request, deadline)
        while answer is None:
            time.sleep(_PAUSE)
            answer = self._attempt(request, deadline)
        return answer

    def _attempt(self, request: Request, deadline: float) -> Answer | None:
        """Send once; no answer means that it may be sent again and that there is time to."""
        left = deadline - time.monotonic()
        try:
            answer = self.transport(request, max(1.0, left))
        except ConnectionRefusedError as error:  # nobody heard it, so it may be said again
            self._give_up_in_time(left, f"Nobody listens at {self.base}", error)
            return None
        except OSError as error:
            if request.repeatable:
                problem = f"{request.method} {request.url} failed ({error})"
                self._give_up_in_time(left, problem, error)
                return None
            message = (
                f"{request.method} {request.url} broke off ({error}): whether it was done "
                "is not known. Run the play again: what is done stays done."
            )
            raise OpenWebUIError(message) from error
        again = request.repeatable and answer.status in _AGAIN and left >= _PAUSE
        return None if again else answer

    def _give_up_in_time(self, left: float, problem: str, error: OSError) -> None:
        if left < _PAUSE:
            message = (
                f"{problem}, for {self.account.timeout:g} s. Is Open WebUI running "
                "(systemctl status sparerig-open-webui), and is the address right?"
            )
            raise OpenWebUIError(message) from error

    # Before anything else.

    def _check_version(self, warn: Callable[[str], None]) -> str:
        """Refuse what is known not to work, warn of what was never tried."""
        answer = self.get("/api/version")
        text = str(answer.get("version") or "") if isinstance(answer, dict) else ""
        version = parse_version(text)
        oldest, tested = (".".join(map(str, numbers)) for numbers in (OLDEST, TESTED))
        if not version:
            raise OpenWebUIError(
                f"{self.base}/api/version names no version ({text!r}): this is not Open WebUI."
            )
        if version[:2] < OLDEST:
            message = (
                f"Open WebUI {text} at {self.base} is older than {oldest}: "
                "its API lacks what is needed here. Upgrade it."
            )
            raise OpenWebUIError(message)
        if version[:2] > TESTED:
            warn(
                f"Open WebUI {text} at {self.base} is newer than the tested {tested}.x: "
                "check the result."
            )
        return text

    def _open_session(self) -> str:
        """Go on with a session that is there, or sign in; return the id of the account."""
        kept = self._sessions.load(self.account) if self._sessions else None
        session = self._resume(kept) if kept else None
        if session is None:
            session = self._sign_in()
            if self._sessions:
                self._sessions.save(self.account, session["token"])
        if self._administrator and session.get("role") != "admin":
            message = (
                f"{self.account.email} signed in at {self.base} with the role "
                f"{session.get('role')!r}: people and content are managed by an administrator."
            )
            raise OpenWebUIError(message)
        self._headers["Authorization"] = f"Bearer {session['token']}"
        return str(session["id"])

    def _resume(self, token: str) -> Json:
        headers = {**self._headers, "Authorization": f"Bearer {token}"}
        request = Request("GET", self._url("/api/v1/auths/", {}), None, headers, repeatable=True)
        answer = self._exchange(request)
        return _decode(request, answer) if answer.status in _OK else None

    def _sign_in(self) -> Json:
        request = _sign_in_request(self.account)
        deadline = time.monotonic() + self.account.timeout
        while True:
            answer = self._exchange(request)
            if answer.status != _TOO_MANY or deadline - time.monotonic() < _PAUSE_LIMITED:
                return _decode(request, answer, self._sign_in_hint(answer.status))
            time.sleep(_PAUSE_LIMITED)

    def _sign_in_hint(self, status: int) -> str:
        if status == _TOO_MANY:
            return (
                "Open WebUI allows 15 sign-ins per address in three minutes, "
                "the good ones included: wait three minutes, or raise timeout."
            )
        if status in (_BAD_REQUEST, _UNAUTHORISED):
            return (
                f"The address {self.account.email} or its password is wrong. The password of the "
                "first administrator is set only when the database is made: if it was changed "
                "in the page since, give the new one."
            )
        return ""


def quoted(part: str) -> str:
    """Make a value safe inside a path."""
    return quote(part, safe="")


def can_sign_in(account: Account, transport: Transport | None = None) -> bool:
    """Say whether this address and password are accepted, whatever the account may do."""
    send = transport or http_transport(validate_certs=account.validate_certs)
    request = _sign_in_request(account)
    answer = send(request, account.timeout)
    if answer.status in (_BAD_REQUEST, _UNAUTHORISED):
        return False
    _decode(
        request,
        answer,
        "Whether the password of this account is the wanted one could not be found out.",
    )
    return True


def _sign_in_request(account: Account) -> Request:
    body = json.dumps({"email": account.email, "password": account.password}).encode()
    url = f"{account.url.rstrip('/')}/api/v1/auths/signin"
    return Request("POST", url, body, {"Content-Type": "application/json"}, repeatable=True)


def _decode(request: Request, answer: Answer, hint: str = "") -> Json:
    if answer.status not in _OK:
        hint = hint or _hint(answer.status)
        raise UnexpectedAnswerError(request, answer.status, _detail(answer.body), hint)
    if not answer.body:
        return None
    try:
        return json.loads(answer.body)
    except ValueError as error:
        hint = "This is not the API of Open WebUI; is a proxy or another program at this address?"
        raise UnexpectedAnswerError(
            request, answer.status, "something that is not JSON", hint
        ) from error


def _detail(body: bytes) -> str:
    """Take the reason out of an error answer, without what was sent, which some repeat."""
    try:
        detail = json.loads(body).get("detail", "")
    except (ValueError, AttributeError):
        return "an answer that is not Open WebUI's (a proxy's?)" if body else ""
    if isinstance(detail, list):
        return "; ".join(
            ".".join(map(str, item["loc"][1:])) + ": " + item["msg"] for item in detail
        )
    return str(detail).rstrip(".")


def _hint(status: int) -> str:
    if status == _UNAUTHORISED:
        return "The session ended, or lacks the right, or the thing does not exist."
    if status == _FORBIDDEN:
        return (
            "Open WebUI forbids this: the first administrator cannot be changed by others, "
            "demoted or removed."
        )
    if status == _NOT_FOUND:
        return "It is gone, or this version of Open WebUI has no such route."
    return ""


def _multipart(name: str, content: bytes, metadata: Mapping[str, str]) -> tuple[bytes, str]:
    """Build the body of an upload, and its type.

    Not by Ansible's prepare_multipart, which encodes files in base64 by default: Open WebUI does
    not decode that.
    """
    boundary = uuid.uuid4().hex
    safe = name.replace("\\", "\\\\").replace('"', "%22")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n'
        f"{json.dumps(dict(metadata))}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n'
        f"Content-Type: {_content_type(name)}\r\n\r\n"
    )
    return (
        head.encode() + content + f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
    )


def _content_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "text/plain"
