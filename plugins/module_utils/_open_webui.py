# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client for the API of Open WebUI: signs in, retries what may be retried, explains the rest.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import json
import re
import time
import typing as t
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ansible.module_utils.urls import open_url

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json = t.Any

OLDEST = (0, 11)
"""The oldest release line that has every route used here (read in its source)."""
TESTED = (0, 12)
"""The release line that the collection's tests run against."""

PUBLIC = {"principal_type": "user", "principal_id": "*", "permission": "read"}
"""The access grant that opens a model or a knowledge base to everyone who is signed in."""

_PAUSE = 1.0
_PAUSE_LIMITED = 20.0  # an attempt that is refused counts too: asking more often keeps the door shut
_TOO_MANY = 429
_AGAIN = (502, 503, 504)
_UNAUTHORISED = 401
_FORBIDDEN = 403
_NOT_FOUND = 404
_OK = (200, 201, 204)


class OpenWebUIError(Exception):
    """Something a person can act on; the message says what."""


class UnexpectedAnswerError(OpenWebUIError):
    """Open WebUI answered, but not with what was asked for."""

    def __init__(self, method: str, url: str, status: int, detail: str, hint: str = "") -> None:
        self.status = status
        self.detail = detail
        message = f"{method} {url} answered {status}: {detail or 'no reason given'}"
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


class Transport(t.Protocol):
    """Sends one request. Raises ConnectionRefusedError when nobody listens, OSError otherwise."""

    def __call__(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> Answer: ...


def http_transport(*, validate_certs: bool = True) -> Transport:
    """Send requests straight to the host: a proxy has no business between a PC and its own page."""

    def send(method: str, url: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> Answer:
        try:
            with open_url(
                url,
                data=body,
                headers=dict(headers),
                method=method,
                use_proxy=False,
                timeout=timeout,
                validate_certs=validate_certs,
                follow_redirects="none",
            ) as response:
                return Answer(response.status, response.read())
        except HTTPError as error:
            return Answer(error.code, error.read())
        except URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from error
            raise OSError(str(error.reason)) from error

    return send


def read_credentials(path: str) -> tuple[str | None, str]:
    """Read address and password of the administrator from an environment file (``NAME=value``)."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        message = f"The credentials file {path} cannot be read: {error.strerror}. It is made by the role open_webui; run the play with become."
        raise OpenWebUIError(message) from error
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    if not values.get("WEBUI_ADMIN_PASSWORD"):
        raise OpenWebUIError(f"The credentials file {path} has no line WEBUI_ADMIN_PASSWORD=...")
    return values.get("WEBUI_ADMIN_EMAIL"), values["WEBUI_ADMIN_PASSWORD"]


def parse_version(text: str) -> tuple[int, ...]:
    """Turn ``0.12.4`` (or ``v0.12.4-dev``) into numbers; an empty tuple when it has none."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()


class OpenWebUI:
    """A signed-in session. One per module call: sign-ins are limited to 15 in three minutes."""

    def __init__(
        self,
        account: Account,
        *,
        warn: Callable[[str], None] = lambda _: None,
        transport: Transport | None = None,
    ) -> None:
        self.account = account
        self.base = account.url.rstrip("/")
        self._send = transport or http_transport(validate_certs=account.validate_certs)
        self._deadline = time.monotonic() + account.timeout
        self._headers: dict[str, str] = {"Accept": "application/json"}
        self.version = self._check_version(warn)
        self.user_id = self._sign_in()

    # What can be asked.

    def get(self, path: str, **query: t.Any) -> Json:
        """Read; asked again while Open WebUI starts or is busy."""
        return self._json("GET", self._url(path, query), None, repeatable=True)

    def post(self, path: str, body: Json = None, **query: t.Any) -> Json:
        """Change something; never sent twice once it may have arrived."""
        return self._json("POST", self._url(path, query), body)

    def delete(self, path: str) -> Json:
        """Remove something; that it is gone already is no failure."""
        try:
            return self._json("DELETE", self._url(path, {}), None)
        except UnexpectedAnswerError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def upload(self, name: str, content: bytes, metadata: Mapping[str, str] | None = None) -> Json:
        """Send one file; answers its record at once, indexing goes on behind it."""
        body, content_type = _multipart(name, content, metadata or {})
        headers = {**self._headers, "Content-Type": content_type}
        url = self._url("/api/v1/files/", {})
        return self._decode("POST", url, self._exchange("POST", url, body, headers, repeatable=False))

    def remaining(self) -> float:
        """Seconds left of what the caller allowed."""
        return self._deadline - time.monotonic()

    # How it is asked.

    def _url(self, path: str, query: Mapping[str, t.Any]) -> str:
        return f"{self.base}{path}" + (f"?{urlencode(query)}" if query else "")

    def _json(self, method: str, url: str, body: Json, *, repeatable: bool = False) -> Json:
        headers = dict(self._headers)
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return self._decode(method, url, self._exchange(method, url, data, headers, repeatable=repeatable))

    def _exchange(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], *, repeatable: bool
    ) -> Answer:
        while True:
            try:
                answer = self._send(method, url, body, headers, max(1.0, self.remaining()))
            except ConnectionRefusedError as error:  # nobody heard it, so it may be said again
                self._wait_or_give_up(f"Nobody listens at {self.base}", error)
            except OSError as error:
                if not repeatable:
                    message = f"{method} {url} broke off ({error}): whether it was done is not known. Run the play again: what is done stays done."
                    raise OpenWebUIError(message) from error
                self._wait_or_give_up(f"{method} {url} failed ({error})", error)
            else:
                if not (repeatable and answer.status in _AGAIN) or self.remaining() < _PAUSE:
                    return answer
                time.sleep(_PAUSE)

    def _wait_or_give_up(self, problem: str, error: OSError) -> None:
        if self.remaining() < _PAUSE:
            hint = f"{problem} within {self.account.timeout:g} s. Is Open WebUI running (systemctl status open-webui), and is the address right?"
            raise OpenWebUIError(hint) from error
        time.sleep(_PAUSE)

    def _decode(self, method: str, url: str, answer: Answer) -> Json:
        if answer.status not in _OK:
            raise UnexpectedAnswerError(method, url, answer.status, _detail(answer.body), _hint(answer.status))
        if not answer.body:
            return None
        try:
            return json.loads(answer.body)
        except ValueError as error:
            hint = "This is not the API of Open WebUI; is a proxy or another program at this address?"
            raise UnexpectedAnswerError(method, url, answer.status, "something that is not JSON", hint) from error

    # Before anything else.

    def _check_version(self, warn: Callable[[str], None]) -> str:
        """Refuse what is known not to work, warn of what was never tried."""
        answer = self.get("/api/version")
        text = str(answer.get("version") or "") if isinstance(answer, dict) else ""
        version = parse_version(text)
        oldest, tested = (".".join(map(str, numbers)) for numbers in (OLDEST, TESTED))
        if not version:
            raise OpenWebUIError(f"{self.base}/api/version names no version ({text!r}): this is not Open WebUI.")
        if version[:2] < OLDEST:
            message = f"Open WebUI {text} at {self.base} is older than {oldest}: it lacks parts of the API that are needed here. Upgrade it."
            raise OpenWebUIError(message)
        if version[:2] > TESTED:
            warn(f"Open WebUI {text} at {self.base} is newer than what this collection was tested with ({tested}.x): check the result.")
        return text

    def _sign_in(self) -> str:
        url = self._url("/api/v1/auths/signin", {})
        body = json.dumps({"email": self.account.email, "password": self.account.password}).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        while True:
            answer = self._exchange("POST", url, body, headers, repeatable=True)
            if answer.status != _TOO_MANY or self.remaining() < _PAUSE_LIMITED:
                break
            time.sleep(_PAUSE_LIMITED)
        if answer.status not in _OK:
            raise UnexpectedAnswerError("POST", url, answer.status, _detail(answer.body), self._sign_in_hint(answer.status))
        session = self._decode("POST", url, answer)
        if session.get("role") != "admin":
            message = f"{self.account.email} signed in at {self.base} with the role {session.get('role')!r}: people and content are managed by an administrator."
            raise OpenWebUIError(message)
        self._headers["Authorization"] = f"Bearer {session['token']}"
        return str(session["id"])

    def _sign_in_hint(self, status: int) -> str:
        if status == _TOO_MANY:
            return "Open WebUI allows 15 sign-ins per address in three minutes, the good ones included: wait three minutes, or raise timeout."
        if status in (400, _UNAUTHORISED):
            return (
                f"The address {self.account.email} or its password is wrong. The password of the first administrator is set only when the "
                "database is made; if it was changed in the page since, give that one."
            )
        return ""


def quoted(part: str) -> str:
    """Make a value safe inside a path."""
    return quote(part, safe="")


def can_sign_in(account: Account, transport: Transport | None = None) -> bool:
    """Say whether this address and password are accepted, whatever the account may do."""
    send = transport or http_transport(validate_certs=account.validate_certs)
    url = f"{account.url.rstrip('/')}/api/v1/auths/signin"
    body = json.dumps({"email": account.email, "password": account.password}).encode()
    answer = send("POST", url, body, {"Content-Type": "application/json"}, account.timeout)
    if answer.status in (400, _UNAUTHORISED):
        return False
    if answer.status not in _OK:
        hint = "Whether the password of this account is the wanted one could not be found out."
        raise UnexpectedAnswerError("POST", url, answer.status, _detail(answer.body), hint)
    return True


def _detail(body: bytes) -> str:
    """Take the reason out of an error answer; never what was sent, which validation errors repeat."""
    try:
        detail = json.loads(body).get("detail", "")
    except (ValueError, AttributeError):
        return "an answer that is not Open WebUI's (a proxy's?)" if body else ""
    if isinstance(detail, list):
        problems = ("{}: {}".format(".".join(map(str, item.get("loc", [])[1:])), item.get("msg", "")) for item in detail)
        return "; ".join(problems)
    return str(detail).rstrip(".")


def _hint(status: int) -> str:
    if status == _UNAUTHORISED:
        return "The session ended or lacks the right; Open WebUI also answers so for things that do not exist."
    if status == _FORBIDDEN:
        return "Open WebUI forbids this: the first administrator cannot be changed by others, demoted or removed."
    if status == _NOT_FOUND:
        return "It is gone, or this version of Open WebUI has no such route."
    return ""


def _multipart(name: str, content: bytes, metadata: Mapping[str, str]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    safe = name.replace("\\", "\\\\").replace('"', "%22")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{json.dumps(dict(metadata))}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n'
        f"Content-Type: {_content_type(name)}\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _content_type(name: str) -> str:
    """Name the types that Open WebUI chooses a reader by; the rest it tells from the suffix."""
    suffix = Path(name).suffix.lower()
    return {".pdf": "application/pdf", ".html": "text/html", ".csv": "text/csv"}.get(suffix, "text/plain")
