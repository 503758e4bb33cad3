# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a deployed chat server: its GPU memory, its API, a real completion, its page."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import StopSectionError
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import CommandTimedOutError
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import (
    OK,
    BadStatusError,
    HttpError,
    InvalidJsonError,
    NotHttpError,
    TooLargeError,
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
    from collections.abc import Callable, Iterable, Sequence

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._gpu.nvidia_smi import (
        Gpu,
        GpuReport,
        Xid,
    )
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host
    from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Client, Deadline

_FELL_OFF_THE_BUS = 79  # the Xid
_UNAUTHORIZED = (401, 403)
_REJECTED = (400, 401, 403, 422)  # how a sign-in is turned down
_NOT_FOUND = 404
_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503


@dataclass(frozen=True)
class GpuWants:
    """What is expected of the GPUs. None: whatever it is."""

    policy: str = "optional"  # required, optional, absent
    gpus: Sequence[str] = ()  # numbers or UUIDs; none means all
    min_free_mib: int | None = None
    max_used_mib: int | None = None
    max_process_mib: int | None = None
    max_other_mib: int | None = None


@dataclass(frozen=True)
class ApiWants:
    """What is expected of the API and the model behind it. None: whatever it is."""

    model: str | None = None
    context_length: int | None = None
    min_context_length: int | None = None
    kv_cache_tokens: int | None = None
    tolerance_percent: float = 10.0
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


@dataclass(frozen=True)
class Container:
    """A running container: its first process and its id."""

    pid: int
    id: str


# --- GPU -----------------------------------------------------------------------------------------


def check_gpus(
    report: GpuReport, wants: GpuWants, evidence: Evidence, container: Container | None = None
) -> list[Gpu]:
    """Check the driver and the memory of its GPUs; return the GPUs that were looked at."""
    gpus: list[Gpu] = []
    with evidence.section(["gpu_memory"]):
        _check_driver(report, wants, evidence)
        gpus = _selected(report, wants, evidence)
        for gpu in gpus:
            _check_memory(gpu, wants, evidence)
            _check_processes(gpu, wants, evidence, container)
        _check_xids(report, gpus, evidence)
        if container is not None and gpus and wants.policy == "required":
            _check_engine_on_gpu(gpus, container, evidence)
    return gpus


def _check_driver(report: GpuReport, wants: GpuWants, evidence: Evidence) -> None:
    """Check that the driver works, or that there is rightly nothing for it to do."""
    if wants.policy == "absent":
        evidence.verdict(
            "gpu_driver",
            "gpu-unexpected",
            good=not report.gpus,
            expected="no usable NVIDIA GPU",
            seen=", ".join(gpu.label for gpu in report.gpus) or "none",
        )
        raise StopSectionError("no GPU is wanted")
    if report.gpus and not report.driver.mismatched:
        evidence.passed(
            "gpu_driver",
            expected="a driver that answers",
            seen=f"driver {report.driver.kernel_module or 'of unknown version'},"
            f" {len(report.gpus)} GPU(s)",
        )
        return
    failure, seen = _driver_failure(report)
    if wants.policy == "required":
        evidence.stop("gpu_driver", failure, expected="a GPU with a driver that answers", seen=seen)
    if report.present:
        evidence.unknown(
            "gpu_driver",
            expected="a GPU with a driver that answers, if there is a GPU",
            seen=seen,
            cause=f"{failure}, which gpu=optional lets pass",
        )
    else:
        evidence.passed("gpu_driver", expected="a GPU, if there is one", seen=seen)
    raise StopSectionError("there is no usable GPU")


def _driver_failure(report: GpuReport) -> tuple[str, str]:
    """Name what is wrong with the driver."""
    error, driver = report.smi_error, report.driver
    if driver.mismatched or "version mismatch" in error:
        versions = f"kernel module {driver.kernel_module or '?'}, library {driver.library or '?'}"
        return "driver-library-mismatch", versions
    if report.smi_hung:
        return "driver-hung", error
    cards = ", ".join(f"{d.pci_id} at {d.address}" for d in report.pci_devices)
    holders = ", ".join(sorted({d.driver or "no kernel module" for d in report.pci_devices}))
    if not report.present and (report.smi_missing or not driver.kernel_module):
        return "gpu-missing", "no NVIDIA display controller on the PCI bus"
    if report.smi_missing:
        return "driver-missing", f"no nvidia-smi; {cards} held by {holders}"
    if re.search(r"communicate with the NVIDIA driver|Driver Not Loaded", error):
        return "driver-not-loaded", f"nvidia-smi says: {' '.join(error.split())}"
    failure = "gpu-fell-off-the-bus" if _fell_off(report.xids or ()) else "gpu-lost"
    return failure, f"nvidia-smi says: {' '.join(error.split()) or 'No devices were found'}"


def _fell_off(xids: Iterable[Xid]) -> bool:
    """Whether one of the errors is that of a card that is gone."""
    return any(xid.code == _FELL_OFF_THE_BUS for xid in xids)


def _selected(report: GpuReport, wants: GpuWants, evidence: Evidence) -> list[Gpu]:
    """Pick the listed GPUs, all when none is listed."""
    if not wants.gpus:
        return list(report.gpus)
    chosen = {
        wanted: next((g for g in report.gpus if wanted in {str(g.index), g.uuid}), None)
        for wanted in wants.gpus
    }
    missing = [wanted for wanted, gpu in chosen.items() if gpu is None]
    there = ", ".join(f"{gpu.index} = {gpu.uuid}" for gpu in report.gpus)
    if missing:
        evidence.stop(
            "gpu_list", "gpu-not-found", expected=f"GPU {', '.join(missing)}", seen=f"GPUs {there}"
        )
    evidence.passed("gpu_list", expected=f"GPU {', '.join(wants.gpus)}", seen=f"GPUs {there}")
    return [gpu for gpu in chosen.values() if gpu is not None]


def _check_memory(gpu: Gpu, wants: GpuWants, evidence: Evidence) -> None:
    """Check one GPU's free and used memory."""
    free, used = gpu.memory_free_mib, gpu.memory_used_mib
    if free is None or used is None:
        evidence.unknown(
            "gpu_memory",
            expected=f"memory of {gpu.label} in MiB",
            seen="not available",
            cause="the driver does not tell it for this GPU",
        )
        return
    evidence.passed(
        "gpu_memory",
        expected=f"memory of {gpu.label} as its driver tells it",
        seen=f"{used} of {gpu.memory_total_mib} MiB used, {free} MiB free",
    )
    if wants.min_free_mib is not None:
        evidence.verdict(
            "gpu_memory_free",
            "gpu-memory-low",
            good=free >= wants.min_free_mib,
            expected=f"at least {wants.min_free_mib} MiB free on {gpu.label}",
            seen=f"{free} MiB free{_holders(gpu)}",
        )
    if wants.max_used_mib is not None:
        evidence.verdict(
            "gpu_memory_used",
            "gpu-memory-high",
            good=used <= wants.max_used_mib,
            expected=f"at most {wants.max_used_mib} MiB used on {gpu.label}",
            seen=f"{used} MiB used{_holders(gpu)}",
        )


def _holders(gpu: Gpu) -> str:
    """List who holds the memory, largest first, to go behind a figure."""
    held = sorted(gpu.processes or (), key=lambda p: p.used_mib or 0, reverse=True)
    if not held:
        return ""
    return ", held by " + ", ".join(
        f"{p.name} (PID {p.pid}{f', {p.unit}' if p.unit else ''}): {_mib(p.used_mib)}" for p in held
    )


def _mib(value: int | None) -> str:
    return "an unknown amount" if value is None else f"{value} MiB"


def _check_processes(
    gpu: Gpu, wants: GpuWants, evidence: Evidence, container: Container | None
) -> None:
    """Check what single processes hold, and what those outside the container hold together."""
    limits = (wants.max_process_mib, wants.max_other_mib)
    if limits == (None, None):
        return
    if gpu.processes is None or any(process.used_mib is None for process in gpu.processes):
        evidence.unknown(
            "gpu_processes",
            expected=f"the memory that each process holds on {gpu.label}",
            seen=_holders(gpu).removeprefix(", ") or "not available",
            cause="the driver does not tell it here (a virtual machine, or another user's process)",
        )
        return
    if wants.max_process_mib is not None:
        most = max((process.used_mib or 0 for process in gpu.processes), default=0)
        evidence.verdict(
            "gpu_process_memory",
            "gpu-process-memory",
            good=most <= wants.max_process_mib,
            expected=f"at most {wants.max_process_mib} MiB in each process on {gpu.label}",
            seen=f"at most {most} MiB{_holders(gpu)}",
        )
    if wants.max_other_mib is not None:
        own = container.id if container else None
        others = sum(p.used_mib or 0 for p in gpu.processes if not own or p.container != own)
        evidence.verdict(
            "gpu_other_processes",
            "gpu-other-processes",
            good=others <= wants.max_other_mib,
            expected=f"at most {wants.max_other_mib} MiB held outside the container on {gpu.label}",
            seen=f"{others} MiB{_holders(gpu)}",
        )


def _check_xids(report: GpuReport, gpus: Sequence[Gpu], evidence: Evidence) -> None:
    """Check the kernel log for errors of the hardware since boot."""
    expected = "no hardware error (Xid) in the kernel log since boot"
    if report.xids is None:
        evidence.unknown(
            "gpu_xid", expected=expected, seen="", cause="the kernel log is for root to read"
        )
        return
    addresses = {gpu.pci_address for gpu in gpus}
    ours = [xid for xid in report.xids if xid.pci_address in addresses]
    broken = [xid for xid in ours if xid.hardware]
    evidence.verdict(
        "gpu_xid",
        "gpu-fell-off-the-bus" if _fell_off(broken) else "gpu-xid",
        good=not broken,
        expected=expected,
        seen=", ".join(f"Xid {x.code} at {x.pci_address}: {x.message}" for x in broken or ours)
        or "none",
    )


def _check_engine_on_gpu(gpus: Sequence[Gpu], container: Container, evidence: Evidence) -> None:
    """Check that the container itself computes on a GPU."""
    expected = "a process of the container that holds GPU memory"
    processes = [process for gpu in gpus for process in gpu.processes or ()]
    own = [process for process in processes if process.container == container.id]
    if not processes:
        evidence.unknown(
            "engine_on_gpu", expected=expected, seen="", cause="the driver lists no processes"
        )
        return
    evidence.verdict(
        "engine_on_gpu",
        "container-without-gpu",
        good=bool(own),
        expected=expected,
        seen=", ".join(f"{p.name} (PID {p.pid}) {_mib(p.used_mib)}" for p in own or processes),
    )


# --- Container -----------------------------------------------------------------------------------


def check_container(host: Host, name: str, evidence: Evidence, timeout: float) -> Container | None:
    """Find the running container whose network the endpoint is asked from."""
    expected = f"container {name} running"
    argv = ["docker", "inspect", "--type", "container", "--format"]
    try:
        answer = host.run(
            [*argv, "{{.State.Pid}} {{.Id}} {{.State.Status}}", name], timeout=timeout
        )
    except CommandTimedOutError as exc:
        evidence.failed("container", "container-unknown", expected=expected, seen=str(exc))
        return None
    if answer is None:
        evidence.failed(
            "container", "container-unknown", expected=expected, seen="no docker command"
        )
        return None
    if not answer.ok:
        gone = re.search(r"No such (object|container)", answer.stderr)
        evidence.failed(
            "container",
            "container-not-running" if gone else "container-unknown",
            expected=expected,
            seen=" ".join(answer.stderr.split()),
        )
        return None
    pid, container_id, status = answer.stdout.split()
    if status != "running" or pid == "0":
        evidence.failed("container", "container-not-running", expected=expected, seen=status)
        return None
    evidence.passed("container", expected=expected, seen=f"running, PID {pid}")
    return Container(int(pid), container_id)


# --- API -----------------------------------------------------------------------------------------


def api_checks(client: Client, wants: ApiWants) -> list[str]:
    """Name the checks that the options ask for."""
    asked = {
        "api_health": True,
        "api_version": True,
        "api_closed": client.key is not None,
        "api_models": True,
        "model": wants.model is not None,
        "context_length": (wants.context_length, wants.min_context_length) != (None, None),
        "engine_metrics": True,
        "kv_cache": wants.kv_cache_tokens is not None,
        "completion": True,
        "time_to_first_token": wants.max_ttft_ms is not None,
        "tokens_per_second": wants.min_tokens_per_second is not None,
    }
    return [name for name, wanted in asked.items() if wanted]


def check_api(client: Client, wants: ApiWants, evidence: Evidence, deadline: Deadline) -> ApiFacts:
    """Ask the API everything, and the model for a completion."""
    facts = ApiFacts()
    with evidence.section(api_checks(client, wants)):
        _check_health(client, evidence, deadline)
        facts.version = _check_version(client, evidence, deadline)
        if client.key:
            _check_closed(client, evidence, deadline)
        _check_models(client, wants, facts, evidence, deadline)
        _check_context(wants, facts, evidence)
        _check_engine(client, wants, facts, evidence, deadline)
        _check_completion(client, wants, facts, evidence, deadline)
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
    client: Client, wants: ApiWants, facts: ApiFacts, evidence: Evidence, deadline: Deadline
) -> None:
    """Check that the key is accepted and the expected model is served."""
    expected = f"a list of models from {client.where('/v1/models')}"
    try:
        answer = client.get_json("/v1/models", deadline)
    except HttpError as exc:
        evidence.stop(
            "api_models", _key_failure(exc, client) or exc.failure, expected=expected, seen=str(exc)
        )
    models = _models(answer)
    if models is None:
        seen = "JSON of another form"
        evidence.stop("api_models", "api-unexpected-answer", expected=expected, seen=seen)
    facts.models = [str(model["id"]) for model in models]
    names = ", ".join(facts.models)
    if not models:
        evidence.stop("api_models", "model-none", expected=expected, seen="an empty list")
    evidence.passed("api_models", expected=expected, seen=names)
    served = next((m for m in models if wants.model in {None, m["id"]}), None)
    if served is None:
        evidence.stop("model", "model-missing", expected=f"model {wants.model}", seen=names)
    if wants.model is not None:
        evidence.passed("model", expected=f"model {wants.model}", seen=names)
    facts.model = str(served["id"])
    length = served.get("max_model_len")
    facts.context_length = length if isinstance(length, int) else None


def _models(answer: object) -> list[dict[str, t.Any]] | None:
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


def _check_context(wants: ApiWants, facts: ApiFacts, evidence: Evidence) -> None:
    exact, least = wants.context_length, wants.min_context_length
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


def _check_engine(
    client: Client, wants: ApiWants, facts: ApiFacts, evidence: Evidence, deadline: Deadline
) -> None:
    """Read the engine's own metrics; compare its KV cache with the plan."""
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
    if wants.kv_cache_tokens is None:
        return
    expected = (
        f"KV cache for {wants.kv_cache_tokens} tokens, give or take {wants.tolerance_percent:g} %"
    )
    tokens = facts.metrics.kv_cache_tokens
    if tokens is None:
        cause = "the server does not tell vllm:cache_config_info"
        evidence.unknown("kv_cache", expected=expected, seen="", cause=cause)
        return
    off = 100 * (tokens - wants.kv_cache_tokens) / wants.kv_cache_tokens
    evidence.verdict(
        "kv_cache",
        "kv-cache",
        good=abs(off) <= wants.tolerance_percent,
        expected=expected,
        seen=f"{tokens} tokens ({off:+.1f} %)",
    )


def _check_completion(
    client: Client, wants: ApiWants, facts: ApiFacts, evidence: Evidence, deadline: Deadline
) -> None:
    """Let the model speak, and time it."""
    request = Request(facts.model or "", wants.prompt, wants.max_tokens)
    expected = f"a streamed completion of up to {wants.max_tokens} tokens"
    try:
        done = _complete(client, request, wants.completion_api, evidence, deadline)
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
    if wants.max_ttft_ms is not None:
        evidence.verdict(
            "time_to_first_token",
            "slow-first-token",
            good=done.first_token_s * 1000 <= wants.max_ttft_ms,
            expected=f"first token within {wants.max_ttft_ms:g} ms",
            seen=f"{done.first_token_s * 1000:.1f} ms",
        )
    if wants.min_tokens_per_second is not None:
        _check_speed(done.tokens_per_second, wants.min_tokens_per_second, evidence)


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


# --- The chat page -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignIn:
    """An account of the chat page."""

    email: str
    password: str = field(repr=False)


def web_checks(account: SignIn | None) -> list[str]:
    """Name the checks that the options ask for."""
    return ["web_health", "web_page", *(["web_sign_in", "web_model"] if account else [])]


def check_web(
    client: Client,
    account: SignIn | None,
    model: str | None,
    evidence: Evidence,
    deadline: Deadline,
) -> str | None:
    """Check the chat page as a person meets it; return its version."""
    version = None
    with evidence.section(web_checks(account)):
        _web(evidence, "web_health", "the chat page up", lambda: client.get_ok("/health", deadline))
        evidence.passed("web_health", expected="the chat page up", seen="200")
        version = _check_page(client, evidence, deadline)
        if account is not None:
            token = _sign_in(client, account, evidence, deadline)
            _check_web_model(client.with_key(token), model, evidence, deadline)
    return version


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


def _sign_in(client: Client, account: SignIn, evidence: Evidence, deadline: Deadline) -> str:
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
) -> None:
    """Check that a person who signed in can choose the model."""
    expected = f"model {model} to choose from" if model else "a model to choose from"
    answer = _web(evidence, "web_model", expected, lambda: client.get_json("/api/models", deadline))
    names = [str(entry["id"]) for entry in _models(answer) or []]
    evidence.verdict(
        "web_model",
        "web-no-model",
        good=bool(names) if model is None else model in names,
        expected=expected,
        seen=", ".join(names) or "no model",
    )
