# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Chromium in front of a real Open WebUI, with people made for each test.

What the environment has to say:

OPEN_WEBUI_URL                 the page, default http://127.0.0.1:8080
OPEN_WEBUI_CREDENTIALS_FILE    a file with WEBUI_ADMIN_EMAIL=... and WEBUI_ADMIN_PASSWORD=..., or
OPEN_WEBUI_ADMIN_EMAIL and OPEN_WEBUI_ADMIN_PASSWORD
OPEN_WEBUI_STAND_IN_URL        only where Open WebUI has no model called "stand-in": the address
                               under which it reaches tests/browser/upstream.py, with the /v1
OPEN_WEBUI_ENGINE_SYSTEMCTL    only for the test that stops the engine: systemctl on its host, such as
                               "ssh demo sudo systemctl"
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import typing as t
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    PUBLIC,
    Account,
    OpenWebUI,
    SessionFile,
    read_credentials,
)
from browser.network import private_network
from browser.page import Page
from browser.upstream import MODEL as STAND_IN
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, sync_playwright

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = os.environ.get("OPEN_WEBUI_URL", "http://127.0.0.1:8080").rstrip("/")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--unsafely-treat-insecure-as-secure-origin={URL}",  # or the clipboard is shut on plain http
]
ROOT = Path(__file__).parents[2]
# Open WebUI's own fault: now and then the page asks for channels before it knows that they are off.
CHANNELS = "/api/v1/channels/"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the docs' pictures be renewed by the tests that see what they show."""
    parser.addoption("--update-screenshots", action="store_true", help="write docs/images/ anew")


@dataclass(frozen=True)
class Person:
    """Someone who may sign in."""

    name: str
    email: str
    password: str


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> OpenWebUI:
    """Open WebUI as its administrator."""
    file = os.environ.get("OPEN_WEBUI_CREDENTIALS_FILE")
    email, password = (
        os.environ.get("OPEN_WEBUI_ADMIN_EMAIL"),
        os.environ.get("OPEN_WEBUI_ADMIN_PASSWORD"),
    )
    if file:
        email, password = read_credentials(file)
    if not (email and password):
        pytest.fail(f"Who is the administrator? {__doc__}")
    kept = SessionFile(tmp_path_factory.getbasetemp() / "session")
    return OpenWebUI(Account(URL, email, password, timeout=3600), sessions=kept)


@pytest.fixture(scope="session")
def stand_in(api: OpenWebUI) -> Iterator[str]:
    """Let everyone's new chats be with the stand-in; return what the model is called."""
    connections = api.get("/openai/config")
    url = os.environ.get("OPEN_WEBUI_STAND_IN_URL")
    added = not _served(api) and url
    if added:
        more = {"OPENAI_API_BASE_URLS": [*connections["OPENAI_API_BASE_URLS"], url]}
        more["OPENAI_API_KEYS"] = [*connections["OPENAI_API_KEYS"], "none"]
        api.post("/openai/config/update", {**connections, **more})
    if not _served(api):
        pytest.fail(f"Open WebUI at {URL} has no model {STAND_IN!r}. {__doc__}")
    known = {record["id"] for record in api.get("/api/v1/models/all")}
    if STAND_IN not in known:
        api.post("/api/v1/models/create", _public(STAND_IN))
    preset = api.get("/api/v1/configs/models")
    api.post("/api/v1/configs/models", {**preset, "DEFAULT_MODELS": STAND_IN})
    yield STAND_IN
    api.post("/api/v1/configs/models", preset)
    if STAND_IN not in known:
        api.post("/api/v1/models/model/delete", {"id": STAND_IN})
    if added:
        api.post("/openai/config/update", connections)


def _served(api: OpenWebUI) -> bool:
    return any(model["id"] == STAND_IN for model in api.get("/api/models")["data"])


def _public(model: str) -> dict[str, t.Any]:
    return {"id": model, "name": model, "meta": {}, "params": {}, "access_grants": [PUBLIC]}


@pytest.fixture
def make_person(api: OpenWebUI) -> Iterator[Callable[..., Person]]:
    """Make people for one test, who are gone after it, their chats with them."""
    made: list[str] = []

    def make(name: str = "Ada", role: str = "user") -> Person:
        tag = secrets.token_hex(4)
        person = Person(
            name, f"{name.lower()}-{tag}@browser-test.example", secrets.token_urlsafe(12)
        )
        form = {"name": name, "email": person.email, "password": person.password, "role": role}
        made.append(api.post("/api/v1/auths/add", form)["id"])
        return person

    yield make
    for user_id in made:
        api.delete(f"/api/v1/users/{user_id}")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run the system's own browser, as root in a network of its own (network.py)."""
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not path:
        pytest.fail("These tests drive a real browser: sudo apt-get install chromium")
    address = urlsplit(URL)
    with ExitStack() as stack:
        if os.geteuid() == 0 and address.hostname == "127.0.0.1":
            network = stack.enter_context(private_network("127.0.0.1", address.port or 80))
            inside = tmp_path_factory.mktemp("browser") / "chromium"
            inside.write_text(f'#!/bin/sh\nexec {shlex.join([*network.command, path])} "$@"\n')
            inside.chmod(0o755)
            path = str(inside)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


SIZES: dict[str, dict[str, t.Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 393, "height": 852}, "has_touch": True, "is_mobile": True},
}


@pytest.fixture
def expected_errors() -> list[str]:
    """Parts of console messages that belong to what a test does; a test adds its own."""
    return [CHANNELS]


@pytest.fixture
def open_page(
    chromium: Browser,
    expected_errors: list[str],
    make_person: Callable[..., Person],  # noqa: ARG001
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Page]]:
    """Open the page as a new visitor; afterwards see that it kept to itself and made no errors."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []
    strangers: list[str] = []

    def is_stranger(url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(URL).netloc

    def note_error(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"{message.text} ({message.location['url']})")

    def open_(size: str = "desktop") -> Page:
        context = chromium.new_context(**SIZES[size], locale="en-US", base_url=URL)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=URL)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note_error)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda sent: strangers.append(sent.url) if is_stranger(sent.url) else None
        )
        page.on(
            "websocket",
            lambda socket: strangers.append(socket.url) if is_stranger(socket.url) else None,
        )
        return Page(page, pictures=_pictures(request))

    yield open_
    for number, context in enumerate(contexts):
        for page in context.pages:
            output = ROOT / "tests/output/browser"
            page.screenshot(path=output / f"{request.node.name}-{number}.png")
        context.close()
    unexpected = [error for error in errors if not any(part in error for part in expected_errors)]
    assert not strangers, "the page asked other hosts"
    assert not unexpected, "the page made errors"


def _pictures(request: pytest.FixtureRequest) -> Path:
    if request.config.getoption("--update-screenshots"):
        return ROOT / "docs/images"
    return ROOT / "tests/output/browser"
