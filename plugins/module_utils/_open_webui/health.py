# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of the chat page: it answers, signs people in, shows the model, takes documents.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import StopSectionError
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    BadStatusError,
    Client,
    HttpError,
    InvalidJsonError,
    NotHttpError,
    TooLargeError,
    WrongContentTypeError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.verification import give_up
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui import document_probe
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    Account,
    OpenSession,
    OpenWebUI,
    OpenWebUIError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.health import list_models

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Deadline

_REJECTED = (400, 401, 403, 422)  # how a sign-in is turned down
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class PageExpectations:
    """What is expected of the page to those who signed in."""

    model: str | None = None  # the name that has to be shown; None: any
    document_timeout: float | None = None  # seconds to index a document; None: not proven


def verify_page(
    account: Account, expectations: PageExpectations, evidence: Evidence, deadline: Deadline
) -> str | None:
    """Make all the checks of a page, with one sign-in; return the page's version.

    Without an e-mail address in ``account`` only the page itself is checked.
    """
    client = Client(account.url, validate_certs=account.validate_certs)
    if deadline.spent:
        give_up(web_checks(account), deadline, evidence)
        token, version = None, None
    else:
        token, version = check_web(client, account, expectations.model, evidence, deadline)
    if account.email and expectations.document_timeout is not None:
        check_documents(account, token, expectations, evidence, deadline)
    return version


def web_checks(account: Account) -> list[str]:
    """Name the checks that the options ask for."""
    return ["web_health", "web_page", *(["web_sign_in", "web_model"] if account.email else [])]


def check_web(
    client: Client,
    account: Account,
    model: str | None,
    evidence: Evidence,
    deadline: Deadline,
) -> tuple[str | None, str | None]:
    """Check the chat page as a person meets it.

    Returns the token of a session that sees the model, None where there is none, and the version.
    """
    seen_by, version = None, None
    with evidence.section(web_checks(account)):
        _web(evidence, "web_health", "the chat page up", lambda: client.get_ok("/health", deadline))
        evidence.passed("web_health", expected="the chat page up", seen="200")
        version = _check_page(client, evidence, deadline)
        if account.email:
            token = _sign_in(client, account, evidence, deadline)
            if _check_web_model(client.with_key(token), model, evidence, deadline):
                seen_by = token
    return seen_by, version


def check_documents(
    account: Account,
    token: str | None,
    expectations: PageExpectations,
    evidence: Evidence,
    deadline: Deadline,
) -> None:
    """Prove that documents work, in the session of somebody who sees the model."""
    if token is None:
        evidence.skip(document_probe.CHECKS, "nobody signed in and saw the model")
        return
    if deadline.spent:
        give_up(document_probe.CHECKS, deadline, evidence)
        return
    patience = min(expectations.document_timeout or 0, deadline.left())
    try:
        client = OpenWebUI(
            replace(account, timeout=deadline.left()),
            sessions=OpenSession(token),
            administrator=False,
        )
    except OpenWebUIError as exc:
        expected = f"{account.email} may upload a document"
        evidence.failed("document_upload", "document-refused", expected=expected, seen=str(exc))
        evidence.skip(document_probe.CHECKS[1:], "document_upload failed")
        return
    document_probe.probe_documents(client, expectations.model, evidence, index_timeout=patience)


_T = t.TypeVar("_T")


def _web(evidence: Evidence, name: str, expected: str, ask: Callable[[], _T]) -> _T:
    """Ask the page something; whatever goes wrong is named as the page's failure."""
    try:
        return ask()
    except HttpError as exc:
        other = (
            BadStatusError,
            WrongContentTypeError,
            InvalidJsonError,
            NotHttpError,
            TooLargeError,
        )
        failure = "web-no-page" if isinstance(exc, other) else "web-unreachable"
        evidence.stop(name, failure, expected=expected, seen=str(exc))


def _check_page(client: Client, evidence: Evidence, deadline: Deadline) -> str | None:
    """Check that the sign-in page is served, and that signing in is needed."""
    expected = f"a sign-in page at {client.where('/')}"
    page = _web(evidence, "web_page", expected, lambda: client.get_ok("/", deadline))
    if page.content_type != "text/html":
        seen = f"content type '{page.content_type}'"
        evidence.stop("web_page", "web-no-page", expected=expected, seen=seen)
    config = _web(evidence, "web_page", expected, lambda: client.get_json("/api/config", deadline))
    features = config.get("features") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(features, dict):
        seen = "an /api/config of another form"
        evidence.stop("web_page", "web-no-page", expected=expected, seen=seen)
    if features.get("auth") is False:
        evidence.stop("web_page", "web-open", expected=expected, seen="no sign-in asked for")
    version = str(config.get("version", "")) or None
    evidence.passed("web_page", expected=expected, seen=f"{config.get('name')} {version or ''}")
    return version


def _sign_in(client: Client, account: Account, evidence: Evidence, deadline: Deadline) -> str:
    """Sign in; return the token."""
    expected = f"{account.email} signs in"
    try:
        answer = client.post_json(
            "/api/v1/auths/signin",
            {"email": account.email, "password": account.password},
            deadline,
        )
    except BadStatusError as exc:
        if exc.status == _TOO_MANY_REQUESTS:
            cause = "the page limits how often one may sign in; try again in some minutes"
            evidence.unknown("web_sign_in", expected=expected, seen=str(exc), cause=cause)
            raise StopSectionError("nobody could sign in now") from None
        failure = "web-sign-in" if exc.status in _REJECTED else "web-no-page"
        evidence.stop("web_sign_in", failure, expected=expected, seen=str(exc))
    except HttpError as exc:
        evidence.stop("web_sign_in", "web-unreachable", expected=expected, seen=str(exc))
    token = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token:
        seen = "an answer without a token"
        evidence.stop("web_sign_in", "web-sign-in", expected=expected, seen=seen)
    evidence.passed("web_sign_in", expected=expected, seen="signed in")
    return token


def _check_web_model(
    client: Client, model: str | None, evidence: Evidence, deadline: Deadline
) -> bool:
    """Check that a person who signed in can choose the model; return whether that is so."""
    expected = f"model {model} to choose from" if model else "a model to choose from"
    answer = _web(evidence, "web_model", expected, lambda: client.get_json("/api/models", deadline))
    names = [str(entry["id"]) for entry in list_models(answer) or []]
    good = bool(names) if model is None else model in names
    evidence.verdict(
        "web_model",
        "web-no-model",
        good=good,
        expected=expected,
        seen=", ".join(names) or "no model",
    )
    return good
