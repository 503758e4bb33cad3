# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of vLLM's API: what it says of itself, and a real completion."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    OK,
    BadStatusError,
    HttpError,
    InvalidJsonError,
    WrongContentTypeError,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.completion import (
    Completion,
    CompletionError,
    NoChatTemplateError,
    Request,
    complete,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.metrics import (
    EngineMetrics,
    cache_config,
    engine_metrics,
)

if t.TYPE_CHECKING:
    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Client, Deadline

_UNAUTHORIZED = (401, 403)
_NOT_FOUND = 404
_UNAVAILABLE = 503


@dataclass(frozen=True)
class ApiExpectations:
    """What is expected of the API and the model behind it. None: whatever it is."""

    model: str | None = None
    context_length: int | None = None
    min_context_length: int | None = None
    completion_api: str = "chat"
    prompt: str = "Count from 1 to 30."
    max_tokens: int = 64
    max_ttft_ms: float | None = None
    min_tokens_per_second: float | None = None


@dataclass
class ApiFacts:
    """What the API told and what was measured, as far as the checks came."""

    version: str | None = None
    model: str | None = None
    models: list[str] = field(default_factory=list)
    context_length: int | None = None
    metrics: EngineMetrics = field(default_factory=lambda: EngineMetrics(None, None, None, None))
    cache_config: dict[str, str] = field(default_factory=dict)
    completion: Completion | None = None


def api_checks(client: Client, expectations: ApiExpectations) -> list[str]:
    """Name the checks that the options ask for."""
    asked = {
        "api_health": True,
        "api_version": True,
        "api_closed": client.key is not None,
        "api_models": True,
        "model": expectations.model is not None,
        "context_length": (expectations.context_length, expectations.min_context_length)
        != (None, None),
        "engine_metrics": True,
        "completion": True,
        "time_to_first_token": expectations.max_ttft_ms is not None,
        "tokens_per_second": expectations.min_tokens_per_second is not None,
    }
    return [name for name, wanted in asked.items() if wanted]


def check_api(
    client: Client, expectations: ApiExpectations, evidence: Evidence, deadline: Deadline
) -> ApiFacts:
    """Ask the API everything, and the model for a completion."""
    facts = ApiFacts()
    with evidence.section(api_checks(client, expectations)):
        _check_health(client, evidence, deadline)
        facts.version = _check_version(client, evidence, deadline)
        if client.key:
            _check_closed(client, evidence, deadline)
        _check_models(client, expectations, facts, evidence, deadline)
        _check_context(expectations, facts, evidence)
        _check_engine(client, facts, evidence, deadline)
        _check_completion(client, expectations, facts, evidence, deadline)
    return facts


def _check_health(client: Client, evidence: Evidence, deadline: Deadline) -> None:
    expected = f"200 from {client.where('/health')}"
    try:
        client.get_ok("/health", deadline)
    except BadStatusError as exc:
        failure = "engine-dead" if exc.status == _UNAVAILABLE else exc.failure
        evidence.stop("api_health", failure, expected=expected, seen=str(exc))
    except HttpError as exc:
        evidence.stop("api_health", exc.failure, expected=expected, seen=str(exc))
    evidence.passed("api_health", expected=expected, seen="200")


def _check_version(client: Client, evidence: Evidence, deadline: Deadline) -> str | None:
    expected = "the engine's version"
    try:
        answer = client.get_json("/version", deadline)
    except (BadStatusError, WrongContentTypeError, InvalidJsonError) as exc:
        cause = "another server than vLLM, perhaps"
        evidence.unknown("api_version", expected=expected, seen=str(exc), cause=cause)
        return None
    except HttpError as exc:
        evidence.stop("api_version", exc.failure, expected=expected, seen=str(exc))
    version = str(answer.get("version", "")) if isinstance(answer, dict) else ""
    evidence.passed("api_version", expected=expected, seen=version)
    return version


def _check_closed(client: Client, evidence: Evidence, deadline: Deadline) -> None:
    """Check that the API does not answer to somebody without the key."""
    expected = "401 to a request without the key"
    try:
        status = client.with_key(None).get("/v1/models", deadline).status
    except HttpError as exc:
        evidence.stop("api_closed", exc.failure, expected=expected, seen=str(exc))
    if status in _UNAUTHORIZED:
        evidence.passed("api_closed", expected=expected, seen=str(status))
    elif status in OK:
        evidence.failed("api_closed", "api-open", expected=expected, seen=str(status))
    else:
        evidence.unknown(
            "api_closed", expected=expected, seen=str(status), cause="neither let in nor refused"
        )


def _check_models(
    client: Client,
    expectations: ApiExpectations,
    facts: ApiFacts,
    evidence: Evidence,
    deadline: Deadline,
) -> None:
    """Check that the key is accepted and the expected model is served."""
    expected = f"a list of models from {client.where('/v1/models')}"
    try:
        answer = client.get_json("/v1/models", deadline)
    except HttpError as exc:
        evidence.stop(
            "api_models", _key_failure(exc, client) or exc.failure, expected=expected, seen=str(exc)
        )
    models = list_models(answer)
    if models is None:
        seen = "JSON of another form"
        evidence.stop("api_models", "api-unexpected-answer", expected=expected, seen=seen)
    facts.models = [str(model["id"]) for model in models]
    names = ", ".join(facts.models)
    if not models:
        evidence.stop("api_models", "model-none", expected=expected, seen="an empty list")
    evidence.passed("api_models", expected=expected, seen=names)
    served = next((m for m in models if expectations.model in {None, m["id"]}), None)
    if served is None:
        evidence.stop("model", "model-missing", expected=f"model {expectations.model}", seen=names)
    if expectations.model is not None:
        evidence.passed("model", expected=f"model {expectations.model}", seen=names)
    facts.model = str(served["id"])
    length = served.get("max_model_len")
    facts.context_length = length if isinstance(length, int) else None


def list_models(answer: object) -> list[dict[str, t.Any]] | None:
    """Return the entries of a list of models; None when it is not one."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        return None
    return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _key_failure(exc: HttpError, client: Client) -> str | None:
    """Name the failure if it is one of the key."""
    if not (isinstance(exc, BadStatusError) and exc.status in _UNAUTHORIZED):
        return None
    return "api-key-rejected" if client.key else "api-key-missing"


def _check_context(expectations: ApiExpectations, facts: ApiFacts, evidence: Evidence) -> None:
    exact, least = expectations.context_length, expectations.min_context_length
    if exact is None and least is None:
        return
    expected = f"{exact} tokens of context" if exact else f"at least {least} tokens of context"
    length = facts.context_length
    if length is None:
        cause = "the server does not tell max_model_len"
        evidence.unknown("context_length", expected=expected, seen="", cause=cause)
        return
    good = length == exact if exact is not None else length >= (least or 0)
    evidence.verdict(
        "context_length", "context-length", good=good, expected=expected, seen=f"{length} tokens"
    )


def _check_engine(client: Client, facts: ApiFacts, evidence: Evidence, deadline: Deadline) -> None:
    """Read the engine's own metrics."""
    expected = f"vLLM's metrics from {client.where('/metrics')}"
    try:
        text = client.get_ok("/metrics", deadline).body.decode(errors="replace")
    except HttpError as exc:
        cause = "the server does not publish them"
        evidence.unknown("engine_metrics", expected=expected, seen=str(exc), cause=cause)
    else:
        facts.metrics = engine_metrics(text)
        facts.cache_config = cache_config(text)
        evidence.passed(
            "engine_metrics",
            expected=expected,
            seen=f"KV cache for {facts.metrics.kv_cache_tokens} tokens,"
            f" {facts.metrics.kv_cache_usage_percent} % in use,"
            f" {facts.metrics.requests_running} requests running,"
            f" {facts.metrics.requests_waiting} waiting",
        )


def _check_completion(
    client: Client,
    expectations: ApiExpectations,
    facts: ApiFacts,
    evidence: Evidence,
    deadline: Deadline,
) -> None:
    """Let the model speak, and time it."""
    request = Request(facts.model or "", expectations.prompt, expectations.max_tokens)
    expected = f"a streamed completion of up to {expectations.max_tokens} tokens"
    try:
        done = _complete(client, request, expectations.completion_api, evidence, deadline)
    except BadStatusError as exc:
        failure = _key_failure(exc, client) or {
            _NOT_FOUND: "model-missing",
            _UNAVAILABLE: "engine-dead",
        }.get(exc.status, "completion-failed")
        evidence.stop("completion", failure, expected=expected, seen=str(exc))
    except (HttpError, CompletionError) as exc:
        evidence.stop("completion", exc.failure, expected=expected, seen=str(exc))
    facts.completion = done
    evidence.passed(
        "completion",
        expected=expected,
        seen=f"{done.tokens} tokens, finish reason '{done.finish_reason}'",
    )
    if expectations.max_ttft_ms is not None:
        evidence.verdict(
            "time_to_first_token",
            "slow-first-token",
            good=done.first_token_s * 1000 <= expectations.max_ttft_ms,
            expected=f"first token within {expectations.max_ttft_ms:g} ms",
            seen=f"{done.first_token_s * 1000:.1f} ms",
        )
    if expectations.min_tokens_per_second is not None:
        _check_speed(done.tokens_per_second, expectations.min_tokens_per_second, evidence)


def _complete(
    client: Client, request: Request, api: str, evidence: Evidence, deadline: Deadline
) -> Completion:
    """Complete by the wanted API; with auto, by the plain one where there is no chat template."""
    if api != "auto":
        return complete(client, request, deadline, api=api)
    try:
        return complete(client, request, deadline, api="chat")
    except NoChatTemplateError as exc:
        evidence.unknown(
            "chat_template",
            expected="a model with a chat template",
            seen=str(exc),
            cause="the model has none: chat cannot work, the plain completion API is asked instead",
        )
    return complete(client, request, deadline, api="completions")


def _check_speed(speed: float | None, least: float, evidence: Evidence) -> None:
    expected = f"at least {least:g} tokens/s"
    if speed is None:
        evidence.unknown(
            "tokens_per_second", expected=expected, seen="", cause="too few tokens to measure"
        )
        return
    evidence.verdict(
        "tokens_per_second",
        "slow-tokens",
        good=speed >= least,
        expected=expected,
        seen=f"{speed:.1f} tokens/s",
    )
