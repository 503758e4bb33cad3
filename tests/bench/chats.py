# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
r"""What the chat page costs: the same chats streamed at once through Open WebUI and past it.

    python3 tests/bench/chats.py --page http://127.0.0.1:8080 --engine http://127.0.0.1:8000/v1 \
        --chats 50 --model tiny-llama-gptq

The account and the key come from the environment, named as in the secrets files of the roles:
WEBUI_ADMIN_EMAIL, WEBUI_ADMIN_PASSWORD, and VLLM_API_KEY if there is one. `make bench` runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
import typing as t
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Chat:
    """When the words of one answer came, in seconds after the question."""

    arrivals: list[float]
    error: str = ""


@dataclass(frozen=True)
class Target:
    """Where to send a chat."""

    url: str
    token: str


def stream(target: Target, question: dict[str, t.Any]) -> Chat:
    """Ask one question and note when each piece of the answer comes."""
    parts = urlsplit(target.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=300)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {target.token}"}
    arrivals: list[float] = []
    started = time.monotonic()
    try:
        connection.request("POST", parts.path, json.dumps(question), headers)
        response = connection.getresponse()
        if response.status != 200:
            return Chat([], f"{response.status}: {response.read(300)!r}")
        words = (line for line in response if b'"content"' in line)
        arrivals.extend(time.monotonic() - started for _unused in words)
    except OSError as error:
        return Chat(arrivals, str(error))
    finally:
        connection.close()
    return Chat(arrivals, "" if arrivals else "an empty answer")


def all_at_once(target: Target, question: dict[str, t.Any], count: int) -> list[Chat]:
    """Ask the same question many times at the same moment."""
    chats: list[Chat] = []
    gate = threading.Barrier(count)

    def one() -> None:
        gate.wait()
        chats.append(stream(target, question))

    threads = [threading.Thread(target=one) for _unused in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return chats


def report(name: str, chats: list[Chat]) -> None:
    """Print one line: how many came through, and the times that people feel."""
    whole = [chat for chat in chats if not chat.error]
    lost = [chat.error for chat in chats if chat.error]
    if whole:
        first = [chat.arrivals[0] for chat in whole]
        last = [chat.arrivals[-1] for chat in whole]
        words = sum(len(chat.arrivals) for chat in whole)
        print(
            f"{name:8} {len(whole):3}/{len(chats)} chats   first word {_spread(first)}   "
            f"last word {_spread(last)}   {words / max(last):6.0f} words/s"
        )
    for error in sorted(set(lost)):
        print(f"{name:8} {lost.count(error)} lost: {error}")


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"median {statistics.median(ordered):5.2f} s, worst {ordered[-1]:5.2f} s"


def sign_in(page: str, email: str, password: str) -> str:
    """Return a session's token."""
    parts = urlsplit(page)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    body = json.dumps({"email": email, "password": password})
    connection.request("POST", "/api/v1/auths/signin", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    return str(answer["token"])


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", required=True, help="address of Open WebUI")
    parser.add_argument("--engine", required=True, help="address of the engine, with the /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--chats", type=int, default=50)
    parser.add_argument("--question", default="Count some sheep, please.")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    question = {
        "model": options.model,
        "messages": [{"role": "user", "content": options.question}],
        "stream": True,
        "max_tokens": options.max_tokens,
    }
    engine = Target(f"{options.engine}/chat/completions", os.environ.get("VLLM_API_KEY", "none"))
    token = sign_in(
        options.page, os.environ["WEBUI_ADMIN_EMAIL"], os.environ["WEBUI_ADMIN_PASSWORD"]
    )
    page = Target(f"{options.page}/api/chat/completions", token)
    for name, target in (("engine", engine), ("page", page)):
        all_at_once(target, question, 2)  # warm up
        report(name, all_at_once(target, question, options.chats))


if __name__ == "__main__":
    main()
