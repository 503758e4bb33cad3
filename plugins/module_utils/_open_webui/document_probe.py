# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that documents work: upload one, ask about it, see that the prompt held it, remove it.

Open WebUI answers a question with or without the document that was meant to go with it, and tells
nobody when indexing failed. So the proof is what it says it put into the prompt, not the answer.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import secrets
import time
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUI,
    OpenWebUIError,
    quoted,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.knowledge import (
    wait_until_indexed,
)

if t.TYPE_CHECKING:
    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence

NAME = "sparerig-document-probe.txt"
CHECKS = ["document_upload", "document_index", "document_in_prompt"]


def probe_documents(
    client: OpenWebUI, model: str | None, evidence: Evidence, *, index_timeout: float = 60.0
) -> None:
    """Take one short document the whole way and clean up behind it, whatever happened."""
    with evidence.section(CHECKS):
        word = f"probe-{secrets.token_hex(6)}"
        file_id = _upload(client, word, evidence)
        try:
            _see_it_indexed(client, file_id, evidence, index_timeout)
            _see_it_in_the_prompt(client, model, file_id, word, evidence)
        finally:
            _remove(client, file_id, evidence)


def _upload(client: OpenWebUI, word: str, evidence: Evidence) -> str:
    text = f"The inventory number of the lighthouse is {word}. It is painted on its door.\n"
    expected = "an upload is accepted"
    try:
        file_id = str(client.upload(NAME, text.encode())["id"])
    except OpenWebUIError as error:
        evidence.stop("document_upload", "document-refused", expected=expected, seen=str(error))
    evidence.passed("document_upload", expected=expected, seen=f"file {file_id}")
    return file_id


def _see_it_indexed(
    client: OpenWebUI, file_id: str, evidence: Evidence, index_timeout: float
) -> None:
    started = time.monotonic()
    expected = f"indexed within {index_timeout:g} s"
    try:
        error = wait_until_indexed(client, file_id, index_timeout)
    except OpenWebUIError as broken:
        error = str(broken)
    if error:
        evidence.stop("document_index", "document-not-indexed", expected=expected, seen=error)
    seen = f"indexed in {time.monotonic() - started:.1f} s"
    evidence.passed("document_index", expected=expected, seen=seen)


def _see_it_in_the_prompt(
    client: OpenWebUI, model: str | None, file_id: str, word: str, evidence: Evidence
) -> None:
    expected = "the prompt of a question about it holds its text"
    try:
        model = model or _first_served(client)
        held = word in _prompted(client, model, file_id)
    except OpenWebUIError as error:
        evidence.stop(
            "document_in_prompt", "document-question-fails", expected=expected, seen=str(error)
        )
    seen = f"{model} was asked {'with' if held else 'without'} it"
    evidence.verdict(
        "document_in_prompt", "document-not-in-prompt", good=held, expected=expected, seen=seen
    )


def _remove(client: OpenWebUI, file_id: str, evidence: Evidence) -> None:
    try:
        client.delete(f"/api/v1/files/{quoted(file_id)}")
    except OpenWebUIError as error:
        cause = f"{NAME} is left among the administrator's files: remove it in the page"
        expected = "the document is removed again"
        evidence.unknown("document_removal", expected=expected, seen=str(error), cause=cause)


def _first_served(client: OpenWebUI) -> str:
    models = client.get("/api/models")["data"]
    if not models:
        message = (
            "Open WebUI sees no model to ask: is vLLM up, and does OPENAI_API_BASE_URLS name it?"
        )
        raise OpenWebUIError(message)
    return str(models[0]["id"])


def _prompted(client: OpenWebUI, model: str, file_id: str) -> str:
    """Ask about the document; return the passages that Open WebUI says it gave to the model."""
    body = {
        "model": model,
        "messages": [
            {"role": "user", "content": "What is the inventory number of the lighthouse?"}
        ],
        "files": [{"type": "file", "id": file_id}],
        "stream": False,
        "max_tokens": 1,  # the prompt is what is looked at: one token is answer enough
    }
    answer: t.Any = client.post("/api/chat/completions", body)
    passages = (source.get("document") or [] for source in answer.get("sources") or [])
    return "\n".join(text for texts in passages for text in texts)
