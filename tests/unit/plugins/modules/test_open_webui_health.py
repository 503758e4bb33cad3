# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""open_webui_health through main(): against a page that misbehaves."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import FAILURES
from ansible_collections.sparerig.llm.plugins.modules import open_webui_health
from stand_ins import misbehaving_server

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[..., dict[str, t.Any]]

SERVER = misbehaving_server()
# For pages that would use up any deadline.
SHORT = {"deadline": 1.5}
ACCOUNT = {"email": "admin@example.com", "password": SERVER.SESAME}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """Start a misbehaving server; the behaviour comes behind its address."""
    with SERVER.running() as address:
        yield address


@pytest.fixture
def ask(run_module: Ask, base: str) -> Ask:
    """Ask a page of the given behaviour, with a short deadline."""

    def ask(behaviour: str = "healthy", **options: t.Any) -> dict[str, t.Any]:
        return run_module(
            open_webui_health, **({"url": f"{base}/{behaviour}", "deadline": 20} | options)
        )

    return ask


def statuses(answer: dict[str, t.Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in answer["checks"]}


def failed(answer: dict[str, t.Any]) -> list[tuple[str, str]]:
    return [(c["name"], c["failure"]) for c in answer["checks"] if c["status"] == "fail"]


def test_all_is_well(ask: Ask) -> None:
    SERVER.Handler.sign_ins = 0

    answer = ask("healthy/", model="tiny", document_probe=True, **ACCOUNT)

    assert "failed" not in answer, answer["msg"]
    assert not answer["changed"]
    assert statuses(answer) == dict.fromkeys(
        [
            "web_health",
            "web_page",
            "web_sign_in",
            "web_model",
            "document_upload",
            "document_index",
            "document_in_prompt",
        ],
        "pass",
    )
    assert (answer["version"], answer["failure"]) == ("0.0.stand-in", "")
    assert len(answer["report"]) == len(answer["checks"])
    assert SERVER.Handler.sign_ins == 1, "the page allows 15 in three minutes"


def test_any_model_will_do_when_none_is_named(ask: Ask) -> None:
    assert statuses(ask(**ACCOUNT))["web_model"] == "pass"


@pytest.mark.parametrize(
    ("behaviour", "options", "noticed"),
    [
        ("dead", {}, ("web_health", "web-no-page")),
        ("silent", SHORT, ("web_health", "web-unreachable")),
        ("web-no-page", {}, ("web_page", "web-no-page")),
        ("web-no-config", {}, ("web_page", "web-no-page")),
        ("web-open", {}, ("web_page", "web-open")),
        ("web-no-token", {}, ("web_sign_in", "web-sign-in")),
        ("web-reset", {}, ("web_sign_in", "web-unreachable")),
        ("web-broken", {}, ("web_sign_in", "web-no-page")),
        ("healthy", {"password": "wrong"}, ("web_sign_in", "web-sign-in")),
        ("web-no-model", {}, ("web_model", "web-no-model")),
        ("web-other-model", {"model": "tiny"}, ("web_model", "web-no-model")),
    ],
)
def test_web_faults(
    ask: Ask, behaviour: str, options: dict[str, t.Any], noticed: tuple[str, str]
) -> None:
    account = ACCOUNT | options

    answer = ask(behaviour, **account)

    assert failed(answer) == [noticed]


@pytest.mark.parametrize(
    ("behaviour", "noticed"),
    [
        ("healthy", []),
        ("documents-refused", [("document_upload", "document-refused")]),
        ("documents-not-indexed", [("document_index", "document-not-indexed")]),
        ("documents-unanswered", [("document_in_prompt", "document-question-fails")]),
        ("documents-not-found", [("document_in_prompt", "document-not-in-prompt")]),
        ("web-no-model", [("web_model", "web-no-model")]),
    ],
)
def test_documents(ask: Ask, behaviour: str, noticed: list[tuple[str, str]]) -> None:
    answer = ask(behaviour, document_probe=True, **ACCOUNT)

    assert failed(answer) == noticed
    assert [name for name in statuses(answer) if name.startswith("document")] == [
        "document_upload",
        "document_index",
        "document_in_prompt",
    ]
    assert SERVER.Handler.documents == [], "the document was left"


def test_documents_leave_a_page_in_check_mode_alone(ask: Ask) -> None:
    answer = ask(document_probe=True, check=True, **ACCOUNT)

    assert "document_upload" not in statuses(answer)


def test_page_without_an_account(ask: Ask) -> None:
    answer = ask()

    assert statuses(answer)["web_page"] == "pass"
    assert "web_sign_in" not in statuses(answer)


def test_page_that_wants_no_more_sign_ins(ask: Ask) -> None:
    answer = ask("web-busy", **ACCOUNT)

    assert failed(answer) == []
    assert statuses(answer)["web_sign_in"] == "unknown"
    assert statuses(answer)["web_model"] == "skipped"


def test_the_failure_is_named_and_its_remedy_filled_in(ask: Ask) -> None:
    answer = ask("web-no-model", unit="page-2", engine_unit="engine-2", **ACCOUNT)

    assert answer["failed"]
    assert answer["failure"] == "web-no-model"
    assert FAILURES["web-no-model"].title in answer["msg"]
    assert "page-2" in answer["msg"]
    assert "engine-2" in answer["msg"]


def test_deadline_spent_before_anything_failed(ask: Ask) -> None:
    answer = ask(deadline=1e-9, document_probe=True, **ACCOUNT)

    assert failed(answer) == [("deadline", "deadline-spent")]
    assert set(statuses(answer).values()) == {"fail", "skipped"}


# Options


@pytest.mark.parametrize("given", [ACCOUNT["email"], None])
def test_credentials_from_a_file_that_are_never_shown(
    ask: Ask, tmp_path: Path, given: str | None
) -> None:
    file = tmp_path / "web.env"
    file.write_text(f"WEBUI_ADMIN_EMAIL=a@b.c\nWEBUI_ADMIN_PASSWORD={SERVER.SESAME}\n")
    account = {"email": given} if given else {}

    answer = ask(credentials_file=str(file), **account)

    assert failed(answer) == []
    assert statuses(answer)["web_model"] == "pass"
    assert f"{given or 'a@b.c'} signs in" in str(answer)
    assert SERVER.SESAME not in str(answer)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"deadline": 0}, "deadline is 0.0: it must be above 0"),
        ({"document_timeout": -1}, "document_timeout is -1.0: it must be above 0"),
        ({"document_probe": True}, "document_probe is true: email and a password are needed"),
        ({"url": "127.0.0.1"}, "url is '127.0.0.1'"),
        ({"email": "a@b.c"}, "password or credentials_file is needed"),
        ({"password": "x"}, "missing parameter(s) required by 'password': email"),
        (
            {"email": "a@b.c", "password": "12345", "credentials_file": "/x"},
            "mutually exclusive: password|credentials_file",
        ),
        ({"credentials_file": "/nonexistent"}, "/nonexistent cannot be read"),
    ],
)
def test_options_that_cannot_be_meant(ask: Ask, options: dict[str, t.Any], says: str) -> None:
    answer = ask(**options)

    assert answer["failed"]
    assert says in answer["msg"]
    assert "checks" not in answer
