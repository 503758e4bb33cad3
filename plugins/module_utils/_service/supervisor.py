# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main process of a unit made by the ``container_service`` module: it runs one container.

PRIVATE to this collection. The module copies this file to the host, where systemd starts it as
``python3 supervisor.py CONFIG.json``. It imports the standard library, and two things beside itself
only when it has a failure to report: failures.py, the registry, and NAME_log.py, the reader of a
service's log. These are replaced before it, and a change of them restarts no unit. It has its own
few lines to read an env file and to ask by HTTP, and not files.py and http.py beside it: what it
runs on is one file, replaced in one step, so that a run that is cut off leaves no two parts that do
not fit; and a unit restarts when this file changes, which must not happen for what only modules
need.

systemd alone can start and restart a process. It cannot tell a container that runs from a service
that answers. The supervisor can: it reports READY only when the probe succeeds, keeps asking, and
ends the container when the answers stop, so that ``Restart=`` covers a hang as well as a crash.
"""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import hashlib
import http.client
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

CLONE_NEWNET = 0x40000000
LINES_KEPT = 400
KILLED = 128 + signal.SIGKILL
HEARTBEAT = 10  # seconds between two signs of life to systemd's own watchdog
LAST_WORDS = 5  # seconds that a service that fails its probe gets to end, and say why, by itself


class ProbeError(Exception):
    """The service did not answer as a working one would; the text says how."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """How to ask the container whether it works. Times in seconds."""

    port: int
    kind: str = "http"  # or openai: a token has to come out of completion_model as well
    path: str = "/health"
    completion_model: str | None = None
    bearer_variable: str | None = None
    interval: float = 60
    deadline: float = 120
    start_deadline: float = 600


@dataclasses.dataclass(frozen=True)
class Config:
    """What the unit runs: the content of its JSON file."""

    name: str
    create: list[list[str]]
    run: list[str]
    probe: Probe
    stop_timeout: int
    secrets_file: str
    files: list[str]
    fingerprint_file: str
    explain: str | None = None

    @classmethod
    def load(cls, path: str) -> Config:
        """Read the file that ``container_service`` wrote."""
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        data["probe"] = Probe(**data["probe"])
        return cls(**data)


def fingerprint(contents: t.Iterable[bytes]) -> str:
    """Tell whether what runs was started from files as they are now, in this order."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def notify(message: str) -> None:
    """Tell systemd; outside systemd there is nobody to tell."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(message.encode(), address)


def show_status(message: str) -> None:
    """Set the Status line of ``systemctl status``; what follows a line break would be a message."""
    notify("STATUS=" + " ".join(message.split()))


def say(message: str) -> None:
    """Write to the journal, and to the Status line."""
    sys.stdout.write(f"sparerig: {message}\n")
    sys.stdout.flush()
    show_status(message)


def read_variable(path: str, name: str) -> str:
    """Return one value of an env file."""
    for line in Path(path).read_text(encoding="utf-8").split("\n"):
        key, _equals, value = line.partition("=")
        if key == name:
            return value
    message = f"{path} has no line {name}=..."
    raise ProbeError(message)


def enter_network_of(pid: int) -> None:
    """Move the calling thread into a process's network namespace (os.setns came with 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network of process {pid}")


def describe_exit(status: int) -> str:
    """Say what became of the container, by the status of the docker client attached to it."""
    if status < 0:
        return f"the docker client was killed by signal {-status}"
    killed = (
        " (killed, by somebody or by the kernel for want of memory)" if status == KILLED else ""
    )
    return f"the container ended with exit status {status}{killed}"


class Asker:
    """Asks the container from inside its own network, so that no port needs publishing."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.probe = config.probe

    def container_pid(self) -> int:
        """Return the container's main process, or raise when it has none."""
        command = ["docker", "inspect", "--format", "{{.State.Pid}}", self.config.name]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=self.probe.deadline
        )
        pid = int(answer.stdout.strip() or 0) if answer.returncode == 0 else 0
        if pid == 0:
            message = "the container is not running yet"
            raise ProbeError(message)
        return pid

    def request(self, method: str, path: str, body: dict[str, t.Any] | None = None) -> str:
        """Send one request; return the body of a 200 answer."""
        headers = {"Content-Type": "application/json"}
        if self.probe.bearer_variable:
            key = read_variable(self.config.secrets_file, self.probe.bearer_variable)
            headers["Authorization"] = f"Bearer {key}"
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.probe.port, timeout=self.probe.deadline
        )
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read(1_000_000).decode(errors="replace")
        except TimeoutError:
            message = f"{path} gave no answer within {self.probe.deadline:g} s"
            raise ProbeError(message) from None
        except (OSError, http.client.HTTPException) as error:
            message = f"{path}: {error}"
            raise ProbeError(message) from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            message = f"{path} answered {answer.status}: {' '.join(text.split())[:200]}"
            raise ProbeError(message)
        return text

    def generated_tokens(self) -> float | None:
        """Return how many tokens vLLM has made since it started; None when nobody tells."""
        try:
            metrics = self.request("GET", "/metrics")
        except ProbeError:
            return None
        values = re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", metrics, re.MULTILINE)
        return sum(float(value) for value in values)

    def ask(self) -> None:
        """Raise ProbeError unless the service is up and, for a model, a token comes out."""
        enter_network_of(self.container_pid())
        self.request("GET", self.probe.path)
        if self.probe.kind != "openai":
            return
        before = self.generated_tokens()
        question = {"model": self.probe.completion_model, "prompt": "1", "max_tokens": 1}
        try:
            self.request("POST", "/v1/completions", question)
        except ProbeError:
            # A full house is not a hang: while others get their tokens, ours may wait its turn.
            after = self.generated_tokens()
            if before is None or after is None or after <= before:
                raise

    def answers(self) -> str | None:
        """Ask once; return None when all is well, else what is wrong."""
        problem: list[str] = []

        def attempt() -> None:
            try:
                self.ask()
            except (ProbeError, OSError, ValueError, subprocess.SubprocessError) as error:
                problem.append(str(error))

        # In a thread of its own, as entering a network namespace cannot be undone.
        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(3 * self.probe.deadline)
        if thread.is_alive():
            return f"no answer within {3 * self.probe.deadline:g} s"
        return problem[0] if problem else None


class Supervisor:
    """Runs the container for as long as it works, and says why when it stops working."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.lines: collections.deque[str] = collections.deque(maxlen=LINES_KEPT)
        self.over = threading.Event()
        self.asked_to_stop = False
        self.verdict: str | None = None

    def remove_container(self) -> None:
        """Leave no container behind, whatever happened to the client that started it."""
        command = ["docker", "rm", "--force", self.config.name]
        subprocess.run(command, capture_output=True, check=False, timeout=60)

    def stop_container(self) -> None:
        """Let the service finish, within the time it is given."""
        patience = self.config.stop_timeout
        command = ["docker", "stop", "--time", str(patience), self.config.name]
        subprocess.run(command, capture_output=True, check=False, timeout=patience + 8)

    def copy_output(self, stream: t.IO[str]) -> None:
        """Pass the container's output on to the journal, and remember the end of it."""
        for line in stream:
            self.lines.append(line)
            sys.stdout.write(line)
            sys.stdout.flush()
        self.over.set()

    def describe(self, failure: str, words: dict[str, str], circumstances: str = "") -> str:
        """Say a failure in the words of the registry, which stands beside this file on the host."""
        registry = importlib.import_module("failures")
        known = registry.describe(failure, {"unit": self.config.name, **words})
        return str(known.message(circumstances))

    def explain(self, ending: str) -> str:
        """Say why the container ended, from the last lines it wrote."""
        if self.config.explain:
            # Stands beside this file on the host: the failures that this service is known for.
            log = importlib.import_module(f"{self.config.explain}_log")
            found = log.explain("".join(self.lines))
            if found:
                return self.describe(found.id, found.words, f"{ending[0].upper()}{ending[1:]}.")
        written = [line.strip() for line in self.lines if line.strip()]
        said = f"its last line was: {written[-1].rstrip('.')}" if written else "it wrote nothing"
        return self.describe("service-ended", {"ending": ending, "said": said})

    def watch(self) -> None:
        """Ask until it answers, report READY, then keep asking; a verdict ends the container."""
        probe, asker = self.config.probe, Asker(self.config)
        started, ready = time.monotonic(), False
        while not self.over.is_set():
            problem = asker.answers()
            waited = time.monotonic() - started
            if self.over.is_set():
                return
            if problem is None and not ready:
                ready = True
                notify("READY=1")
                say(f"ready: it answered {waited:.0f} s after the start")
            elif problem and ready:
                # One that is crashing fails its probe too, and its end tells more.
                if self.over.wait(LAST_WORDS):
                    return
                self.verdict = self.describe("engine-hung", {"problem": problem})
            elif problem and waited > probe.start_deadline:
                late = {"seconds": f"{probe.start_deadline:g}", "problem": problem}
                self.verdict = self.describe("service-not-ready", late)
            elif problem:
                show_status(f"starting for {waited:.0f} s: {problem}")
            if self.verdict:
                self.over.set()
            self.over.wait(probe.interval if ready else min(1, probe.interval))

    def stop(self, *_unused: object) -> None:
        """End in order: what systemd's SIGTERM asks for."""
        self.asked_to_stop = True
        self.over.set()

    def make_container(self) -> bool:
        """Make the container anew, or say why it cannot be made."""
        self.remove_container()
        for command in self.config.create:
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                say(self.describe("container-not-made", {"said": made.stderr.strip().rstrip(".")}))
                return False
        return True

    def run(self) -> int:
        """Run the container until it ends, is stopped or hangs; return the exit status."""
        config = self.config
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        contents = (Path(path).read_bytes() for path in config.files)
        Path(config.fingerprint_file).write_text(fingerprint(contents), encoding="utf-8")
        made = self.make_container()
        if not made or self.over.is_set():
            self.remove_container()
            return 0 if made else 1
        with subprocess.Popen(
            config.run,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Signals are for the supervisor alone: it stops the container in order.
            start_new_session=True,
        ) as client:
            copier = threading.Thread(target=self.copy_output, args=(client.stdout,), daemon=True)
            copier.start()
            threading.Thread(target=self.watch, daemon=True).start()
            while not self.over.wait(HEARTBEAT):
                notify("WATCHDOG=1")
            if self.asked_to_stop:
                say("stopping")
                self.stop_container()
                return 0
            if self.verdict is None:
                copier.join()
                self.verdict = self.explain(describe_exit(client.wait()))
            say(self.verdict)
            self.remove_container()
            return 1


def main(config_file: str, verb: str = "run") -> int:
    """Run the container, or ("clean") remove what a killed supervisor left."""
    supervisor = Supervisor(Config.load(config_file))
    if verb == "clean":
        supervisor.remove_container()
        return 0
    return supervisor.run()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
