# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""inference_health through main(): against a server that misbehaves and a host made of text."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
import types
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    FAILURES,
    describe,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Answer
from ansible_collections.sparerig.llm.plugins.module_utils._service.verification import words
from ansible_collections.sparerig.llm.plugins.modules import inference_health
from stand_ins import HANGS, FakeHost, misbehaving_server

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[..., dict[str, t.Any]]

SERVER = misbehaving_server()
# For servers that would use up any deadline, at once or after some good answers.
SHORT = {"deadline": 1.5}
LATER = {"deadline": 4}
CONTAINER = "4f" * 32
OTHER_CONTAINER = "5e" * 32
QUERY = "nvidia-smi --query-gpu="
ROW = (
    "{index}, RTX 3060, GPU-{index}, 00000000:0{index}:00.0, 0x250310DE, 12288, {used}, {free},"
    " 8.6, 170, 30, Enabled"
)
CARD = ROW.format(index=1, used=11020, free=1003)
PROCESSES = """
CUDA Version                              : 13.0
GPU 00000000:01:00.0
    Processes
        Process ID                        : 11
            Type                          : G
            Name                          : Xorg
            Used GPU Memory               : 620 MiB
        Process ID                        : 12
            Type                          : C
            Name                          : VLLM::EngineCore
            Used GPU Memory               : 10400 MiB
"""
NO_XID = "Linux version 6.8.0\n"
XID = "NVRM: Xid (PCI:0000:0{bus}:00): {code}, words\n"
PLAN = {"context": 2048, "kv_block_bytes": 1, "terms": {"kv_cache": 256}}
PCI = "/sys/bus/pci/devices/0000:01:00.0"
ON_THE_BUS = {f"{PCI}/vendor": "0x10de", f"{PCI}/device": "0x2503", f"{PCI}/class": "0x030000"}
LOADED = {
    "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1  Thu\n"
}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """Start a misbehaving server; the behaviour comes behind its address."""
    with SERVER.running() as address:
        yield address


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    host = FakeHost()
    monkeypatch.setattr(inference_health, "LocalHost", lambda: host)
    return host


@pytest.fixture
def ask(run_module: Ask, base: str, host: FakeHost) -> Ask:
    """Ask a server of the given behaviour, with the right key and a short deadline; None unsets."""
    assert host is not None

    def ask(behaviour: str = "healthy", **options: t.Any) -> dict[str, t.Any]:
        known = {"endpoint": f"{base}/{behaviour}", "api_key": SERVER.KEY, "deadline": 20}
        given = {name: value for name, value in (known | options).items() if value is not None}
        return run_module(inference_health, **given)

    return ask


def with_card(host: FakeHost, row: str = CARD, log: str = NO_XID) -> None:
    """Give the host a card with a desktop and an engine on it."""
    host.commands |= {QUERY: row, "nvidia-smi -q": PROCESSES, "journalctl": log}
    host.files |= {"/proc/12/cgroup": f"0::/system.slice/docker-{CONTAINER}.scope"} | LOADED


def statuses(answer: dict[str, t.Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in answer["checks"]}


def failed(answer: dict[str, t.Any]) -> list[tuple[str, str]]:
    return [(c["name"], c["failure"]) for c in answer["checks"] if c["status"] == "fail"]


def seen(answer: dict[str, t.Any], name: str) -> str:
    return str(next(check["seen"] for check in answer["checks"] if check["name"] == name))


# What is well


@pytest.mark.parametrize("check", [False, True])
def test_all_is_well(ask: Ask, host: FakeHost, *, check: bool) -> None:
    with_card(host)

    answer = ask(
        check=check,
        model="tiny",
        gpu="required",
        gpus=["1", "GPU-1"],
        min_free_mib=1003,
        max_used_mib=11020,
        max_process_mib=10400,
        max_other_mib=11020,
        expected_context_length=2048,
        max_ttft_ms=1000,
        min_tokens_per_second=0.1,
    )

    assert "failed" not in answer, answer["msg"]
    assert not answer["changed"]
    assert set(statuses(answer).values()) == {"pass"}
    assert list(statuses(answer)) == [
        "gpu_driver",
        "gpu_list",
        "gpu_memory",
        "gpu_memory_free",
        "gpu_memory_used",
        "gpu_process_memory",
        "gpu_other_processes",
        "gpu_xid",
        "api_health",
        "api_version",
        "api_closed",
        "api_models",
        "model",
        "context_length",
        "engine_metrics",
        "completion",
        "time_to_first_token",
        "tokens_per_second",
    ]
    assert answer["versions"] == {
        "driver": "580.1",
        "cuda": "13.0",
        "vllm": "0.0.stand-in",
    }
    assert (answer["model"], answer["context_length"]) == ("tiny", 2048)
    assert (answer["kv_cache_tokens"], answer["kv_cache_usage_percent"]) == (4096, 25.0)
    assert (answer["requests_running"], answer["requests_waiting"]) == (1, 0)
    assert (answer["completion_tokens"], answer["finish_reason"]) == (6, "stop")
    assert answer["ttft_ms"] > 0
    assert answer["tokens_per_second"] > 0
    assert [gpu["memory_free_mib"] for gpu in answer["gpus"]] == [1003, 1003]
    assert answer["failure"] == ""


def test_least_that_is_asked(ask: Ask) -> None:
    """No card, nothing expected: the API has to work, and that is all."""
    answer = ask()

    assert failed(answer) == []
    assert statuses(answer) == {
        "gpu_driver": "pass",
        "gpu_memory": "skipped",
        "api_health": "pass",
        "api_version": "pass",
        "api_closed": "pass",
        "api_models": "pass",
        "engine_metrics": "pass",
        "completion": "pass",
    }
    assert answer["gpus"] == []


@pytest.mark.parametrize(
    ("behaviour", "options", "unknown"),
    [
        ("no-chat-template", {"completion_api": "auto"}, {"chat_template"}),
        ("no-metrics", {}, {"api_version", "engine_metrics"}),
        ("no-context", {"min_context_length": 9999}, {"context_length"}),
        ("one-token", {"min_tokens_per_second": 9999}, {"tokens_per_second"}),
        ("closed-oddly", {}, {"api_closed"}),
    ],
)
def test_unknown_is_no_failure(
    ask: Ask, behaviour: str, options: dict[str, t.Any], unknown: set[str]
) -> None:
    answer = ask(behaviour, **options)

    assert failed(answer) == []
    assert {name for name, status in statuses(answer).items() if status == "unknown"} == unknown
    assert all(check["cause"] for check in answer["checks"] if check["status"] == "unknown")


@pytest.mark.parametrize("api", ["chat", "completions", "auto"])
def test_completion_apis(ask: Ask, api: str) -> None:
    assert ask(completion_api=api)["completion_tokens"] == 6


# What is not: the API


@pytest.mark.parametrize(
    ("behaviour", "options", "check", "failure"),
    [
        ("silent", SHORT, "api_health", "api-no-answer"),
        ("dripping", SHORT, "api_health", "api-stalled"),
        ("dead", {}, "api_health", "engine-dead"),
        ("redirect", {}, "api_health", "api-status"),
        ("not-http", {}, "api_health", "api-not-http"),
        ("reset-version", {}, "api_version", "api-reset"),
        ("reset", {}, "api_closed", "api-reset"),
        ("open", {}, "api_closed", "api-open"),
        ("error", {}, "api_models", "api-status"),
        ("other-key", {}, "api_models", "api-key-rejected"),
        ("healthy", {"api_key": None}, "api_models", "api-key-missing"),
        ("dripping-list", LATER, "api_models", "api-stalled"),
        ("content-type", {}, "api_models", "api-content-type"),
        ("invalid-json", {}, "api_models", "api-invalid-json"),
        ("other-json", {}, "api_models", "api-unexpected-answer"),
        ("huge", {}, "api_models", "api-too-large"),
        ("short", {}, "api_models", "api-truncated"),
        ("bad-chunks", {}, "api_models", "api-truncated"),
        ("no-models", {}, "api_models", "model-none"),
        ("healthy", {"model": "other"}, "model", "model-missing"),
        ("healthy", {"expected_context_length": 2047}, "context_length", "context-length"),
        ("healthy", {"min_context_length": 2049}, "context_length", "context-length"),
        ("late-key", {}, "completion", "api-key-rejected"),
        ("model-404", {}, "completion", "model-missing"),
        ("error-completing", {}, "completion", "completion-failed"),
        ("error-midstream", {}, "completion", "completion-broken-off"),
        ("aborted", {}, "completion", "completion-broken-off"),
        ("truncated-stream", {}, "completion", "api-truncated"),
        ("reset-midstream", {}, "completion", "api-reset"),
        ("invalid-json-midstream", {}, "completion", "api-invalid-json"),
        ("stream-of-html", {}, "completion", "api-content-type"),
        ("speechless", {}, "completion", "completion-empty"),
        ("no-chat-template", {}, "completion", "chat-template-missing"),
        ("hung", LATER, "completion", "engine-hung"),
        ("hung-silent", LATER, "completion", "engine-hung"),
        ("stalled", LATER, "completion", "api-stalled"),
        ("never-ending", LATER, "completion", "api-stalled"),
        (
            "slow-tokens",
            {"max_ttft_ms": 1},
            "time_to_first_token",
            "slow-first-token",
        ),
        (
            "slow-tokens",
            {"min_tokens_per_second": 999},
            "tokens_per_second",
            "slow-tokens",
        ),
    ],
)
def test_api_faults(
    ask: Ask, behaviour: str, options: dict[str, t.Any], check: str, failure: str
) -> None:
    answer = ask(behaviour, **options)

    assert answer["failed"]
    assert failed(answer) == [(check, failure)]
    assert answer["failure"] == failure
    assert FAILURES[failure].title in answer["msg"]
    assert f"{FAILURES[failure].title} ({failure}): " in answer["msg"]
    assert " Remedy: " in answer["msg"]


@pytest.mark.parametrize(
    ("endpoint", "failure"),
    [
        ("http://127.0.0.1:1", "api-refused"),
        ("http://no-such-host.invalid:8000", "api-name-unknown"),
        (f"http://{'a' * 64}.example:8000", "api-name-unknown"),
    ],
)
def test_nobody_there(ask: Ask, endpoint: str, failure: str) -> None:
    answer = ask(endpoint=endpoint)

    assert failed(answer) == [("api_health", failure)]
    assert statuses(answer)["completion"] == "skipped"


def test_no_way_there(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_args: object, **_options: object) -> t.NoReturn:
        raise OSError(113, "No route to host")

    monkeypatch.setattr("socket.create_connection", no_route)

    answer = ask()

    assert failed(answer) == [("api_health", "api-unreachable")]
    assert "No route to host" in seen(answer, "api_health")


def test_plain_server_asked_for_tls(ask: Ask, base: str) -> None:
    answer = ask(endpoint=base.replace("http", "https"), validate_certs=False)

    assert failed(answer) == [("api_health", "api-tls")]


@pytest.fixture
def tls_base(base: str, tmp_path: Path) -> Iterator[str]:
    """Start a server whose certificate nobody vouches for."""
    assert base
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = SERVER.start()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("validate", "failures"), [(True, [("api_health", "api-tls")]), (False, [])]
)
def test_certificate_that_nobody_vouches_for(
    ask: Ask, tls_base: str, failures: list[tuple[str, str]], *, validate: bool
) -> None:
    answer = ask(endpoint=f"{tls_base}/healthy", validate_certs=validate)

    assert failed(answer) == failures


def test_no_connection_in_time(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = threading.Event()
    monkeypatch.setattr("socket.create_connection", lambda *_a, **_k: pause.wait(30))

    assert failed(ask(**SHORT)) == [("api_health", "api-connect-timeout")]
    pause.set()


def test_key_is_never_shown(ask: Ask) -> None:
    """The server repeats the key in its complaint."""
    answer = ask("error-completing")

    assert "no luck with Bearer *" in seen(answer, "completion")
    assert SERVER.KEY not in str(answer | {"invocation": None})


def test_second_failure_is_mentioned(ask: Ask, host: FakeHost) -> None:
    with_card(host)

    answer = ask("open", min_free_mib=2000)

    assert failed(answer) == [("gpu_memory_free", "gpu-memory-low"), ("api_closed", "api-open")]
    assert answer["failure"] == "gpu-memory-low"
    assert "expected at least 2000 MiB free on GPU 1 (RTX 3060)" in answer["msg"]
    assert "1003 MiB free, held by VLLM::EngineCore (PID 12): 10400 MiB, Xorg" in answer["msg"]
    assert "(and 1 more failed: see checks)" in answer["msg"]


def test_report_for_people(ask: Ask) -> None:
    answer = ask("dead")

    assert len(answer["report"]) == len(answer["checks"])
    assert any(
        line.startswith("fail") and "api_health" in line and "503" in line
        for line in answer["report"]
    )


def test_unit_in_the_mending_command(ask: Ask) -> None:
    assert "systemctl restart engine-2" in ask("hung", unit="engine-2", **LATER)["msg"]


def test_deadline_spent_before_anything_failed(ask: Ask) -> None:
    answer = ask(deadline=1e-9)

    assert failed(answer) == [("deadline", "deadline-spent")]
    assert statuses(answer)["completion"] == "skipped"


def test_a_plan_says_what_the_context_length_has_to_be(ask: Ask) -> None:
    assert statuses(ask(plan=PLAN))["plan_context"] == "pass"
    assert "context_length" not in statuses(ask(plan=PLAN))
    assert ("plan_context", "plan-context-differs") in failed(ask(plan=PLAN | {"context": 2049}))


# What is not: the card


@pytest.mark.parametrize(
    ("commands", "files", "failure"),
    [
        ({}, {}, "gpu-missing"),
        ({QUERY: Answer(9, "", "couldn't communicate with the NVIDIA driver")}, {}, "gpu-missing"),
        ({QUERY: "No devices were found"}, ON_THE_BUS | LOADED, "gpu-lost"),
        ({}, ON_THE_BUS, "driver-missing"),
        (
            {
                QUERY: Answer(
                    9,
                    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
                    "",
                )
            },
            ON_THE_BUS,
            "driver-not-loaded",
        ),
        (
            {QUERY: Answer(18, "Failed to initialize NVML: Driver/library version mismatch", "")},
            ON_THE_BUS | LOADED,
            "driver-library-mismatch",
        ),
        ({QUERY: HANGS}, ON_THE_BUS | LOADED, "driver-hung"),
        (
            {
                QUERY: Answer(
                    255, "Unable to determine the device handle for GPU0: Unknown Error", ""
                )
            },
            ON_THE_BUS | LOADED,
            "gpu-lost",
        ),
    ],
)
def test_driver_faults(
    ask: Ask,
    host: FakeHost,
    commands: dict[str, Answer | str],
    files: dict[str, str | bytes],
    failure: str,
) -> None:
    host.commands, host.files = commands, files

    assert failed(ask(gpu="required")) == [("gpu_driver", failure)]
    optional = ask(gpu="optional")
    assert failed(optional) == []
    assert statuses(optional)["gpu_driver"] == ("pass" if failure == "gpu-missing" else "unknown")
    assert statuses(ask(gpu="absent"))["gpu_driver"] == "pass"


def test_mismatch_while_everything_works(ask: Ask, host: FakeHost) -> None:
    """Running containers hide it: the API answers, and the next restart fails."""
    with_card(host)
    library = "/lib/libnvidia-ml.so.1"
    host.commands["ldconfig"] = f"libnvidia-ml.so.1 (libc6,x86-64) => {library}"
    host.links[library] = "/lib/libnvidia-ml.so.595.2"

    answer = ask(gpu="required")

    assert failed(answer) == [("gpu_driver", "driver-library-mismatch")]
    assert seen(answer, "gpu_driver") == "kernel module 580.1, library 595.2"
    assert statuses(answer)["completion"] == "pass"


@pytest.mark.parametrize(
    ("options", "check", "failure"),
    [
        ({"gpu": "absent"}, "gpu_driver", "gpu-unexpected"),
        ({"gpus": ["1", "GPU-9"]}, "gpu_list", "gpu-not-found"),
        ({"min_free_mib": 1004}, "gpu_memory_free", "gpu-memory-low"),
        ({"max_used_mib": 11019}, "gpu_memory_used", "gpu-memory-high"),
        ({"max_process_mib": 10399}, "gpu_process_memory", "gpu-process-memory"),
        ({"max_other_mib": 11019}, "gpu_other_processes", "gpu-other-processes"),
    ],
)
def test_gpu_faults(
    ask: Ask, host: FakeHost, options: dict[str, t.Any], check: str, failure: str
) -> None:
    with_card(host)

    assert failed(ask(**options)) == [(check, failure)]


def test_answer_not_understood(ask: Ask, host: FakeHost) -> None:
    with_card(host, row="surprise")

    assert failed(ask()) == [("gpu_driver", "driver-answer-not-understood")]


@pytest.mark.parametrize(
    ("log", "status", "says"),
    [
        (XID.format(bus=1, code=79), "fail", "Xid 79 at 0000:01:00.0: words"),
        (XID.format(bus=1, code=31), "pass", "Xid 31"),
        (XID.format(bus=7, code=79), "pass", "none"),
        (NO_XID, "pass", "none"),
        ("", "unknown", ""),
    ],
)
def test_xids(ask: Ask, host: FakeHost, log: str, status: str, says: str) -> None:
    with_card(host, log=log)

    answer = ask()

    assert statuses(answer)["gpu_xid"] == status
    assert says in seen(answer, "gpu_xid")


@pytest.mark.parametrize(("code", "failure"), [(79, "gpu-fell-off-the-bus"), (48, "gpu-xid")])
def test_a_card_that_fell_off_the_bus_is_told_from_other_errors(
    ask: Ask, host: FakeHost, code: int, failure: str
) -> None:
    with_card(host, log=XID.format(bus=1, code=code))

    assert failed(ask()) == [("gpu_xid", failure)]


def test_a_lost_card_that_fell_off_the_bus(ask: Ask, host: FakeHost) -> None:
    with_card(host, row="", log=XID.format(bus=1, code=79))
    host.files |= ON_THE_BUS

    assert ("gpu_driver", "gpu-fell-off-the-bus") in failed(ask(gpu="required"))


@pytest.mark.parametrize(
    ("container", "asked"),
    [
        ("sparerig-vllm", "`sudo docker exec sparerig-vllm curl -sS -i http://127.0.0.1:1/health`"),
        ("other", "`sudo docker exec other curl -sS -i http://127.0.0.1:1/health`"),
        (None, "`curl -sS -i http://127.0.0.1:1/health`"),
    ],
)
def test_remedies_ask_the_endpoint_from_where_it_is_reached(
    container: str | None, asked: str
) -> None:
    said = words({"unit": "engine", "container": container, "endpoint": "http://127.0.0.1:1/"})

    assert asked in describe("api-unreachable", said).remedy


def test_only_listed_gpus_count(ask: Ask, host: FakeHost) -> None:
    with_card(host, row="\n".join([CARD, ROW.format(index=2, used=0, free=12000)]))

    assert failed(ask(gpus=["2"], min_free_mib=2000)) == []
    assert failed(ask(gpus=["GPU-1"], min_free_mib=2000)) == [("gpu_memory_free", "gpu-memory-low")]


def test_driver_that_does_not_tell(ask: Ask, host: FakeHost) -> None:
    with_card(host, row=CARD.replace("11020, 1003", "[N/A], [N/A]"))
    host.commands["nvidia-smi -q"] = Answer(1, "", "not supported")

    answer = ask(gpu="required", min_free_mib=99999, max_process_mib=0)

    assert failed(answer) == []
    assert statuses(answer)["gpu_memory"] == "unknown"
    assert statuses(answer)["gpu_processes"] == "unknown"


# The container


def deny(*_args: object) -> t.NoReturn:
    raise PermissionError


def in_container(host: FakeHost, answer: Answer | str) -> None:
    host.commands["docker inspect"] = answer


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (f"0 {CONTAINER} exited\n", "container-not-running"),
        (f"77 {CONTAINER} paused\n", "container-not-running"),
        (Answer(1, "", "Error: No such container: vllm"), "container-not-running"),
        (Answer(1, "", "permission denied while trying to connect"), "container-unknown"),
        (HANGS, "container-unknown"),
        (None, "container-unknown"),
    ],
)
def test_container_faults(
    ask: Ask, host: FakeHost, answer: Answer | str | None, failure: str
) -> None:
    if answer is not None:
        in_container(host, answer)

    result = ask(container="vllm", model="tiny")

    assert failed(result) == [("container", failure)]
    assert statuses(result)["model"] == "skipped"


@pytest.mark.parametrize(
    ("path", "replacement"),
    [
        ("ctypes.CDLL", lambda *_a, **_k: types.SimpleNamespace(setns=lambda *_a: -1)),
        ("os.open", deny),
    ],
)
def test_container_whose_network_is_closed_to_us(
    ask: Ask, host: FakeHost, monkeypatch: pytest.MonkeyPatch, path: str, replacement: object
) -> None:
    in_container(host, f"{os.getpid()} {CONTAINER} running\n")
    monkeypatch.setattr(path, replacement)

    answer = ask(container="vllm")

    assert failed(answer) == [("api_health", "container-network")]
    assert "Only root can enter" in answer["msg"]


def test_container_that_ended_meanwhile(ask: Ask, host: FakeHost) -> None:
    in_container(host, f"{2**22 + 1} {CONTAINER} running\n")

    assert failed(ask(container="vllm")) == [("api_health", "container-network")]


@pytest.mark.parametrize(
    ("container", "status", "others"),
    [(CONTAINER, "pass", "620 MiB"), (OTHER_CONTAINER, "fail", "11020 MiB")],
)
def test_memory_in_and_outside_the_container(
    ask: Ask, host: FakeHost, container: str, status: str, others: str
) -> None:
    with_card(host)
    in_container(host, f"{2**22 + 1} {container} running\n")

    answer = ask(container="vllm", gpu="required", max_other_mib=20000)

    assert statuses(answer)["engine_on_gpu"] == status
    assert seen(answer, "gpu_other_processes").startswith(others)


def test_container_on_a_driver_that_lists_no_processes(ask: Ask, host: FakeHost) -> None:
    with_card(host)
    host.commands["nvidia-smi -q"] = "GPU 00000000:01:00.0\n    Processes         : None\n"
    in_container(host, f"{2**22 + 1} {CONTAINER} running\n")

    assert statuses(ask(container="vllm", gpu="required"))["engine_on_gpu"] == "unknown"


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None,
    reason="only root can make and enter a network namespace",
)
def test_asked_from_inside_another_network(ask: Ask, host: FakeHost) -> None:
    """The server listens on a loopback interface that is not ours."""
    script = f"ip link set lo up && exec {sys.executable} {SERVER.__file__}"
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}/healthy"
        in_container(host, f"{server.pid} {CONTAINER} running\n")
        try:
            inside = ask(container="vllm", endpoint=endpoint)
            outside = ask(endpoint=endpoint)
        finally:
            server.terminate()

    assert failed(inside) == []
    assert inside["completion_tokens"] == 6
    assert failed(outside) == [("api_health", "api-refused")]


# Options


def test_key_from_a_file(ask: Ask, host: FakeHost) -> None:
    host.files["/etc/vllm.env"] = f"# made by hand\nOTHER=1\nVLLM_API_KEY={SERVER.KEY}\r\n"

    answer = ask(api_key=None, api_key_file="/etc/vllm.env")

    assert failed(answer) == []
    assert statuses(answer)["api_closed"] == "pass"


def test_key_from_a_file_is_never_shown(ask: Ask, host: FakeHost) -> None:
    """Ansible hides what stands in api_key; a file's content is for the module to hide."""
    host.files["/etc/vllm.env"] = f"VLLM_API_KEY={SERVER.MODEL}\n"

    answer = ask("open", api_key=None, api_key_file="/etc/vllm.env")

    assert "api_models" in statuses(answer)
    assert SERVER.MODEL not in str(answer)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"deadline": 0}, "deadline is 0.0: it must be above 0"),
        ({"deadline": "nan"}, "deadline is nan"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"min_free_mib": 0}, "min_free_mib is 0"),
        ({"max_other_mib": -5}, "max_other_mib is -5: it must be 0 or more"),
        ({"endpoint": "localhost:8000"}, "endpoint is 'localhost:8000'"),
        ({"endpoint": "ftp://host"}, "endpoint is 'ftp://host'"),
        ({"endpoint": "http://host:port"}, "endpoint is 'http://host:port'"),
        ({"endpoint": "http://[::1"}, "endpoint is 'http://[::1'"),
        ({"endpoint": "http://host:8000/v1/"}, "leave out /v1"),
        ({"endpoint": "http://me:secret@host"}, "endpoint is an address with a user"),
        (
            {"expected_context_length": 1, "plan": PLAN},
            "mutually exclusive: expected_context_length|plan",
        ),
        ({"plan": {"context": 1}}, "plan is not what memory_plan returns"),
        ({"api_key_file": "/x"}, "mutually exclusive: api_key|api_key_file"),
        ({"api_key": None, "api_key_file": "/x"}, "api_key_file /x is not there or not readable"),
        ({"api_key": None, "api_key_file": "/empty"}, "/empty has no line VLLM_API_KEY=VALUE"),
        ({"gpu": "maybe"}, "value of gpu must be one of: required, optional, absent"),
        ({"gpus": 0.5, "min_free_mib": "much"}, "min_free_mib"),
    ],
)
def test_options_that_cannot_be_meant(
    ask: Ask, host: FakeHost, options: dict[str, t.Any], says: str
) -> None:
    host.files["/empty"] = "VLLM_API_KEY=\n"

    answer = ask(**options)

    assert answer["failed"]
    assert says in answer["msg"]
    assert "checks" not in answer
    assert "secret" not in answer["msg"]
