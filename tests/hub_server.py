# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Hugging Face hub on loopback: real HTTP, and faults on demand.

It speaks the calls of a download: the listing of a revision with sizes and hashes, and the files,
large ones by redirect to a second server on another port, as the hub sends them to its CDN.
``python tests/hub_server.py`` serves some small models until somebody asks for ``/quit``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from model_files import changed, model_files

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self

LARGE = (".safetensors", ".gguf", ".bin")
CHUNK = 4096


@dataclasses.dataclass
class Repository:
    """A repository: commits with their files, and what branches and tags stand for."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    license: str = "llama3"
    gated: bool = False
    private: bool = False


@dataclasses.dataclass
class Fault:
    """Something that goes wrong with requests whose path contains a text, so many times."""

    path: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cut_after: int | None = None
    flip_at: int | None = None
    ignore_range: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client asked for."""

    port: int
    method: str
    path: str
    range: str | None
    authorization: str | None


def commit_of(files: Mapping[str, bytes]) -> str:
    """Name a commit by what is in it."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name])
    return digest.hexdigest()


class HubServer:
    """The hub and its CDN."""

    def __init__(self) -> None:
        """Take the ports; answer from ``__enter__`` on."""
        self.repositories: dict[str, Repository] = {}
        # Who may read what is gated or private, by token.
        self.grants: dict[str, set[str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        # Seconds between two chunks of 4 KiB, for tests that must meet a download half-way.
        self.pause = 0.0
        self.stopped = threading.Event()
        self._mutex = threading.Lock()
        self._hub = _Server(("127.0.0.1", 0), _HubHandler, self)
        self._cdn = _Server(("127.0.0.1", 0), _CdnHandler, self)
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.cdn_url = f"http://127.0.0.1:{self._cdn.server_port}"
        self.cdn_port = self._cdn.server_port

    def __enter__(self) -> Self:
        """Start to answer."""
        for server in (self._hub, self._cdn):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        """Stop, and let go of the ports."""
        self.stopped.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: Mapping[str, bytes], *refs: str) -> str:
        """Add a commit to a repository, to which branches and tags then point."""
        repository = self.repositories.setdefault(name, Repository({}, {}))
        commit = commit_of(files)
        repository.commits[commit] = dict(files)
        repository.refs.update(dict.fromkeys(refs or ("main",), commit))
        return commit

    def fault_for(self, path: str) -> Fault | None:
        """Take a fault that is due."""
        with self._mutex:
            for fault in self.faults:
                if fault.times and fault.path in path:
                    fault.times -= 1
                    return fault
        return None

    def asked_for(self, text: str) -> int:
        """Count the requests whose path contains a text."""
        return sum(text in request.path for request in self.requests)

    def weights_sent(self) -> bool:
        """Tell whether the CDN was asked for anything."""
        return any(request.port == self.cdn_port for request in self.requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], hub: HubServer
    ) -> None:
        super().__init__(address, handler)
        self.hub = hub

    def handle_error(self, *request: t.Any) -> None:
        """Say nothing of clients that went away: tests kill them."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub

    def log_message(self, *_unused: object) -> None:
        """Say nothing: what was asked is in ``requests``."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append(
            Request(
                self.server.server_port,
                self.command,
                self.path,
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        self.fault = self.hub.fault_for(self.path)
        if self.fault and self.fault.status:
            self.answer(self.fault.status, b"a fault on demand", dict(self.fault.headers))
        else:
            self.serve(unquote(urlsplit(self.path).path))

    def serve(self, path: str) -> None:
        raise NotImplementedError

    def answer(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.send(body)

    def send(self, body: bytes) -> None:
        """Send a body, with its fault, at the pace asked for."""
        fault = self.fault or Fault("")
        if fault.flip_at is not None:
            body = (
                body[: fault.flip_at] + bytes([body[fault.flip_at] ^ 1]) + body[fault.flip_at + 1 :]
            )
        if fault.cut_after is not None:
            body = body[: fault.cut_after]
            self.close_connection = True
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), CHUNK):
                self.wfile.write(body[start : start + CHUNK])
                # Not time.sleep: tests replace it to see the client's pauses.
                self.hub.stopped.wait(self.hub.pause)

    def content(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer with a file, or with the range of it that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not asked or (self.fault and self.fault.ignore_range):
            self.answer(200, body, {**headers, "Accept-Ranges": "bytes"})
            return
        start = int(asked[1])
        if start >= len(body):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.answer(206, body[start:], {**headers, "Content-Range": span})


class _HubHandler(_Handler):
    def serve(self, path: str) -> None:
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if api:
            self.serve_listing(api[1], api[2] or "main")
        elif file:
            self.serve_file(file[1], file[2], file[3])
        elif path == "/quit":
            self.answer(200)
            self.hub.stopped.set()
        else:
            self.refuse(404, "", "no such page")

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer(status, json.dumps({"error": message}).encode(), headers)

    def may_read(self, name: str, *, what_is_gated: bool) -> bool:
        """Answer a client that may not read, as the hub does."""
        header = self.headers.get("Authorization")
        token = header.removeprefix("Bearer ") if header else None
        if token is not None and token not in self.hub.grants:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return False
        granted = token is not None and name in self.hub.grants[token]
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not granted):
            status = 404 if token else 401
            self.refuse(status, "RepoNotFound", "Repository not found")
            return False
        if what_is_gated and repository.gated and not granted:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
            return False
        return True

    def files_of(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.hub.repositories[name]
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, repository.commits[commit]

    def serve_listing(self, name: str, revision: str) -> None:
        # A gated model's listing is open; its files are not.
        if not self.may_read(name, what_is_gated=False):
            return
        found = self.files_of(name, revision)
        if found is None:
            return
        commit, files = found
        repository = self.hub.repositories[name]
        siblings: list[dict[str, t.Any]] = []
        for path, content in files.items():
            git = hashlib.sha1(f"blob {len(content)}\0".encode(), usedforsecurity=False)
            git.update(content)
            entry = {"rfilename": path, "size": len(content), "blobId": git.hexdigest()}
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        listing = {
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "cardData": {"license": repository.license},
            "siblings": siblings,
        }
        body = json.dumps(listing).encode()
        self.answer(200, body, {"Content-Type": "application/json"})

    def serve_file(self, name: str, revision: str, path: str) -> None:
        if not self.may_read(name, what_is_gated=True):
            return
        found = self.files_of(name, revision)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        content = files[path]
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if not path.endswith(LARGE):
            self.content(content, headers)
            return
        location = f"{self.hub.cdn_url}/{name}/{commit}/{path}?Signature=secret-of-this-address"
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
        self.answer(302, b"", {**headers, "Location": location})


class _CdnHandler(_Handler):
    def serve(self, path: str) -> None:
        organisation, name, commit, file = path.lstrip("/").split("/", 3)
        self.content(self.hub.repositories[f"{organisation}/{name}"].commits[commit][file], {})


@contextlib.contextmanager
def running(files: Mapping[str, bytes], name: str = "example/model") -> Iterator[HubServer]:
    """Run a hub with one model."""
    with HubServer() as hub:
        hub.add(name, files)
        yield hub


def main() -> None:
    """Serve some small models until somebody asks for /quit, for tests that are not in Python."""
    server = HubServer()
    server.add("example/model", model_files())
    server.add("example/model", {**model_files(), "README.md": b"newer"}, "newer")
    server.add("example/gated", model_files())
    server.repositories["example/gated"].gated = True
    ordered = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
    server.add("example/act-order", changed(model_files(), quantization_config=ordered))
    sys.stdout.write(json.dumps({"url": server.url}) + "\n")
    sys.stdout.flush()
    if "--background" in sys.argv:
        if os.fork():
            os._exit(0)
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
    with server:
        server.stopped.wait()


if __name__ == "__main__":
    main()
