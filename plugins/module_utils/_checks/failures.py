# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every failure that the verifying modules know, by its stable name: the one place they are told.

The documentation lists them from this table. In remedies stand {unit} and {web_unit} for
the systemd units, and {url} and {web_url} for the addresses that were asked.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Failure:
    """A known failure: what it is called, what it means, and what fixes it."""

    id: str
    title: str
    cause: str
    remedy: str


_LOG = "journalctl -u {unit} -n 100"
_WEB_LOG = "journalctl -u {web_unit} -n 100"
_RESTART = "systemctl restart {unit}"

_ALL = (
    # The card and its driver
    Failure(
        "gpu-missing",
        "No NVIDIA GPU on the PCI bus",
        "The card is not seated, has no power, is switched off in the firmware setup,"
        " or belongs to another virtual machine.",
        "lspci -nn | grep -i nvidia",
    ),
    Failure(
        "gpu-unexpected",
        "There is a GPU where none was expected",
        "The option gpu says absent, and the driver offers a GPU.",
        "nvidia-smi -L",
    ),
    Failure(
        "gpu-not-found",
        "A listed GPU is not there",
        "The number or UUID is not one of this host's, or that card has dropped out.",
        "nvidia-smi -L",
    ),
    Failure(
        "driver-missing",
        "A card without an NVIDIA driver",
        "The card is on the PCI bus, but nvidia-smi is not installed"
        " (or nouveau still holds the card).",
        "lspci -nnk -d 10de: && dpkg -l 'nvidia-utils-*'",
    ),
    Failure(
        "driver-not-loaded",
        "The driver is installed and not working",
        "Its kernel module is not loaded: not built or not signed for the running kernel,"
        " or refused by Secure Boot.",
        "modprobe nvidia; dmesg | grep -iE 'nvidia|nvrm|key was rejected'",
    ),
    Failure(
        "driver-library-mismatch",
        "Driver libraries and loaded kernel module are of two versions",
        "The driver's packages were upgraded and the old kernel module is still loaded."
        " Containers that already run hide it until they are created anew.",
        "systemctl reboot",
    ),
    Failure(
        "driver-hung",
        "The driver does not answer",
        "The GPU or its driver is stuck, often after a hardware error or a suspend.",
        "dmesg | grep -E 'NVRM|Xid'; systemctl reboot",
    ),
    Failure(
        "gpu-lost",
        "The driver is loaded and cannot use the GPU",
        "The GPU has fallen off the bus (power, riser, suspend),"
        " or this driver branch cannot initialise it.",
        "dmesg | grep -E 'NVRM|Xid'; nvidia-smi",
    ),
    Failure(
        "driver-answer-not-understood",
        "nvidia-smi answers something unknown",
        "This driver's nvidia-smi speaks differently from those this collection knows.",
        "nvidia-smi",
    ),
    Failure(
        "gpu-xid",
        "The driver reported a hardware error (Xid)",
        "The GPU itself failed since boot: power supply, riser, heat, overclocking"
        " or a dying card.",
        "dmesg | grep Xid; nvidia-smi -q -d POWER,TEMPERATURE",
    ),
    Failure(
        "gpu-memory-low",
        "Less GPU memory free than wanted",
        "Other programs (a desktop, a game, an old engine) or the engine itself hold it.",
        "nvidia-smi",
    ),
    Failure(
        "gpu-memory-high",
        "More GPU memory in use than allowed",
        "The engine's memory share is too large, or other programs hold memory as well.",
        "nvidia-smi",
    ),
    Failure(
        "gpu-process-memory",
        "One process holds more GPU memory than allowed",
        "The engine's memory share is too large, or this process is not expected here.",
        "nvidia-smi",
    ),
    Failure(
        "gpu-other-processes",
        "Programs outside the container hold too much GPU memory",
        "A desktop, a game, a browser or another engine shares the card.",
        "nvidia-smi; systemctl isolate multi-user.target",
    ),
    Failure(
        "engine-not-on-gpu",
        "The container holds no GPU memory",
        "The container was started without the GPU, or lost it.",
        "nvidia-ctk cdi list; " + _RESTART,
    ),
    Failure(
        "deadline-spent",
        "The deadline was used up before all checks were made",
        "The driver or Docker answers slowly, or the option deadline is very short.",
        "Run it again with a longer deadline.",
    ),
    # The way to the API
    Failure(
        "container-not-running",
        "The container does not run",
        "Its service was stopped, is still starting, or failed.",
        "systemctl status {unit}; " + _LOG,
    ),
    Failure(
        "container-unknown",
        "Docker does not tell of the container",
        "Docker is not installed, does not run, or may not be asked by this user.",
        "docker ps; systemctl status docker",
    ),
    Failure(
        "container-network",
        "The container's network cannot be entered",
        "Only root can enter it (become is off), or the container ended in between.",
        "systemctl status {unit}",
    ),
    Failure(
        "api-refused",
        "Nothing listens at the endpoint",
        "The engine is still loading the model, has failed, or listens elsewhere.",
        "systemctl status {unit}; " + _LOG,
    ),
    Failure(
        "api-unreachable",
        "There is no way to the endpoint",
        "The address is wrong, or a network or firewall is in between.",
        "ip route; curl -v {url}/health",
    ),
    Failure(
        "api-name-unknown",
        "The endpoint's host name does not resolve",
        "A typing error in the endpoint, or no DNS on this host.",
        "getent hosts NAME",
    ),
    Failure(
        "api-tls",
        "No trusted TLS connection to the endpoint",
        "The certificate is expired, of another name or from an unknown authority,"
        " or the endpoint speaks plain HTTP.",
        "curl -v {url}/health",
    ),
    Failure(
        "api-connect-timeout",
        "No connection within the deadline",
        "A firewall drops the packets, or the host is down.",
        "curl -v {url}/health",
    ),
    Failure(
        "api-no-answer",
        "Connected, but no answer within the deadline",
        "The API server is stuck or overloaded.",
        _LOG + "; " + _RESTART,
    ),
    Failure(
        "api-stalled",
        "The answer did not end within the deadline",
        "The server is overloaded or stuck in the middle of its answer.",
        _LOG,
    ),
    Failure(
        "api-reset",
        "The server broke the connection off",
        "The engine crashed or is restarting, or a proxy in between gave up.",
        "systemctl status {unit}; " + _LOG,
    ),
    Failure(
        "api-truncated",
        "The answer ended too early",
        "The engine crashed in the middle of it, or a proxy cut it off.",
        _LOG,
    ),
    Failure(
        "api-too-large",
        "The answer is larger than any right one",
        "Something else than vLLM answers at the endpoint.",
        "curl -sI {url}/v1/models",
    ),
    Failure(
        "api-not-http",
        "What listens at the endpoint does not speak HTTP",
        "Another service has the port, or it expects https.",
        "ss -ltnp",
    ),
    Failure(
        "api-content-type",
        "The endpoint answers in another format",
        "A web page, a proxy or another service answers there.",
        "curl -si {url}/v1/models | head",
    ),
    Failure(
        "api-invalid-json",
        "The endpoint answers with invalid JSON",
        "A proxy damages the answer, or another service answers there.",
        "curl -s {url}/v1/models",
    ),
    Failure(
        "api-unexpected-answer",
        "The endpoint's JSON is not of the known form",
        "Another service answers there, or a version this collection does not know.",
        "curl -s {url}/v1/models",
    ),
    Failure(
        "api-status",
        "The endpoint answers with an error",
        "The service does not know the path or failed inside.",
        _LOG,
    ),
    Failure(
        "engine-dead",
        "The engine has died behind its API",
        "The API server lives and its engine process does not: out of memory or a driver error.",
        _LOG + "; " + _RESTART,
    ),
    Failure(
        "api-key-missing",
        "The endpoint wants a key and none was given",
        "Neither api_key nor api_key_file is set.",
        "Set api_key_file to the engine's env file.",
    ),
    Failure(
        "api-key-rejected",
        "The endpoint rejects the key",
        "The engine was started with another key, or has not been restarted since it changed.",
        _RESTART,
    ),
    Failure(
        "api-open",
        "The endpoint answers without its key",
        "The engine was started without a key: anybody who can reach it can use it.",
        "systemctl cat {unit}; " + _RESTART,
    ),
    # The model
    Failure(
        "model-none",
        "No model is served",
        "The endpoint is up and its list of models is empty.",
        _LOG,
    ),
    Failure(
        "model-missing",
        "The expected model is not served",
        "The engine serves another model or another name for it (--served-model-name).",
        "systemctl cat {unit}; " + _RESTART,
    ),
    Failure(
        "context-length",
        "The context length is not the expected one",
        "--max-model-len or the model's own limit differs from what was planned.",
        "systemctl cat {unit} | grep -A1 max-model-len",
    ),
    Failure(
        "kv-cache",
        "The KV cache is not as large as planned",
        "The engine found more or less free memory than the plan assumed:"
        " another program held some at its start, or the flags differ.",
        "nvidia-smi; " + _RESTART,
    ),
    # The plan of the card's memory
    Failure(
        "plan-weights-differ",
        "The weights are not those that were planned",
        "Another model or format than planned is served, or it was loaded unquantised.",
        "Run the play again with model_update: true, which plans anew.",
    ),
    Failure(
        "plan-kv-cache-differs",
        "The KV cache is not the plan's",
        "--kv-cache-memory-bytes or --kv-cache-dtype (on a processor VLLM_CPU_KVCACHE_SPACE) is not"
        " the plan's, or the plan is of another model.",
        "Run the play again so that the plan's flags reach vLLM; systemctl cat {unit}",
    ),
    Failure(
        "plan-context-differs",
        "The context is not the plan's",
        "--max-model-len is not the plan's.",
        "Set model_context to the wanted context and run the play again.",
    ),
    Failure(
        "plan-graphs-exceed",
        "CUDA graphs take more than planned",
        "--max-num-seqs is higher than planned, or this vLLM records more.",
        "Set model_max_num_seqs lower, or model_enforce_eager: true, and run the play again.",
    ),
    Failure(
        "plan-total-exceeds",
        "The engine holds more of the card than planned",
        "If no term of the plan is off by itself, it is the driver's context, the libraries or the"
        " activations.",
        "Lower model_max_num_batched_tokens and model_max_num_seqs, and report it: the plan's"
        " constants are too small for this card.",
    ),
    # The completion
    Failure(
        "chat-template-missing",
        "The model has no chat template",
        "Its tokenizer brings none, so the chat API and the chat page cannot work with it.",
        "Serve an instruction-tuned model, or set chat-template in vllm_arguments.",
    ),
    Failure(
        "chat-template-token-missing",
        "The chat template writes tokens that the tokenizer lacks",
        "Template and tokenizer are of two families: a conversion mixed them up, or a template was"
        " copied from another model.",
        "Take tokenizer and template of the original model, or another release of it.",
    ),
    Failure(
        "parser-unknown",
        "This vLLM knows no parser of that name",
        "A typing error, or the parser is of another version of vLLM.",
        "Set model_tool_call_parser or model_reasoning_parser to auto, or to a name that the"
        " message lists.",
    ),
    Failure(
        "parser-not-for-tokenizer",
        "vLLM would not start with this parser and tokenizer",
        "The parser looks for tokens that the model's tokenizer does not have: it is made for"
        " another family of models.",
        "Set model_tool_call_parser or model_reasoning_parser to auto.",
    ),
    Failure(
        "completion-failed",
        "The model does not complete",
        "The server refuses or fails the request; its own words say why.",
        _LOG,
    ),
    Failure(
        "completion-broken-off",
        "An error in the middle of the completion",
        "The engine failed while it generated: out of memory or a driver error.",
        _LOG + "; " + _RESTART,
    ),
    Failure(
        "completion-empty",
        "The completion holds no token",
        "The model ends at once: a wrong chat template or damaged weights.",
        _LOG,
    ),
    Failure(
        "engine-hung",
        "The engine takes requests and sends no tokens",
        "The engine is stuck although /health answers 200.",
        _RESTART,
    ),
    Failure(
        "slow-first-token",
        "The first token comes too late",
        "Other requests are ahead, the GPU is throttled, or the engine still warms up.",
        "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER",
    ),
    Failure(
        "slow-tokens",
        "Tokens come too slowly",
        "Other requests or programs share the GPU, it is throttled,"
        " or a slow kernel is in use (forced --quantization gptq).",
        "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER; journalctl -u {unit} | grep -i kernel",
    ),
    # The chat page
    Failure(
        "web-unreachable",
        "The chat page does not answer",
        "Its service is stopped or still starting, or listens on another address.",
        "systemctl status {web_unit}; " + _WEB_LOG,
    ),
    Failure(
        "web-no-page",
        "What answers is not the chat page",
        "Another service has the port, or Open WebUI failed to start fully.",
        "ss -ltnp; " + _WEB_LOG,
    ),
    Failure(
        "web-open",
        "The chat page lets everybody in",
        "Open WebUI runs with WEBUI_AUTH=False.",
        "systemctl cat {web_unit}",
    ),
    Failure(
        "web-sign-in",
        "Nobody can sign in to the chat page",
        "Wrong address or password: the account was made with another, or changed on the page.",
        "Change the password on the page (Admin Panel, Users), or correct the inventory.",
    ),
    Failure(
        "web-no-model",
        "The chat page does not show the model",
        "Open WebUI cannot reach the engine, or asks it with another key.",
        _WEB_LOG + "; " + _LOG,
    ),
    Failure(
        "document-refused",
        "The chat page takes no documents",
        "Its disk is full, uploads are forbidden, or the account is not accepted.",
        "df -h /var/lib/sparerig; " + _WEB_LOG,
    ),
    Failure(
        "document-not-indexed",
        "The chat page cannot index documents",
        "Its embedding model is not there, or the embedding engine that it is pointed at does not"
        " answer. Uploads still look fine, and chats go on without the documents.",
        "docker inspect {web_unit} | grep RAG_; " + _WEB_LOG,
    ),
    Failure(
        "document-question-fails",
        "A question about a document gets no answer",
        "The engine does not answer, or the embedding engine does not turn questions into vectors.",
        _WEB_LOG + "; " + _LOG,
    ),
    Failure(
        "document-not-in-prompt",
        "Documents do not reach the model",
        "The document is indexed, but nothing of it is found again: retrieval is off, its threshold"
        " is too high, or the vectors come from another embedding model.",
        "docker inspect {web_unit} | grep RAG_",
    ),
)

FAILURES: t.Final[Mapping[str, Failure]] = {failure.id: failure for failure in _ALL}
