# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_preflight through main(): every reason not to begin, and all of them at once."""

from __future__ import annotations

import errno
import json
import os
import socket
import typing as t

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._host import requirements
from ansible_collections.sparerig.llm.plugins.modules import host_preflight

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Run = t.Callable[..., dict[str, t.Any]]
JAMMY = 'ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n'
STATUS = t.Literal["pass", "fail"]


class Host:
    """What the module looks at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        self.etc.mkdir()
        self.docker = "package"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_unused: "/usr/bin/systemctl")
    monkeypatch.setattr(AnsibleModule, "run_command", lambda *_unused: (0, "", ""))
    monkeypatch.setattr(host_preflight, "CONFIG_DIR", str(host.etc))
    monkeypatch.setattr(host_preflight, "docker_kind", lambda: host.docker)
    monkeypatch.setattr(
        host_preflight, "check_system", lambda *_unused: requirements.check_system(JAMMY, "x86_64")
    )
    return host


@pytest.fixture
def run(run_module: Callable[..., dict[str, t.Any]], host: Host) -> Run:
    assert host

    def call(**options: t.Any) -> dict[str, t.Any]:
        return run_module(host_preflight, **options)

    return call


def check(answer: dict[str, t.Any], name: str) -> dict[str, str]:
    """Return one check, by its name."""
    (found,) = [entry for entry in answer["checks"] if entry["name"] == name]
    assert isinstance(found, dict)
    return found


def test_a_host_that_will_do(run: Run, host: Host) -> None:
    answer = run(
        disk=[{"path": f"{host.root}/not/there/yet", "min_free_gib": 0}],
        secrets={"vllm_api_key": "", "open_webui_admin_password": "sesame", "other": None},
    )
    assert not answer["changed"]
    assert answer["docker"] == "package"
    assert [entry["status"] for entry in answer["checks"]] == ["pass"] * 6
    assert check(answer, "secret vllm_api_key")["seen"] == "left to the host"
    assert check(answer, "secret open_webui_admin_password")["seen"] == "one line"


def test_all_that_is_wrong_is_told_at_once(run: Run, host: Host) -> None:
    host.docker = "snap"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = run(
            disk=[{"path": str(host.root), "min_free_gib": 10**9}],
            unit="engine",
            published_ports=[f"127.0.0.1:{port}:80", "80:80"],
            secrets={"vllm_api_key": "se\nsame"},
        )
    assert answer["failed"]
    assert answer["msg"].startswith(
        "Nothing was changed. Docker comes from a snap (docker-from-snap): "
    )
    for words in (
        "sudo snap remove docker",
        f"{host.root} needs 1e+09 GiB",
        "du -xh",
        f"127.0.0.1 port {port} is in use by another program",
        "published_ports has '80:80'",
        "vllm_api_key has a line break in its value",
    ):
        assert words in answer["msg"]
    assert "same" not in answer["msg"].split("vllm_api_key")[1]
    assert [entry["status"] for entry in answer["checks"]] == ["pass", *["fail"] * 5]


def test_a_port_that_is_ours(run: Run, host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        config = {"create": [["docker", f"--publish=127.0.0.1:{port}:80"]]}
        (host.etc / "engine.json").write_text(json.dumps(config))
        ports = [f"127.0.0.1:{port}:80"]
        answer = run(unit="engine", published_ports=ports)
        assert check(answer, f"port {port}")["seen"] == "ours already"
        assert run(unit="other", published_ports=ports)["failed"]


def test_a_settings_file_that_is_cut_off(host: Host) -> None:
    (host.etc / "engine.json").write_text('{"create": [[')
    assert requirements.published_by_unit(f"{host.etc}/engine.json") == set()


def test_a_port_that_is_free(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert check(run(published_ports=[f"127.0.0.1:{port}:80"]), f"port {port}")["seen"] == "free"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EADDRINUSE, "is in use by another program"),
        (errno.EADDRNOTAVAIL, "cannot be had, as this host has no such address"),
        (errno.EACCES, "cannot be had: Permission denied"),
    ],
)
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_why_a_port_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str, address: str
) -> None:
    def refuse(_socket: socket.socket, _address: object) -> t.NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert requirements.bind_problem(address, 80) == words


@pytest.mark.parametrize(
    ("os_release", "machine", "status", "seen"),
    [
        (JAMMY, "x86_64", "pass", "Ubuntu 22.04.5 LTS on x86_64"),
        ("ID=ubuntu\nVERSION_ID=24.04\n", "x86_64", "pass", "ubuntu 24.04 on x86_64"),
        ("ID=debian\nVERSION_ID='12'\n\n# end", "x86_64", "pass", "debian 12 on x86_64"),
        (JAMMY, "aarch64", "fail", "Ubuntu 22.04.5 LTS on aarch64"),
        ("ID=ubuntu\nVERSION_ID=20.04\n", "x86_64", "fail", "ubuntu 20.04 on x86_64"),
        ("ID=arch\n", "x86_64", "fail", "arch on x86_64"),
        ("", "x86_64", "fail", "unknown on x86_64"),
    ],
)
def test_systems(os_release: str, machine: str, status: STATUS, seen: str) -> None:
    found = requirements.check_system(os_release, machine)
    assert (found.status, found.seen) == (status, seen)


@pytest.mark.parametrize(
    ("said", "runs"),
    [
        ("ActiveState=active\nUnitFileState=enabled\n", True),
        ("ActiveState=active\nUnitFileState=disabled\n", False),
        ("ActiveState=failed\nUnitFileState=enabled\n", False),
        ("ActiveState=inactive\nUnitFileState=\n", False),
        ("", False),
    ],
)
def test_whether_docker_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, said: str, *, runs: bool
) -> None:
    monkeypatch.setattr(AnsibleModule, "run_command", lambda *_unused: (0, said, ""))
    assert run()["docker_runs"] is runs


@pytest.mark.parametrize(
    ("snap", "dockerd", "kind"),
    [(True, True, "snap"), (False, True, "package"), (False, False, "none")],
)
def test_kinds_of_docker(
    monkeypatch: pytest.MonkeyPatch, *, snap: bool, dockerd: bool, kind: str
) -> None:
    monkeypatch.setattr("pathlib.Path.exists", lambda _path: snap)
    monkeypatch.setattr(
        "shutil.which", lambda *_unused, **__: "/usr/bin/dockerd" if dockerd else None
    )
    assert host_preflight.docker_kind() == kind
    assert host_preflight.check_docker(kind).status == ("fail" if snap else "pass")
