# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page does for people what it is there for."""

from __future__ import annotations

import typing as t

import pytest
import requests
from conftest import PATIENCE

if t.TYPE_CHECKING:
    from conftest import Rig

PAGE = "sparerig-open-webui"
MODEL = "tiny-llama-gptq"
TOOL = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def admin(rig: Rig) -> tuple[str, dict[str, str]]:
    """Return the page's address, and the headers of its signed-in administrator."""
    url = f"http://{rig.address}:8080"
    account = {
        "email": "admin@localhost.localdomain",
        "password": rig.secret(PAGE, "WEBUI_ADMIN_PASSWORD"),
    }
    answer = requests.post(f"{url}/api/v1/auths/signin", json=account, timeout=PATIENCE)
    answer.raise_for_status()
    assert answer.json()["role"] == "admin"
    return url, {"Authorization": f"Bearer {answer.json()['token']}"}


def test_the_model_is_listed(admin: tuple[str, dict[str, str]]) -> None:
    url, headers = admin
    models = requests.get(f"{url}/api/models", headers=headers, timeout=PATIENCE).json()["data"]
    assert [model["id"] for model in models] == [MODEL]


def ask(admin: tuple[str, dict[str, str]], **extra: t.Any) -> requests.Response:
    url, headers = admin
    question = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello?"}],
        "max_tokens": 8,
        "stream": False,
        **extra,
    }
    return requests.post(
        f"{url}/api/chat/completions", json=question, headers=headers, timeout=PATIENCE
    )


# Llama 3 calls no tools, so the engine has no parser, and would answer 400 to what means "auto".
@pytest.mark.parametrize(
    "extra",
    [{}, {"tools": [TOOL]}, {"tools": [TOOL], "params": {"function_calling": "native"}}],
    ids=["plain", "with tools", "with tools, as somebody's settings may say"],
)
def test_it_answers(admin: tuple[str, dict[str, str]], extra: dict[str, t.Any]) -> None:
    answer = ask(admin, **extra)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_who_insists_on_tools_hears_why_not(admin: tuple[str, dict[str, str]]) -> None:
    answer = ask(admin, tools=[TOOL], tool_choice="auto")
    assert answer.status_code == 400
    assert "--tool-call-parser" in answer.text


def test_the_engine_runs_without_a_parser(rig: Rig) -> None:
    command = rig.root("docker inspect sparerig-vllm --format '{{json .Args}}'")
    assert "--tool-call-parser" not in command
    assert "--enable-auto-tool-choice" not in command


def test_strangers_cannot_sign_up(admin: tuple[str, dict[str, str]]) -> None:
    url, _headers = admin
    stranger = {"name": "S", "email": "s@example.org", "password": "a long enough one"}
    assert (
        requests.post(f"{url}/api/v1/auths/signup", json=stranger, timeout=PATIENCE).status_code
        == 403
    )
    assert requests.get(f"{url}/api/models", timeout=PATIENCE).status_code in {401, 403}
