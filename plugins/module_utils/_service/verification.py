# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that an engine serves as planned: its container, its GPUs, its API, its plan."""

from __future__ import annotations

import typing as t
import urllib.parse
from dataclasses import asdict

from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import WORDS
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi
from ansible_collections.sparerig.llm.plugins.module_utils._gpu.health import (
    GpuExpectations,
    check_gpus,
    read_gpus,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Client, Deadline
from ansible_collections.sparerig.llm.plugins.module_utils._host.verification import (
    OptionError,
    check_numbers,
    check_url,
    give_up,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory import comparison
from ansible_collections.sparerig.llm.plugins.module_utils._service.container import check_container
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.health import (
    ApiExpectations,
    ApiFacts,
    api_checks,
    check_api,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host

_LONGEST_READ = 20.0  # seconds for one question to the driver or to Docker
_POSITIVE = (
    "deadline",
    "max_tokens",
    "min_free_mib",
    "expected_context_length",
    "min_context_length",
    "max_ttft_ms",
    "min_tokens_per_second",
)
_NOT_NEGATIVE = ("max_used_mib", "max_process_mib", "max_other_mib")


def check_options(params: Mapping[str, t.Any]) -> None:
    """Refuse values of the right type that make no sense."""
    check_numbers(params, positive=_POSITIVE, not_negative=_NOT_NEGATIVE)
    check_url("endpoint", params["endpoint"])
    if params["plan"]:
        try:
            comparison.check_plan(params["plan"])
        except comparison.PlanGivenError as error:
            raise OptionError(str(error)) from error


def verify_engine(
    params: Mapping[str, t.Any], host: Host, key: str | None, evidence: Evidence
) -> dict[str, t.Any]:
    """Make all the checks that are asked for; return what was measured.

    ``params``: the options of the module ``inference_health``. ``key``: the API's key, if any.
    """
    deadline = Deadline(params["deadline"])

    def patience() -> float:
        """Leave most of the deadline to the checks that follow."""
        return 0.1 if deadline.spent else min(deadline.left() / 3, _LONGEST_READ)

    container = None
    if params["container"]:
        container = check_container(host, params["container"], evidence, patience())
    container_id = container.id if container else None
    report = read_gpus(host, patience(), evidence)
    gpus = check_gpus(report, _gpu(params), evidence, container_id) if report else []
    facts = ApiFacts()
    client = Client(
        params["endpoint"],
        key=key,
        netns_pid=container.pid if container else None,
        validate_certs=params["validate_certs"],
    )
    expectations = _api(params)
    if params["container"] and container is None:
        evidence.skip(api_checks(client, expectations), "container failed")
    elif deadline.spent:
        give_up(api_checks(client, expectations), deadline, evidence)
    else:
        facts = check_api(client, expectations, evidence, deadline)
    if params["plan"]:
        actual = comparison.gather(host, container_id, gpus, facts, patience())
        comparison.compare(params["plan"], actual, evidence)
    driver = report.driver if report else nvidia_smi.Driver()
    return {
        "gpus": [asdict(gpu) for gpu in gpus],
        "versions": {
            "driver": driver.kernel_module,
            "cuda": driver.cuda,
            "vllm": facts.version or "",
        },
        **_measured(facts),
    }


def words(params: Mapping[str, t.Any]) -> dict[str, str]:
    """Return what remedies have places for: which unit, and how the endpoint is asked by hand."""
    container, url = params["container"], params["endpoint"].rstrip("/")
    asked = (
        {}
        if container == WORDS["unit"]
        else {"curl": "curl", "models": f"curl -sS {url}/v1/models"}
    )
    if container and asked:
        asked = {name: f"sudo docker exec {container} {command}" for name, command in asked.items()}
    return {
        "unit": params["unit"],
        "url": url,
        "host": urllib.parse.urlsplit(url).hostname or "",
        **asked,
    }


def _gpu(params: Mapping[str, t.Any]) -> GpuExpectations:
    """Bring the options about GPUs together."""
    return GpuExpectations(
        policy=params["gpu"],
        gpus=params["gpus"],
        min_free_mib=params["min_free_mib"],
        max_used_mib=params["max_used_mib"],
        max_process_mib=params["max_process_mib"],
        max_other_mib=params["max_other_mib"],
    )


def _api(params: Mapping[str, t.Any]) -> ApiExpectations:
    """Bring the options about the API together."""
    return ApiExpectations(
        model=params["model"],
        context_length=params["expected_context_length"],
        min_context_length=params["min_context_length"],
        completion_api=params["completion_api"],
        prompt=params["prompt"],
        max_tokens=params["max_tokens"],
        max_ttft_ms=params["max_ttft_ms"],
        min_tokens_per_second=params["min_tokens_per_second"],
    )


def _measured(facts: ApiFacts) -> dict[str, t.Any]:
    """Bring what the API told and what was measured into the module's words."""
    done = facts.completion
    speed = done.tokens_per_second if done else None
    per_token = done.time_per_token_s if done else None
    return {
        "model": facts.model,
        "context_length": facts.context_length,
        **asdict(facts.metrics),
        "ttft_ms": round(done.first_token_s * 1000, 1) if done else None,
        "tpot_ms": None if per_token is None else round(per_token * 1000, 2),
        "tokens_per_second": None if speed is None else round(speed, 1),
        "completion_tokens": done.tokens if done else None,
        "finish_reason": done.finish_reason if done else None,
    }
