# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor, run as systemd runs it: a file, a socket for notices, and a stand-in for docker."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._checks import failures
from ansible_collections.sparerig.llm.plugins.module_utils._service import supervisor
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import log as vllm_log

if t.TYPE_CHECKING:
    from collections.abc import Iterator

STAND_INS = Path(__file__).parent / "supervisor"
# Entering a network wants root, or to be root in a user namespace of one's own.
AS_ROOT = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
PATIENCE = 60  # seconds after which a test gives up
KEY = "sesame=1"
PROBE = {"port": 8000, "interval": 0.1, "deadline": 10, "start_deadline": PATIENCE}
MODEL = {"kind": "openai", "completion_model": "tiny", "bearer_variable": "KEY"}


class Unit:
    """A supervisor, and all that is around it on a host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_file = root / "engine.json"
        self.secrets_file = root / "secrets.env"
        self.fingerprint_file = root / "engine.fingerprint"
        self.journal_file = root / "journal"
        self.notices: list[str] = []
        self.inbox: queue.Queue[str] = queue.Queue()
        self.process: subprocess.Popen[bytes] | None = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{root}")  # as systemd does it in a container
        threading.Thread(target=self.take_notice, daemon=True).start()
        for name in ("docker", "service.py"):
            shutil.copy(STAND_INS / name, root)
        shutil.copy(supervisor.__file__, root / "supervisor.py")
        shutil.copy(failures.__file__, root / "failures.py")
        shutil.copy(vllm_log.__file__, root / "vllm_log.py")
        self.secrets_file.write_text(f"# secrets\nOTHER=1\nKEY={KEY}\n")
        self.mood("fine")

    def take_notice(self) -> None:
        """Read what it tells systemd; a sender waits when nobody does."""
        while notice := self.socket.recv(4096).decode():
            self.inbox.put(notice)

    def mood(self, word: str) -> None:
        """Tell the stand-in how to behave from now on."""
        (self.root / "mood.new").write_text(word)
        (self.root / "mood.new").rename(self.root / "mood")

    def configure(self, explain: str | None = None, **probe: t.Any) -> None:
        """Write what the module would write."""
        config = {
            "name": "engine",
            "create": [["docker", "create", "--name", "engine"], ["docker", "network", "connect"]],
            "run": ["docker", "start", "--attach", "engine"],
            "probe": PROBE | probe,
            "stop_timeout": 5,
            "secrets_file": str(self.secrets_file),
            "files": [str(self.root / "supervisor.py"), str(self.secrets_file)],
            "fingerprint_file": str(self.fingerprint_file),
            "explain": explain,
        }
        self.config_file.write_text(json.dumps(config))

    def start(self, *, last_words: float = 0.1, heartbeat: float = 0.2) -> None:
        """Start it, with less patience than it has on a host."""
        program = (
            f"import supervisor; supervisor.LAST_WORDS = {last_words};"
            f"supervisor.HEARTBEAT = {heartbeat};"
            f"raise SystemExit(supervisor.main({str(self.config_file)!r}))"
        )
        self.start_as("-c", program)

    def start_as(self, *arguments: str) -> None:
        """Start Python as systemd would."""
        with self.journal_file.open("wb") as journal:
            self.process = subprocess.Popen(
                [*AS_ROOT, sys.executable, *arguments],
                cwd=self.root,
                env=os.environ
                | {
                    "PATH": f"{self.root}:{os.environ['PATH']}",
                    "PYTHON": sys.executable,
                    "STAND_IN": str(self.root),
                    "NOTIFY_SOCKET": f"@{self.root}",
                },
                stdout=journal,
                stderr=journal,
            )

    def wait_for(self, beginning: str, part: str = "") -> str:
        """Return the first notice, from now on, that begins so and has this part."""
        deadline = time.monotonic() + PATIENCE
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self.notices.append(self.inbox.get(timeout=left))
                if self.notices[-1].startswith(beginning) and part in self.notices[-1]:
                    return self.notices[-1]
        pytest.fail(f"no notice {beginning!r}: {self.notices}\n{self.journal}")

    def end(self) -> int:
        """Return the exit status, once it has ended."""
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        """End it as systemd does."""
        assert self.process is not None
        self.process.terminate()
        return self.end()

    def container_pid(self) -> int:
        """The process in the "container"."""
        return int((self.root / "pid").read_text())

    @property
    def journal(self) -> str:
        """What it wrote."""
        return self.journal_file.read_text(errors="replace")

    @property
    def last_words(self) -> str:
        """What it said last in its own voice."""
        own = [line for line in self.journal.splitlines() if line.startswith("sparerig: ")]
        return own[-1].removeprefix("sparerig: ")

    @property
    def asked(self) -> list[str]:
        """What Docker was asked, but for the inspections."""
        lines = (self.root / "asked").read_text().splitlines()
        return [line for line in lines if not line.startswith("inspect")]


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    if subprocess.run([*AS_ROOT, "unshare", "--net", "true"], check=False).returncode:
        pytest.skip("making a network takes root, or the right to make user namespaces")
    unit = Unit(tmp_path)
    yield unit
    if unit.process and unit.process.poll() is None:
        unit.process.kill()
        unit.process.wait()
        if (tmp_path / "pid").exists():
            os.kill(unit.container_pid(), signal.SIGKILL)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
        last.sendto(b"", f"\0{tmp_path}")


# From the start to the end


def test_a_page_lives_and_stops(unit: Unit) -> None:
    unit.configure()
    unit.start_as("supervisor.py", str(unit.config_file))
    unit.wait_for("READY=1")
    assert unit.wait_for("STATUS=ready: it answered ")
    assert unit.stop() == 0
    assert unit.last_words == "stopping"
    assert "engine: loading caf" in unit.journal
    assert unit.asked == [
        "rm --force engine",
        "create --name engine",
        "network connect",
        "start --attach engine",
        "stop --time 5 engine",
    ]
    contents = [Path(supervisor.__file__).read_bytes(), unit.secrets_file.read_bytes()]
    assert unit.fingerprint_file.read_text() == supervisor.fingerprint(contents)
    assert not (unit.root / "questions").exists()


def test_a_model_is_ready_when_a_token_has_come(unit: Unit) -> None:
    unit.configure(**MODEL)
    unit.start()
    unit.wait_for("READY=1")
    questions = (unit.root / "questions").read_text().splitlines()
    assert questions[0] == '/v1/completions {"model": "tiny", "prompt": "1", "max_tokens": 1}'
    assert KEY not in unit.journal


def test_signs_of_life(unit: Unit) -> None:
    unit.configure()
    unit.start()
    unit.wait_for("READY=1")
    unit.wait_for("WATCHDOG=1")
    unit.wait_for("WATCHDOG=1")


def test_a_slow_start_becomes_ready(unit: Unit) -> None:
    unit.mood("loading")
    unit.configure()
    unit.start()
    unit.wait_for("STATUS=starting for ", "/health answered 503")
    assert "READY=1" not in unit.notices
    unit.mood("fine")
    unit.wait_for("READY=1")


@pytest.mark.parametrize(
    ("mood", "secrets", "problem"),
    [
        # In one line: what a service answers must not become a notice of its own.
        ("loading", f"KEY={KEY}", "/health answered 503: still READY=1 loading"),
        ("mute", f"KEY={KEY}", "/health gave no answer within 1 s"),
        ("not http", f"KEY={KEY}", "/health: SSH-2.0-OpenSSH"),
        ("hanging", f"KEY={KEY}", "/v1/completions gave no answer within 1 s"),
        ("fine", "KEY=wrong", "/v1/completions answered 401: who are you?"),
        ("fine", "OTHER=1", "has no line KEY=..."),
    ],
)
def test_what_a_start_waits_for(unit: Unit, mood: str, secrets: str, problem: str) -> None:
    unit.mood(mood)
    unit.secrets_file.write_text(f"{secrets}\n")
    unit.configure(**MODEL, deadline=1)
    unit.start()
    unit.wait_for("STATUS=starting for ", problem)


def test_a_server_that_publishes_no_metrics_is_asked_for_a_token_too(unit: Unit) -> None:
    unit.mood("no vllm")
    unit.configure(**MODEL, deadline=1)
    unit.start()
    unit.wait_for("READY=1")
    assert "/v1/completions" in (unit.root / "questions").read_text()
    unit.mood("hanging")
    assert unit.end() == 1


def test_a_page_is_asked_for_no_token(unit: Unit) -> None:
    unit.configure(completion_model=None)
    unit.start()
    unit.wait_for("READY=1")
    assert not (unit.root / "questions").exists()


def test_a_start_that_takes_too_long(unit: Unit) -> None:
    unit.mood("loading")
    unit.configure(start_deadline=1)
    unit.start()
    assert unit.end() == 1
    assert unit.last_words.startswith(
        "The service did not answer in time after its start (service-not-ready): It was not ready"
        " within 1 s: "
    )
    assert "READY=1" not in unit.notices
    assert unit.asked[-1] == "rm --force engine"


# What can happen to it


def test_a_hang_ends_it(unit: Unit) -> None:
    unit.configure(**MODEL, deadline=2)
    unit.start()
    unit.wait_for("READY=1")
    unit.mood("hanging")
    assert unit.end() == 1
    assert unit.last_words.startswith(
        "The service takes requests and does not answer them (engine-hung): It hangs:"
        " /v1/completions gave no answer within 2 s; it is being restarted. "
    )
    assert unit.asked[-1] == "rm --force engine"


def test_a_full_house_is_no_hang(unit: Unit) -> None:
    unit.configure(**MODEL, deadline=2)
    unit.start()
    unit.wait_for("READY=1")
    unit.mood("full")
    asked = len((unit.root / "questions").read_text().splitlines())
    deadline = time.monotonic() + PATIENCE
    while len((unit.root / "questions").read_text().splitlines()) < asked + 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    unit.mood("fine")
    assert unit.stop() == 0
    assert "engine-hung" not in unit.journal


def test_a_crash_is_told_as_one_though_the_probe_fails_first(unit: Unit) -> None:
    unit.configure()
    unit.start(last_words=PATIENCE)
    unit.wait_for("READY=1")
    unit.mood("dying")
    assert unit.end() == 1
    assert unit.last_words.startswith(
        "The service ended by itself (service-ended): the container ended with exit status 2; its"
        " last line was: RuntimeError: Engine core initialization failed. "
    )


def test_killed(unit: Unit) -> None:
    unit.configure()
    unit.start(last_words=PATIENCE)
    unit.wait_for("READY=1")
    os.kill(unit.container_pid(), signal.SIGKILL)
    assert unit.end() == 1
    assert unit.last_words.startswith(
        "The service ended by itself (service-ended): the container ended with exit status 137 "
        "(killed, by somebody or by the kernel for want of memory); "
    )


@pytest.mark.parametrize(
    ("explain", "last_words", "failure", "verdict"),
    [
        (None, "", "service-ended", "it wrote nothing"),
        (None, "first\nsecond\n\n", "service-ended", "its last line was: second"),
        ("vllm", "nobody knows this\n", "service-ended", "its last line was: nobody knows this"),
        (
            "vllm",
            "RuntimeError: Failed to infer device type, please set ...\n",
            "container-without-gpu",
            "was started without the GPU",
        ),
    ],
)
def test_an_end_is_explained(
    unit: Unit, explain: str | None, last_words: str, failure: str, verdict: str
) -> None:
    (unit.root / "last-words").write_text(last_words)
    unit.configure(explain)
    unit.start()
    assert unit.end() == 1
    assert f" ({failure}): " in unit.last_words
    assert "he container ended with exit status 1" in unit.last_words
    assert verdict in unit.last_words
    assert " Remedy: `" in unit.last_words
    unit.wait_for("STATUS=", f" ({failure}): ")


def test_a_container_that_cannot_be_made(unit: Unit) -> None:
    (unit.root / "create-fails").touch()
    unit.configure()
    unit.start()
    assert unit.end() == 1
    assert unit.last_words.startswith(
        "The container cannot be made (container-not-made): Docker says: No such image: engine:1. "
    )
    assert "`cat /etc/sparerig/engine.json`" in unit.last_words
    assert unit.asked == ["rm --force engine", "create --name engine", "rm --force engine"]


def test_stopped_before_it_was_started(unit: Unit) -> None:
    (unit.root / "create-waits").touch()
    unit.configure()
    unit.start()
    deadline = time.monotonic() + PATIENCE
    while not (unit.root / "asked").exists() or "create --name engine" not in unit.asked:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert unit.stop() == 0
    assert "start --attach engine" not in unit.asked
    assert unit.asked[-1] == "rm --force engine"


def test_cleaning_up_after_a_killed_supervisor(unit: Unit) -> None:
    unit.configure()
    unit.start()
    unit.wait_for("READY=1")
    assert unit.process is not None
    unit.process.kill()
    unit.process.wait()
    unit.start_as("supervisor.py", str(unit.config_file), "clean")
    assert unit.end() == 0
    assert unit.asked[-1] == "rm --force engine"


# The parts


def test_there_is_nobody_to_tell_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    supervisor.notify("READY=1")


def test_a_socket_in_the_file_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        supervisor.notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_it_needs_nothing_but_python(tmp_path: Path) -> None:
    shutil.copy(supervisor.__file__, tmp_path / "supervisor.py")
    program = "import sys, supervisor; print([name for name in sys.modules if 'ansible' in name])"
    said = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "the container ended with exit status 0"),
        (1, "the container ended with exit status 1"),
        (-9, "the docker client was killed by signal 9"),
    ],
)
def test_exits_in_words(status: int, words: str) -> None:
    assert supervisor.describe_exit(status) == words


def test_fingerprints_tell_files_apart() -> None:
    assert supervisor.fingerprint([b"a", b"b"]) == supervisor.fingerprint([b"a", b"b"])
    assert supervisor.fingerprint([b"a", b"b"]) != supervisor.fingerprint([b"b", b"a"])
    assert supervisor.fingerprint([b"ab", b""]) != supervisor.fingerprint([b"a", b"b"])


def test_a_network_that_is_not_there() -> None:
    with pytest.raises(OSError, match="No such file"):
        supervisor.enter_network_of(2**22 + 1)
