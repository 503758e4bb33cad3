# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_daemon_config through main(), with stand-ins for dockerd and systemctl on PATH."""

from __future__ import annotations

import json
import os
import time
import typing as t

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.modules import docker_daemon_config

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Run = t.Callable[..., dict[str, t.Any]]


class Host:
    """A daemon.json and the two programs that are asked about it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "etc" / "docker" / "daemon.json"

    def has(self, text: str) -> None:
        """Put a text into the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text)

    def program(self, name: str, script: str) -> None:
        """Put a program on PATH."""
        file = self.root / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def engine_started(self, seconds_ago: int | None) -> None:
        """Have the engine run since then, as systemd 249 and 252 tell it, or not at all."""
        started = "n/a"
        if seconds_ago is not None:
            moment = time.gmtime(time.time() - seconds_ago)
            started = time.strftime("Sun %Y-%m-%d %H:%M:%S UTC", moment)
        self.program(
            "systemctl",
            '[ "$2" = --timestamp=utc ] || { echo "Invalid value: ${2#*=}." >&2; exit 1; }\n'
            f'echo "{started}"',
        )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    host.program("dockerd", "exit 0")
    host.engine_started(3600)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return host


@pytest.fixture
def run(run_module: Callable[..., dict[str, t.Any]], host: Host) -> Run:
    def call(config: dict[str, t.Any], **more: t.Any) -> dict[str, t.Any]:
        return run_module(docker_daemon_config, config=config, path=str(host.file), **more)

    return call


@pytest.mark.parametrize(
    ("present", "wanted", "after"),
    [
        (None, {"a": 1}, {"a": 1}),
        ("", {"a": 1}, {"a": 1}),
        ('{"b": 2}', {"a": 1}, {"a": 1, "b": 2}),
        ('{"a": 2}', {"a": 1}, {"a": 1}),
        ('{"a": ["x"]}', {"a": ["y", "x"]}, {"a": ["x", "y"]}),
        ('{"a": {"b": {"c": 1}}}', {"a": {"b": {"d": 2}}}, {"a": {"b": {"c": 1, "d": 2}}}),
        ('{"a": {"b": 1}}', {"a": ["b"]}, {"a": ["b"]}),
    ],
)
def test_merged(
    run: Run, host: Host, present: str | None, wanted: dict[str, t.Any], after: dict[str, t.Any]
) -> None:
    if present is not None:
        host.has(present)
    foretold = run(wanted, check=True)
    assert foretold["changed"]
    assert foretold["config"] == after
    assert host.file.exists() == (present is not None)
    done = run(wanted)
    assert done["changed"]
    assert done["restart_needed"]
    assert done["diff"] == foretold["diff"]
    assert json.loads(host.file.read_text()) == after
    assert [path.name for path in host.file.parent.iterdir()] == ["daemon.json"]
    assert not run(wanted)["changed"]


def test_the_diff(run: Run, host: Host) -> None:
    host.has('{"b": 2}')
    assert run({"a": 1})["diff"] == {
        "before_header": str(host.file),
        "after_header": str(host.file),
        "before": '{"b": 2}',
        "after": '{\n  "b": 2,\n  "a": 1\n}\n',
    }


@pytest.mark.parametrize(
    ("started", "restart_needed"),
    [
        (3600, True),  # an hour ago: the file has been changed since
        (-3600, False),
        (None, False),  # it does not run, and will read the file when it starts
    ],
)
def test_an_engine_that_has_not_read_the_file(
    run: Run, host: Host, started: int | None, *, restart_needed: bool
) -> None:
    host.has('{"a": 1}')
    host.engine_started(started)
    answer = run({"a": 1})
    assert not answer["changed"]
    assert answer["restart_needed"] is restart_needed


@pytest.mark.parametrize(
    ("present", "words"),
    [("{a: 1}", "is not valid JSON (Expecting"), ("[1]", "holds a list, not an object")],
)
def test_a_broken_file(run: Run, host: Host, present: str, words: str) -> None:
    host.has(present)
    answer = run({"a": 1})
    assert answer["failed"]
    assert words in answer["msg"]
    assert host.file.read_text() == present


def test_what_docker_refuses(run: Run, host: Host) -> None:
    host.has('{"b": 2}')
    host.program("dockerd", 'cat "$3" >&2; exit 1')
    answer = run({"no-such-key": 1})
    assert answer["failed"]
    assert "Docker refuses the configuration: {" in answer["msg"]
    assert '"no-such-key": 1' in answer["msg"]
    assert [path.read_text() for path in host.file.parent.iterdir()] == ['{"b": 2}']


def test_an_engine_that_cannot_be_asked(run: Run, host: Host) -> None:
    host.program("dockerd", "echo 'unknown flag: --validate' >&2; exit 125")
    assert run({"a": 1})["changed"]
    assert host.file.exists()


def test_a_host_without_docker(run: Run, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_unused: None)
    host.engine_started(None)
    answer = run({"a": 1})
    assert answer["changed"]
    assert host.file.exists()
