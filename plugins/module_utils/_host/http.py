# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small HTTP client whose every wait ends with one deadline, and whose failures have names.

The standard client's timeout starts anew with every byte that arrives, so a server that drips
holds it for ever. Here each wait is cut to what is left of the whole, an answer larger than the
limit is refused, and the bearer key appears in no message. A request can be made from inside the
network namespace of another process: how a container that publishes no port is asked.
"""

from __future__ import annotations

import ctypes
import http.client
import io
import json
import os
import re
import socket
import ssl
import threading
import time
import typing as t
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_BYTES = 4 * 1024 * 1024
_PIECE = 16 * 1024
_SHOWN = 300  # characters of a server's own words that a message repeats
_CLONE_NEWNET = 0x40000000
OK = range(200, 300)


class HttpError(Exception):
    """A request that did not go well; each kind below is one named failure."""

    failure: t.ClassVar[str]


class RefusedError(HttpError):
    """Nothing listens there."""

    failure = "api-refused"


class UnreachableError(HttpError):
    """There is no way to that address."""

    failure = "api-unreachable"


class NameNotFoundError(HttpError):
    """The host's name does not resolve."""

    failure = "api-name-unknown"


class TlsError(HttpError):
    """The certificate or the handshake is not acceptable."""

    failure = "api-tls"


class ConnectTimeoutError(HttpError):
    """No connection came about within the deadline."""

    failure = "api-connect-timeout"


class NoAnswerError(HttpError):
    """Connected, but not one byte came within the deadline."""

    failure = "api-no-answer"


class StalledError(HttpError):
    """An answer began and did not end within the deadline."""

    failure = "api-stalled"


class ResetError(HttpError):
    """The server broke the connection off."""

    failure = "api-reset"


class TruncatedError(HttpError):
    """The answer ended before its end."""

    failure = "api-truncated"


class TooLargeError(HttpError):
    """The answer is larger than any right one."""

    failure = "api-too-large"


class NotHttpError(HttpError):
    """What listens there does not speak HTTP."""

    failure = "api-not-http"


class WrongContentTypeError(HttpError):
    """The answer is of another kind than the one asked for."""

    failure = "api-content-type"


class InvalidJsonError(HttpError):
    """The answer calls itself JSON and is not."""

    failure = "api-invalid-json"


class NamespaceError(HttpError):
    """The network namespace of the container cannot be entered."""

    failure = "container-network"


class BadStatusError(HttpError):
    """The server answers with an error of its own."""

    failure = "api-status"

    def __init__(self, where: str, status: int, message: str) -> None:
        """Keep the status and the server's own words apart from the sentence."""
        super().__init__(f"{where} answers {status}{f': {message}' if message else ''}")
        self.status = status
        self.message = message


class Deadline:
    """What is left of a number of seconds."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting."""
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Return the seconds left; raise TimeoutError when there are none."""
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError
        return left

    @property
    def spent(self) -> bool:
        """Whether there is nothing left."""
        return self._clock() >= self._end


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    content_type: str
    body: bytes

    def json(self, where: str) -> object:
        """Parse the body as JSON; what is in it is for the caller to check."""
        if self.content_type != "application/json":
            raise WrongContentTypeError(
                f"{where} answers with content type '{self.content_type or 'none'}'"
                f" instead of JSON: {shorten(self.body)!r}"
            )
        try:
            return t.cast("object", json.loads(self.body))
        except (ValueError, RecursionError) as exc:
            raise InvalidJsonError(
                f"{where} answers with invalid JSON ({exc}): {shorten(self.body)!r}"
            ) from None


@dataclass(frozen=True)
class Content:
    """What a request sends along, and its headers."""

    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def json(cls, payload: Mapping[str, t.Any]) -> Content:
        """Send JSON."""
        return cls(json.dumps(payload).encode(), {"Content-Type": "application/json"})


@dataclass(frozen=True)
class Client:
    """One service, and how to ask it."""

    url: str
    key: str | None = field(default=None, repr=False)
    netns_pid: int | None = None
    validate_certs: bool = True
    max_bytes: int = MAX_BYTES

    def where(self, path: str) -> str:
        """Name what is asked, as messages show it."""
        return self.url.rstrip("/") + path

    def with_key(self, key: str | None) -> Client:
        """Return the same service, asked with another key."""
        return replace(self, key=key)

    def send(
        self, method: str, path: str, deadline: Deadline, content: Content | None = None
    ) -> Answer:
        """Send a request and wait for the whole answer, whatever its status."""
        with self._exchange(method, path, content or Content(), deadline) as exchange:
            return exchange.whole()

    def get(self, path: str, deadline: Deadline) -> Answer:
        """Fetch a path, whatever the status."""
        return self.send("GET", path, deadline)

    def get_ok(self, path: str, deadline: Deadline) -> Answer:
        """Fetch a path; any status but 2xx is an error."""
        return self._expect_ok(path, self.get(path, deadline))

    def get_json(self, path: str, deadline: Deadline) -> object:
        """Fetch a path that answers with JSON."""
        return self.get_ok(path, deadline).json(self.where(path))

    def post_json(self, path: str, payload: Mapping[str, t.Any], deadline: Deadline) -> object:
        """Send JSON to a path that answers with JSON."""
        answer = self.send("POST", path, deadline, Content.json(payload))
        return self._expect_ok(path, answer).json(self.where(path))

    @contextmanager
    def stream(
        self, path: str, payload: Mapping[str, t.Any], deadline: Deadline
    ) -> Iterator[Iterator[bytes]]:
        """Send JSON to a path that answers with a stream of events; get its pieces as they come."""
        with self._exchange("POST", path, Content.json(payload), deadline) as exchange:
            if exchange.status not in OK:
                self._expect_ok(path, exchange.whole())
            if exchange.content_type != "text/event-stream":
                raise WrongContentTypeError(
                    f"{self.where(path)} answers with content type '{exchange.content_type}'"
                    f" instead of a stream: {shorten(exchange.whole().body)!r}"
                )
            yield exchange.pieces()

    def _expect_ok(self, path: str, answer: Answer) -> Answer:
        if answer.status not in OK:
            message = server_message(answer.body)
            if self.key:
                message = message.replace(self.key, "********")
            raise BadStatusError(self.where(path), answer.status, message)
        return answer

    @contextmanager
    def _exchange(
        self, method: str, path: str, content: Content, deadline: Deadline
    ) -> Iterator[_Exchange]:
        exchange = _Exchange(self, path, deadline)
        try:
            with exchange.named_failures():
                exchange.start(method, content)
                yield exchange
        finally:
            exchange.close()


class _Exchange:
    """One request and its answer, within a deadline."""

    def __init__(self, client: Client, path: str, deadline: Deadline) -> None:
        self._client = client
        self._path = path
        self._deadline = deadline
        self._where = client.where(path)
        self._socket: _DeadlineSocket | None = None
        self._response: http.client.HTTPResponse | None = None
        self.status = 0
        self.content_type = ""

    def start(self, method: str, content: Content) -> None:
        """Connect, send the request, and read the head of the answer."""
        parts = urllib.parse.urlsplit(self._client.url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        sock = _connect(host, port, self._client.netns_pid, self._deadline)
        if secure:
            sock = _secure(sock, host, self._deadline, validate=self._client.validate_certs)
        self._socket = _DeadlineSocket(sock, self._deadline)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = t.cast("socket.socket", self._socket)
        headers = {"Accept": "application/json, text/event-stream, */*", "Connection": "close"}
        if self._client.key:
            headers["Authorization"] = f"Bearer {self._client.key}"
        headers |= content.headers
        connection.request(method, parts.path.rstrip("/") + self._path, content.body, headers)
        self._response = connection.getresponse()
        self.status = self._response.status
        content_type = self._response.getheader("Content-Type", "").partition(";")[0]
        self.content_type = content_type.strip().lower()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives."""
        response = t.cast("http.client.HTTPResponse", self._response)
        length, size = response.length, 0  # read1 itself heeds the length in newer Pythons only
        while size != length and (piece := response.read1(_PIECE)):
            size += len(piece)
            if size > self._client.max_bytes:
                raise TooLargeError(
                    f"{self._where} answers with more than {self._client.max_bytes} bytes"
                )
            yield piece
        if length is not None and size < length:
            raise TruncatedError(f"{self._where} ends after {size} of {length} bytes")

    def whole(self) -> Answer:
        """Read the rest of the body."""
        return Answer(self.status, self.content_type, b"".join(self.pieces()))

    def close(self) -> None:
        """Let go of the connection."""
        if self._response is not None:
            self._response.close()
        if self._socket is not None:
            self._socket.shut()

    @contextmanager
    def named_failures(self) -> Iterator[None]:
        """Give each way to fail its name."""
        where = self._where
        try:
            yield
        except TimeoutError:
            raise self._timed_out() from None
        except ssl.SSLError as exc:
            raise TlsError(f"No trusted connection to {where}: {exc}") from None
        except (socket.gaierror, UnicodeError) as exc:
            raise NameNotFoundError(f"The host of {where} is not known: {exc}") from None
        except ConnectionRefusedError:
            raise RefusedError(f"Nothing listens at {where}") from None
        except http.client.IncompleteRead as exc:
            raise TruncatedError(f"{where} ends before its end: {exc}") from None
        except ConnectionError:
            when = "in the middle of" if self._response else "before"
            raise ResetError(f"{where} broke the connection off {when} its answer") from None
        except http.client.HTTPException as exc:
            raise NotHttpError(
                f"{where} does not answer in HTTP: {type(exc).__name__} {shorten(str(exc))}"
            ) from None
        except OSError as exc:
            raise UnreachableError(f"No way to {where}: {exc.strerror or exc}") from None

    def _timed_out(self) -> HttpError:
        """Name a timeout by how far the exchange had come."""
        deadline = f"before the deadline of {self._deadline.seconds:g} s"
        if self._socket is None:
            return ConnectTimeoutError(f"No connection to {self._where} {deadline}")
        if not self._socket.received:
            return NoAnswerError(f"{self._where} gave no answer {deadline}")
        return StalledError(f"{self._where} began to answer and did not finish {deadline}")


class _DeadlineSocket:
    """As much of a socket as http.client uses, with one deadline for all its waits."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self.received = False

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def makefile(self, *_mode: object) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self), _PIECE)

    def receive_into(self, buffer: memoryview) -> int:
        self._sock.settimeout(self._deadline.left())
        size = self._sock.recv_into(buffer)
        self.received = self.received or size > 0
        return size

    def close(self) -> None:
        """Do nothing: http.client closes its socket before it has read the answer."""

    def shut(self) -> None:
        self._sock.close()


class _DeadlineReader(io.RawIOBase):
    """The reading end of such a socket."""

    def __init__(self, sock: _DeadlineSocket) -> None:
        super().__init__()
        self._source = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        return self._source.receive_into(memoryview(t.cast("bytearray", buffer)))


def _connect(host: str, port: int, netns_pid: int | None, deadline: Deadline) -> socket.socket:
    """Open a connection in a thread of its own.

    Name resolution has no timeout of its own, and entering a network namespace must not move the
    rest of the program there: a thread that is left behind solves both.
    """
    result: list[socket.socket | Exception] = []

    def connect() -> None:
        try:
            if netns_pid is not None:
                _enter_network_of(netns_pid)
            result.append(socket.create_connection((host, port), timeout=deadline.left()))
        except (OSError, UnicodeError, HttpError) as exc:
            result.append(exc)  # and raised again in the thread that waits

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not result:
        raise TimeoutError
    outcome = result[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _enter_network_of(pid: int) -> None:
    """Move this thread into the network namespace of a process."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    except FileNotFoundError:
        raise NamespaceError(f"The container's process {pid} is gone") from None
    except PermissionError:
        raise NamespaceError(_needs_root(pid)) from None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise NamespaceError(f"{_needs_root(pid)} ({os.strerror(ctypes.get_errno())})")
    finally:
        os.close(namespace)


def _needs_root(pid: int) -> str:
    return f"Only root can enter the network of the container's process {pid}"


def _secure(sock: socket.socket, host: str, deadline: Deadline, *, validate: bool) -> socket.socket:
    context = ssl.create_default_context()
    if not validate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        sock.settimeout(deadline.left())
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def server_message(body: bytes) -> str:
    """Find the sentence in an error answer: OpenAI's shape, FastAPI's, or the text itself."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return shorten(re.sub(r"<[^>]*>", " ", body.decode(errors="replace")))
    for key in ("error", "detail", "message"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return shorten(said if isinstance(said, str) else json.dumps(said))


def shorten(text: str | bytes) -> str:
    """Bring a server's words onto one line of bearable length."""
    if isinstance(text, bytes):
        text = text[: 4 * _SHOWN].decode(errors="replace")
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
