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
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui import (
    OpenWebUI,
    OpenWebUIError,
    quoted,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui_knowledge import (
    wait_until_indexed,
)

Check = dict[str, str]

NAME = "sparerig-document-probe.txt"


@dataclass(frozen=True)
class DocumentProbe:
    """What the probe found; ``checks`` in the order they were reached."""

    ok: bool
    checks: list[Check]
    indexing_seconds: float | None = None
    answer_seconds: float | None = None


def probe_documents(client: OpenWebUI, model: str, *, index_timeout: float = 60.0) -> DocumentProbe:
    """Take one short document the whole way and clean up behind it, whatever happened."""
    word = f"probe-{secrets.token_hex(6)}"
    text = f"The inventory number of the lighthouse is {word}. It is painted on its door.\n"
    checks: list[Check] = []
    file_id = ""
    started = time.monotonic()
    try:
        file_id = str(client.upload(NAME, text.encode())["id"])
        checks.append(_passed("document_upload", "an upload is accepted", f"file {file_id}"))
        error = wait_until_indexed(client, file_id, index_timeout)
        indexed = time.monotonic() - started
        if error:
            checks.append(_not_indexed(error))
            return DocumentProbe(ok=False, checks=checks)
        checks.append(
            _passed("document_index", "status completed", f"completed in {indexed:.1f} s")
        )
        started = time.monotonic()
        held = word in _prompted(client, model, file_id)
        answered = time.monotonic() - started
        checks.append(_in_prompt(model, held=held))
        return DocumentProbe(held, checks, indexed, answered)
    except OpenWebUIError as error:
        checks.append(_broken("document_question" if file_id else "document_upload", str(error)))
        return DocumentProbe(ok=False, checks=checks)
    finally:
        if file_id:
            client.delete(f"/api/v1/files/{quoted(file_id)}")


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


def _passed(name: str, expected: str, seen: str) -> Check:
    return {
        "name": name,
        "status": "pass",
        "expected": expected,
        "seen": seen,
        "cause": "",
        "mend": "",
    }


def _not_indexed(error: str) -> Check:
    return {
        "name": "document_index",
        "status": "fail",
        "expected": "status completed",
        "seen": error,
        "cause": "Open WebUI takes uploads but cannot turn them into vectors, usually for want "
        "of its embedding model. Chats then go on without the documents.",
        "mend": "journalctl -u sparerig-open-webui | grep -i -e embedding -e SentenceTransformer",
    }


def _in_prompt(model: str, *, held: bool) -> Check:
    if held:
        return _passed(
            "document_in_prompt", "the passage is given to the model", f"given to {model}"
        )
    return {
        "name": "document_in_prompt",
        "status": "fail",
        "expected": "the passage is given to the model",
        "seen": f"{model} was asked without it",
        "cause": "The document is indexed, but nothing of it is found again: retrieval is "
        "off, its threshold is too high, or the vectors come from another embedding model.",
        "mend": "docker inspect sparerig-open-webui | grep RAG_",
    }


def _broken(name: str, error: str) -> Check:
    return {
        "name": name,
        "status": "fail",
        "expected": "an answer",
        "seen": error,
        "cause": "Open WebUI, or the model server behind it, did not answer as it should.",
        "mend": "journalctl -u sparerig-open-webui -u sparerig-vllm -n 50",
    }
