#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify GPU memory and API health of a deployed chat server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inference_health
short_description: Verify GPU memory and API health of a deployed chat server
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Proves that a vLLM server does what was deployed. It reads GPU memory from the driver, for each GPU and for each process,
    asks the API everything it tells of itself, and lets the model speak, measuring time to first token and tokens per second.
    On request it also signs in to the Open WebUI page, looks for the model there, and proves that documents work.
  - Every check it reaches is returned as evidence in RV(checks), on failure too, with the likely cause and the command that
    fixes it. A check that cannot be made, for want of rights for example, is V(unknown) and never fails by itself.
  - It keeps its deadline whatever the server does, and needs nothing but Python on the host.
  - It only reads. The one thing it leaves behind is a completion in the engine's statistics.
    O(document_probe) adds a document to the page and removes it.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  endpoint:
    description:
      - Address of the vLLM server, C(http) or C(https), without C(/v1).
      - With O(container) this is an address as seen from inside that container.
      - An empty string leaves the API out, on a host that has the page only.
    type: str
    default: http://127.0.0.1:8000
  container:
    description:
      - Name of the Docker container whose network O(endpoint) is asked from.
      - A server that publishes no port can be asked this way and no other. Needs root.
      - Without it, O(endpoint) is asked from the host.
    type: str
  validate_certs:
    description: Whether the certificates of C(https) addresses are checked.
    type: bool
    default: true
  api_key:
    description: Key of the API. With a key, an API that also answers without it is a failure.
    type: str
  api_key_file:
    description: File on the host with lines C(NAME=value) that holds the key, such as the engine's env file.
    type: path
  api_key_name:
    description: Name of the key in O(api_key_file).
    type: str
    default: VLLM_API_KEY
  model:
    description: Name that the model must be served by. Without it, the first model served is used.
    type: str
  deadline:
    description: Seconds that all the checks may take together. Must be above 0.
    type: float
    default: 60
  gpu:
    description:
      - With V(required), a GPU with a working driver must be there.
      - With V(optional), GPUs are checked if there are any that work.
      - With V(absent), a GPU that works is a failure.
    type: str
    choices: [required, optional, absent]
    default: optional
  gpus:
    description: Numbers or UUIDs of the GPUs to check, as C(nvidia-smi -L) shows them. Without it, all.
    type: list
    elements: str
    default: []
  min_free_mib:
    description: MiB of memory that must be free on each GPU.
    type: int
  max_used_mib:
    description: MiB of memory that may be used on each GPU.
    type: int
  max_process_mib:
    description: MiB of memory that a single process may hold on each GPU.
    type: int
  max_other_mib:
    description:
      - MiB of memory on each GPU that all processes outside O(container) may hold together, such as a desktop or a game.
      - Without O(container), all processes count.
    type: int
  expected_context_length:
    description: Context length that the server must tell, in tokens.
    type: int
  min_context_length:
    description: Least context length that the server must tell, in tokens.
    type: int
  expected_kv_cache_tokens:
    description: Tokens that the KV cache was planned to hold, as RV(sparerig.llm.memory_plan#module:kv_cache_tokens) says.
    type: int
  tolerance_percent:
    description: How far the KV cache may be off O(expected_kv_cache_tokens), up or down, in percent.
    type: float
    default: 10
  plan:
    description:
      - The plan that the engine was started by, as M(sparerig.llm.memory_plan) returns it. Without it, nothing is compared.
      - The weights must be within 1 %, the KV cache within 3 %, and all of it within what the plan takes of the card.
    type: dict
  completion_api:
    description:
      - Which API the completion is asked from. The chat page uses V(chat).
      - With V(auto), a model without a chat template is asked through V(completions) instead, and the evidence says so.
    type: str
    choices: [chat, completions, auto]
    default: chat
  prompt:
    description: What is asked of the model.
    type: str
    default: Count from 1 to 30.
  max_tokens:
    description: Tokens that the answer may have. Speed is measured over them.
    type: int
    default: 64
  max_ttft_ms:
    description: Milliseconds within which the first token must come. Not checked by default.
    type: float
  min_tokens_per_second:
    description: Tokens per second that must come after the first one. Not checked by default.
    type: float
  web_url:
    description: Address of the Open WebUI page, as seen from the host. Not checked by default.
    type: str
  web_email:
    description: E-mail address of an account to sign in with. Without it, only the page itself is checked.
    type: str
  web_password:
    description: Password of that account.
    type: str
  web_password_file:
    description: File on the host with lines C(NAME=value) that holds the password.
    type: path
  web_password_name:
    description: Name of the password in O(web_password_file).
    type: str
    default: WEBUI_ADMIN_PASSWORD
  document_probe:
    description:
      - Whether a short document is taken the whole way, which O(web_email) is needed for. It is uploaded, indexed, asked
        about, and has to be in the prompt that the model gets; then it is removed. Open WebUI itself tells nobody when this
        fails. Not done in check mode.
      - With O(web_password_file), the session is kept beside it in C(<file>.session), because sign-ins are limited.
    type: bool
    default: false
  document_timeout:
    description: Seconds in which that document must be indexed. The first one after a start loads the embedding model.
    type: float
    default: 60
  unit:
    description: Systemd unit of the server, for the commands in the evidence.
    type: str
    default: sparerig-vllm
  web_unit:
    description: Systemd unit of the page, for the commands in the evidence.
    type: str
    default: sparerig-open-webui
seealso:
  - module: sparerig.llm.gpu_info
  - module: sparerig.llm.memory_plan
"""

EXAMPLES = r"""
- name: Verify the server on this PC, in the network of its container
  sparerig.llm.inference_health:
    container: sparerig-vllm
    api_key_file: /etc/sparerig/sparerig-vllm.secrets.env
    model: llama-3-8b-instruct
    gpu: required

- name: Verify that it is as planned and fast enough
  sparerig.llm.inference_health:
    container: sparerig-vllm
    api_key_file: /etc/sparerig/sparerig-vllm.secrets.env
    gpu: required
    gpus: ["0"]
    max_other_mib: 600
    expected_context_length: 8192
    expected_kv_cache_tokens: 32000
    max_ttft_ms: 1500
    min_tokens_per_second: 30

- name: Verify the page as well, as the first admin sees it
  sparerig.llm.inference_health:
    container: sparerig-vllm
    api_key_file: /etc/sparerig/sparerig-vllm.secrets.env
    web_url: http://127.0.0.1:8080
    web_email: admin@example.com
    web_password_file: /etc/sparerig/sparerig-open-webui.secrets.env

- name: Look without failing
  sparerig.llm.inference_health:
    endpoint: http://192.168.1.20:8000
    api_key: "{{ vault_vllm_api_key }}"
  register: health
  failed_when: false
"""

RETURN = r"""
checks:
  description: The evidence, in the order in which the checks were reached.
  returned: always
  type: list
  elements: dict
  sample:
    - name: completion
      status: fail
      expected: a streamed completion of up to 64 tokens
      seen: http://127.0.0.1:8000/v1/chat/completions took the request and sent no token before the deadline of 60 s
      failure: engine-hung
      cause: It is stuck, although its process runs and /health may answer 200.
      remedy: "`sudo journalctl -u sparerig-vllm -n 100`; `sudo systemctl restart sparerig-vllm`. The supervisor restarts it by itself when it notices."
  contains:
    name:
      description: What was checked.
      type: str
      returned: always
    status:
      description: V(pass), V(fail), V(unknown) when the truth could not be learnt, or V(skipped) when a check before it failed.
      type: str
      returned: always
    expected:
      description: What was expected.
      type: str
      returned: always
    seen:
      description: What was seen.
      type: str
      returned: always
    failure:
      description: Identifier of the failure, as in C(docs/failures.md). Empty unless RV(checks[].status) is V(fail).
      type: str
      returned: always
    cause:
      description: The likely cause. Empty when the check passed.
      type: str
      returned: always
    remedy:
      description: The command that fixes it, or that shows more. Empty unless RV(checks[].status) is V(fail).
      type: str
      returned: always
report:
  description: The checks in plain lines, for people to read.
  returned: always
  type: list
  elements: str
  sample:
    - "pass     completion  64 tokens, finish reason length"
failure:
  description: Identifier of the first failure, as in C(docs/failures.md). Empty when there was none.
  returned: always
  type: str
  sample: engine-hung
gpus:
  description: The GPUs that were checked, as RV(sparerig.llm.gpu_info#module:gpus) describes them.
  returned: always
  type: list
  elements: dict
versions:
  description: Versions of what was met on the way. Empty where not met or not told.
  returned: always
  type: dict
  contains:
    driver:
      description: The NVIDIA driver's kernel module.
      type: str
      returned: always
    cuda:
      description: The newest CUDA that this driver offers.
      type: str
      returned: always
    vllm:
      description: The server.
      type: str
      returned: always
    open_webui:
      description: The page.
      type: str
      returned: always
model:
  description: The model that was asked. Null when none was.
  returned: always
  type: str
context_length:
  description: Context length in tokens, as the server tells it. Null when it does not.
  returned: always
  type: int
kv_cache_tokens:
  description: Tokens that the KV cache holds, from the server's metrics. Null when they do not tell.
  returned: always
  type: int
kv_cache_usage_percent:
  description: How full the KV cache was. Null when the metrics do not tell.
  returned: always
  type: float
requests_running:
  description: Requests that the engine was working on. Null when the metrics do not tell.
  returned: always
  type: int
requests_waiting:
  description: Requests that waited for the engine. Null when the metrics do not tell.
  returned: always
  type: int
ttft_ms:
  description: Time to first token of the completion, in milliseconds. Null when there was none.
  returned: always
  type: float
tpot_ms:
  description: Time per output token after the first, in milliseconds. Null when there was none.
  returned: always
  type: float
tokens_per_second:
  description: Tokens per second after the first one. Null when there was none.
  returned: always
  type: float
completion_tokens:
  description: Tokens of the completion. Null when there was none.
  returned: always
  type: int
finish_reason:
  description: Why the completion ended, V(length) or V(stop) as a rule. Null when there was none.
  returned: always
  type: str
"""

import typing as t
import urllib.parse
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import WORDS
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import nvidia_smi as gpu_reader
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host, LocalHost
from ansible_collections.sparerig.llm.plugins.module_utils._host.http import Client, Deadline
from ansible_collections.sparerig.llm.plugins.module_utils._memory import comparison
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui import document_probe
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    Account,
    OpenWebUI,
    OpenWebUIError,
    SessionFile,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.health import (
    ApiFacts,
    ApiWants,
    Container,
    GpuWants,
    SignIn,
    api_checks,
    check_api,
    check_container,
    check_gpus,
    check_web,
    web_checks,
)

_LONGEST_READ = 20.0  # seconds for one question to the driver or to Docker
_POSITIVE = (
    "deadline",
    "max_tokens",
    "min_free_mib",
    "expected_context_length",
    "min_context_length",
    "expected_kv_cache_tokens",
    "max_ttft_ms",
    "min_tokens_per_second",
    "document_timeout",
)
_NOT_NEGATIVE = ("max_used_mib", "max_process_mib", "max_other_mib", "tolerance_percent")


class OptionError(Exception):
    """An option's value that cannot be meant; said before anything is asked."""


def check_options(params: dict[str, t.Any]) -> None:
    """Refuse values of the right type that make no sense."""
    for name in _POSITIVE:
        if params[name] is not None and not params[name] > 0:
            raise OptionError(f"{name} is {params[name]}: it must be above 0")
    for name in _NOT_NEGATIVE:
        if params[name] is not None and not params[name] >= 0:
            raise OptionError(f"{name} is {params[name]}: it must be 0 or more")
    for name in ("endpoint", "web_url"):
        if params[name]:
            check_url(name, params[name])
    if params["plan"]:
        comparison.check_plan(params["plan"])
    if params["web_email"] and not (params["web_password"] or params["web_password_file"]):
        raise OptionError("web_email is set: web_password or web_password_file is needed with it")
    if params["document_probe"] and not params["web_email"]:
        raise OptionError("document_probe is true: web_url and web_email are needed with it")


def check_url(name: str, url: str) -> None:
    """Refuse what is no address of a server."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise OptionError(f"{name} is '{url}': it must look like http://127.0.0.1:8000")
    if parts.username is not None or parts.query or parts.fragment:
        raise OptionError(
            f"{name} is an address with a user, a query or a fragment: leave them out"
        )
    if parts.path.rstrip("/").endswith("/v1"):
        raise OptionError(
            f"{name} is '{url}': leave out /v1, it is the server's address that is wanted"
        )


def read_secret(host: Host, option: str, path: str, name: str) -> str:
    """Read one value from a file of NAME=value lines, as Docker and systemd take them."""
    text = host.read(path)
    if text is None:
        raise OptionError(
            f"{option} {path} is not there or not readable: run with become, or correct it"
        )
    for line in text.splitlines():
        key, _equals, value = line.partition("=")
        if key.strip() == name and value.strip():
            return value.strip()
    raise OptionError(f"{option} {path} has no line {name}=VALUE")


def secret(module: AnsibleModule, host: Host, option: str) -> str | None:
    """Return a secret given as such or in a file, and keep it out of everything that is shown."""
    value = module.params[option]
    path = module.params[f"{option}_file"]
    if path is not None:
        value = read_secret(host, f"{option}_file", path, module.params[f"{option}_name"])
        module.no_log_values.add(value)
    return value or None


def check_everything(
    params: dict[str, t.Any], host: Host, key: str | None, password: str | None, evidence: Evidence
) -> dict[str, t.Any]:
    """Make all the checks that are asked for; return what was measured."""
    deadline = Deadline(params["deadline"])

    def patience() -> float:
        """Leave most of the deadline to the checks that follow."""
        return 0.1 if deadline.spent else min(deadline.left() / 3, _LONGEST_READ)

    container: Container | None = None
    if params["container"]:
        container = check_container(host, params["container"], evidence, patience())
    report = read_gpus(host, patience(), evidence)
    gpus = check_gpus(report, gpu_wants(params), evidence, container) if report else []
    facts = ApiFacts()
    if params["endpoint"]:
        client = Client(
            params["endpoint"],
            key=key,
            netns_pid=container.pid if container else None,
            validate_certs=params["validate_certs"],
        )
        wants = api_wants(params)
        if params["container"] and container is None:
            evidence.skip(api_checks(client, wants), "container failed")
        elif deadline.spent:
            give_up(api_checks(client, wants), deadline, evidence)
        else:
            facts = check_api(client, wants, evidence, deadline)
        if params["plan"]:
            actual = comparison.gather(host, container, gpus, facts, patience())
            comparison.compare(params["plan"], actual, evidence)
    web_version = None
    if params["web_url"]:
        account = (
            SignIn(params["web_email"], password) if params["web_email"] and password else None
        )
        web = Client(params["web_url"], validate_certs=params["validate_certs"])
        if deadline.spent:
            give_up(web_checks(account), deadline, evidence)
        else:
            model = params["model"] or facts.model
            web_version = check_web(web, account, model, evidence, deadline)
        if params["document_probe"]:
            check_documents(params, password or "", facts.model, evidence, deadline)
    driver = report.driver if report else gpu_reader.Driver()
    return {
        "gpus": [asdict(gpu) for gpu in gpus],
        "versions": {
            "driver": driver.kernel_module,
            "cuda": driver.cuda,
            "vllm": facts.version or "",
            "open_webui": web_version or "",
        },
        **measured(facts),
    }


def check_documents(
    params: dict[str, t.Any],
    password: str,
    served: str | None,
    evidence: Evidence,
    deadline: Deadline,
) -> None:
    """Prove that documents work, through a page that is known to show the model."""
    last = evidence.checks[-1]
    if (last["name"], last["status"]) != ("web_model", "pass"):
        evidence.skip(document_probe.CHECKS, f"{last['name']} was not passed")
        return
    if deadline.spent:
        give_up(document_probe.CHECKS, deadline, evidence)
        return
    account = Account(
        params["web_url"], params["web_email"], password, deadline.left(), params["validate_certs"]
    )
    file = params["web_password_file"]
    try:
        sessions = SessionFile(Path(f"{file}.session")) if file else None
        client = OpenWebUI(account, sessions=sessions, administrator=False)
    except OpenWebUIError as exc:
        expected = f"{params['web_email']} signs in to upload a document"
        evidence.failed("document_upload", "document-refused", expected=expected, seen=str(exc))
        evidence.skip(document_probe.CHECKS[1:], "document_upload failed")
        return
    patience = min(params["document_timeout"], deadline.left())
    model = params["model"] or served
    document_probe.probe_documents(client, model, evidence, index_timeout=patience)


def give_up(names: list[str], deadline: Deadline, evidence: Evidence) -> None:
    """Leave checks out for want of time, which must not look like success."""
    if evidence.first_failure is None:
        expected = f"all checks within {deadline.seconds:g} s"
        seen = f"no time left for {names[0]}"
        evidence.failed("deadline", "deadline-spent", expected=expected, seen=seen)
    evidence.skip(names, "the checks before it used up the deadline")


def gpu_wants(params: dict[str, t.Any]) -> GpuWants:
    """Bring the options about GPUs together."""
    return GpuWants(
        policy=params["gpu"],
        gpus=params["gpus"],
        min_free_mib=params["min_free_mib"],
        max_used_mib=params["max_used_mib"],
        max_process_mib=params["max_process_mib"],
        max_other_mib=params["max_other_mib"],
    )


def api_wants(params: dict[str, t.Any]) -> ApiWants:
    """Bring the options about the API together."""
    return ApiWants(
        model=params["model"],
        context_length=params["expected_context_length"],
        min_context_length=params["min_context_length"],
        kv_cache_tokens=params["expected_kv_cache_tokens"],
        tolerance_percent=params["tolerance_percent"],
        completion_api=params["completion_api"],
        prompt=params["prompt"],
        max_tokens=params["max_tokens"],
        max_ttft_ms=params["max_ttft_ms"],
        min_tokens_per_second=params["min_tokens_per_second"],
    )


def read_gpus(host: Host, timeout: float, evidence: Evidence) -> gpu_reader.GpuReport | None:
    """Read the GPUs; an answer that is not understood is a failure of its own."""
    try:
        return gpu_reader.read(host, timeout=timeout)
    except gpu_reader.GpuOutputError as exc:
        expected = "an answer from nvidia-smi that is understood"
        evidence.failed(
            "gpu_driver", "driver-answer-not-understood", expected=expected, seen=str(exc)
        )
        return None


def words(params: dict[str, t.Any]) -> dict[str, str]:
    """Return what remedies have places for: which units, and how the endpoint is asked by hand."""
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
        "web_unit": params["web_unit"],
        "url": url,
        "host": urllib.parse.urlsplit(url).hostname or "",
        **asked,
    }


def measured(facts: ApiFacts) -> dict[str, t.Any]:
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


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "endpoint": {"type": "str", "default": "http://127.0.0.1:8000"},
            "container": {"type": "str"},
            "validate_certs": {"type": "bool", "default": True},
            "api_key": {"type": "str", "no_log": True},
            "api_key_file": {"type": "path", "no_log": False},
            "api_key_name": {"type": "str", "default": "VLLM_API_KEY", "no_log": False},
            "model": {"type": "str"},
            "deadline": {"type": "float", "default": 60},
            "gpu": {
                "type": "str",
                "choices": ["required", "optional", "absent"],
                "default": "optional",
            },
            "gpus": {"type": "list", "elements": "str", "default": []},
            "min_free_mib": {"type": "int"},
            "max_used_mib": {"type": "int"},
            "max_process_mib": {"type": "int"},
            "max_other_mib": {"type": "int"},
            "expected_context_length": {"type": "int"},
            "min_context_length": {"type": "int"},
            "expected_kv_cache_tokens": {"type": "int", "no_log": False},
            "tolerance_percent": {"type": "float", "default": 10},
            "plan": {"type": "dict"},
            "completion_api": {
                "type": "str",
                "choices": ["chat", "completions", "auto"],
                "default": "chat",
            },
            "prompt": {"type": "str", "default": "Count from 1 to 30."},
            "max_tokens": {"type": "int", "default": 64, "no_log": False},
            "max_ttft_ms": {"type": "float"},
            "min_tokens_per_second": {"type": "float", "no_log": False},
            "web_url": {"type": "str"},
            "web_email": {"type": "str"},
            "web_password": {"type": "str", "no_log": True},
            "web_password_file": {"type": "path", "no_log": False},
            "web_password_name": {
                "type": "str",
                "default": "WEBUI_ADMIN_PASSWORD",
                "no_log": False,
            },
            "document_probe": {"type": "bool", "default": False},
            "document_timeout": {"type": "float", "default": 60},
            "unit": {"type": "str", "default": "sparerig-vllm"},
            "web_unit": {"type": "str", "default": "sparerig-open-webui"},
        },
        mutually_exclusive=[
            ("api_key", "api_key_file"),
            ("web_password", "web_password_file"),
            ("expected_context_length", "min_context_length"),
        ],
        required_by={"web_email": ("web_url",)},
        supports_check_mode=True,
    )
    params = module.params
    params["document_probe"] &= not module.check_mode
    host = LocalHost()
    try:
        check_options(params)
        key = secret(module, host, "api_key")
        password = secret(module, host, "web_password")
    except (OptionError, comparison.PlanGivenError) as exc:
        module.fail_json(msg=str(exc))
    evidence = Evidence(words(params))
    result = check_everything(params, host, key, password, evidence)
    failure = evidence.first_failure
    result |= {
        "checks": evidence.checks,
        "report": evidence.report(),
        "failure": failure.failure if failure else "",
    }
    if failure:
        module.fail_json(msg=evidence.message(), **result)
    module.exit_json(msg=evidence.message(), changed=False, **result)


if __name__ == "__main__":
    main()
