# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""container_service through main(), on a host whose docker and systemctl are answers in a table."""

from __future__ import annotations

import inspect
import json
import socket
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks import failures
from ansible_collections.sparerig.llm.plugins.module_utils._service import (
    deployment,
    spec,
    supervisor,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import log as vllm_log
from ansible_collections.sparerig.llm.plugins.modules import container_service

if t.TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = "registry.example/engine:1"
OPTIONS: dict[str, t.Any] = {
    "name": "engine",
    "image": IMAGE,
    "env": {"NUMBER": 8, "FLAG": True, "NOTHING": None},
    "secrets": {"KEY": ""},
    "probe": {"port": 8000},
}


class Host:
    """Docker and systemd, as far as the module asks them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[str] = []
        self.images = {IMAGE: "sha256:1"}
        self.registry = {IMAGE: "sha256:2"}
        self.networks: dict[str, str] = {}
        self.on_network: dict[str, list[str]] = {}
        self.units: dict[str, str] = {"ActiveState": "inactive", "UnitFileState": "disabled"}
        self.failing: dict[str, str] = {}
        self.journal = ""
        self.has_docker = True

    def get_bin_path(self, name: str) -> str | None:
        """Say where a program is."""
        return f"/usr/bin/{name}" if self.has_docker else None

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        """Answer as the programs do."""
        line = " ".join(command)
        self.commands.append(line)
        for beginning, words in self.failing.items():
            if line.startswith(beginning):
                return 1, "", words
        return self.answer(command)

    def answer(self, command: list[str]) -> tuple[int, str, str]:
        """Answer one that does not fail."""
        name = command[-1]
        if command[:3] == ["docker", "image", "inspect"]:
            return (0, self.images[name] + "\n", "") if name in self.images else (1, "", "no such")
        if command[:2] == ["docker", "pull"]:
            self.images[name] = self.registry[name]
        if command[:2] in (["docker", "network"], ["docker", "ps"]):
            return self.network(command)
        if command[0] == "journalctl":
            return 0, self.journal, ""
        if command[:2] == ["systemctl", "show"]:
            return 0, "".join(f"{key}={value}\n" for key, value in self.units.items()), ""
        if command[0] == "systemctl":
            self.systemctl(command[1:])
        return 0, "", ""

    def network(self, command: list[str]) -> tuple[int, str, str]:
        """Answer what is about Docker's networks."""
        name = command[-1]
        if command[1] == "ps":
            (filtered,) = (word for word in command if word.startswith("network="))
            return 0, "\n".join(self.on_network.get(filtered.partition("=")[2], [])), ""
        if command[2] == "inspect":
            known = name in self.networks
            return (0, self.networks[name] + "\n", "") if known else (1, "", "no such")
        if command[2] == "create":
            self.networks[name] = command[4].partition("=")[2]
        if command[2] == "rm":
            for removed in command[3:]:
                del self.networks[removed]
        return 0, "", ""

    def systemctl(self, words: list[str]) -> None:
        """Do what systemd would; a started unit notes what it was started from."""
        verb = words[1] if words[0] == "--no-block" else words[0]
        if verb in {"enable", "disable"}:
            self.units["UnitFileState"] = f"{verb}d"
        if verb == "stop" or "--now" in words:
            self.units["ActiveState"] = "inactive"
        if verb in {"start", "restart"}:
            self.units |= {
                "ActiveState": "activating" if words[0] == "--no-block" else "active",
                "StatusText": "ready: it answered 3 s after the start",
            }
            config = json.loads(Path(f"{self.root}/etc/engine.json").read_text())
            contents = (Path(path).read_bytes() for path in config["files"])
            Path(config["fingerprint_file"]).write_text(supervisor.fingerprint(contents))

    def did(self, *programs: str) -> list[str]:
        """Return what was done, questions left out, and forget it."""
        questions = (
            "docker version",
            "docker image",
            "docker network inspect",
            "docker ps",
            "systemctl show",
        )
        done = [line for line in self.commands if not line.startswith(questions)]
        self.commands.clear()
        return [line for line in done if not programs or line.startswith(programs)]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    places = {"CONFIG_DIR": "etc", "LIBRARY_DIR": "lib", "UNIT_DIR": "units", "RUNTIME_DIR": "run"}
    for name, folder in places.items():
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(spec, name, f"{tmp_path}/{folder}")
    supervisor = f"{tmp_path}/lib/supervisor.py"
    for module in (spec, deployment):
        monkeypatch.setattr(module, "SUPERVISOR", supervisor)
    monkeypatch.setattr(deployment, "LIBRARY_DIR", f"{tmp_path}/lib")
    monkeypatch.setattr(AnsibleModule, "run_command", host.run_command)
    monkeypatch.setattr(AnsibleModule, "get_bin_path", host.get_bin_path)
    return host


@pytest.fixture
def run(run_module: Callable[..., dict[str, t.Any]], host: Host) -> Callable[..., dict[str, t.Any]]:
    """Run the module with OPTIONS and what is given; None leaves an option out."""
    assert host

    def call(*, check: bool = False, diff: bool = False, **options: t.Any) -> dict[str, t.Any]:
        given = {key: value for key, value in (OPTIONS | options).items() if value is not None}
        return run_module(container_service, check=check, diff=diff, **given)

    return call


Run = t.Callable[..., dict[str, t.Any]]


def text(host: Host, path: str) -> str:
    return (host.root / path).read_text()


# The road from nothing to a running unit, and back


def test_made_once(run: Run, host: Host) -> None:
    foretold = run(check=True)
    assert foretold["changed"]
    assert foretold["restarted"]
    assert host.did() == []
    assert list((host.root / "etc").iterdir()) == []

    first = run()
    assert first["changed"]
    assert first["restarted"]
    assert first["unit"] == "engine.service"
    assert first["active_state"] == "active"
    assert first["status"] == "ready: it answered 3 s after the start"
    assert first["image_id"] == "sha256:1"
    assert host.did() == [
        "systemctl daemon-reload",
        "systemctl enable --quiet engine.service",
        "systemctl reset-failed engine.service",
        "systemctl restart engine.service",
    ]
    for check in (True, False):
        again = run(check=check, diff=True)
        assert not again["changed"]
        assert not again["restarted"]
        assert again["diff"] == []
        assert host.did() == []


def test_the_files(run: Run, host: Host) -> None:
    # Ports that are this unit's already are not tried.
    ours = {"create": [["--publish=127.0.0.1:18080:80", "--publish=[::1]:18081:81"]]}
    (host.root / "etc/engine.json").write_text(json.dumps(ours))
    run(
        description="100 % chat\nand more",
        entrypoint="engine",
        command=["serve", "/models/tiny"],
        volumes=[f"{host.root}:/models:ro", "cache:/var/cache"],
        networks=[{"name": "one", "internal": True}, {"name": "two"}],
        published_ports=["127.0.0.1:18080:80", "[::1]:18081:81"],
        devices=["nvidia.com/gpu=all"],
        run_options=["--shm-size=1g"],
        after=["other.service"],
        explain="vllm",
    )
    assert text(host, "lib/supervisor.py") == inspect.getsource(supervisor)
    assert text(host, "lib/vllm_log.py") == inspect.getsource(vllm_log)
    assert text(host, "etc/engine.env").splitlines()[1:] == ["FLAG=true", "NOTHING=", "NUMBER=8"]
    assert (host.root / "etc/engine.secrets.env").stat().st_mode & 0o777 == 0o600
    unit = text(host, "units/engine.service").splitlines()
    assert "Description=100 %% chat and more" in unit
    assert "After=docker.service network-online.target other.service" in unit
    assert "TimeoutStartSec=1020s" in unit
    config = json.loads(text(host, "etc/engine.json"))
    etc = f"{host.root}/etc"
    assert config["create"] == [
        [
            *("docker", "create", "--rm", "--name", "engine", "--pull", "never"),
            *("--log-driver", "none", "--env-file", f"{etc}/engine.env"),
            *("--env-file", f"{etc}/engine.secrets.env", "--label", "sparerig.image=sha256:1"),
            *(f"--volume={host.root}:/models:ro", "--volume=cache:/var/cache"),
            *("--device=nvidia.com/gpu=all", "--publish=127.0.0.1:18080:80"),
            *("--publish=[::1]:18081:81", "--entrypoint", "engine", "--network=one"),
            *("--shm-size=1g", IMAGE, "serve", "/models/tiny"),
        ],
        ["docker", "network", "connect", "two", "engine"],
    ]
    assert supervisor.Config.load(f"{etc}/engine.json").probe.path == "/health"


@pytest.mark.parametrize(
    "change",
    [
        {"env": {"NUMBER": 9}},
        {"secrets": {"KEY": "given"}},
        {"command": ["x"]},
        {"stop_timeout": 9},
    ],
)
def test_what_a_change_does(run: Run, host: Host, change: dict[str, t.Any]) -> None:
    run()
    host.did()
    assert run(check=True, **change)["restarted"]
    assert host.did() == []
    assert run(**change)["restarted"]
    assert "systemctl restart engine.service" in host.did()
    assert not run(**change)["changed"]


def test_a_run_cut_off_before_the_restart_is_made_up_for(run: Run, host: Host) -> None:
    run()
    host.failing = {"systemctl restart": "cut off"}
    run(env={"NUMBER": 9})
    host.failing = {}
    host.did()
    assert run(env={"NUMBER": 9})["restarted"]
    assert "systemctl restart engine.service" in host.did()


def test_a_file_mode_is_put_right(run: Run, host: Host) -> None:
    run()
    (host.root / "etc/engine.secrets.env").chmod(0o644)
    assert run()["changed"]
    assert (host.root / "etc/engine.secrets.env").stat().st_mode & 0o777 == 0o600


def test_directories_of_its_own(run: Run, host: Host) -> None:
    place = host.root / "srv" / "chats"
    assert run(check=True, data_directories=[str(place)])["changed"]
    assert not place.exists()
    run(data_directories=[str(place)], volumes=[f"{place}:/data"])
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o755)
    assert run(data_directories=[str(place)], volumes=[f"{place}:/data"])["changed"]
    assert place.stat().st_mode & 0o777 == 0o700
    assert not run(data_directories=[str(place)], volumes=[f"{place}:/data"])["changed"]


def test_not_waiting_then_seeing_it_through(run: Run, host: Host) -> None:
    begun = run(wait=False)
    assert begun["restarted"]
    assert begun["active_state"] == "activating"
    assert "systemctl --no-block restart engine.service" in host.did()
    assert not run(wait=False)["changed"]
    assert host.did() == []
    seen_through = run()
    assert not seen_through["changed"]
    assert not seen_through["restarted"]
    assert seen_through["active_state"] == "active"
    assert host.did() == ["systemctl start engine.service"]


def test_waiting_is_nothing_to_foretell(run: Run, host: Host) -> None:
    run(wait=False)
    host.did()
    assert not run(check=True)["changed"]
    assert host.did() == []


def test_stopped(run: Run, host: Host) -> None:
    run()
    host.did()
    assert run(state="stopped", check=True)["changed"]
    assert host.did() == []
    stopped = run(state="stopped")
    assert stopped["changed"]
    assert stopped["active_state"] == "inactive"
    assert host.did() == [
        "systemctl disable --quiet engine.service",
        "systemctl stop engine.service",
    ]
    assert not run(state="stopped")["changed"]


def test_absent(run: Run, host: Host) -> None:
    run()
    secrets = text(host, "etc/engine.secrets.env")
    host.did()
    assert run(state="absent", check=True)["changed"]
    assert host.did() == []
    assert run(state="absent")["changed"]
    assert host.did() == [
        "systemctl disable --now --quiet engine.service",
        "systemctl daemon-reload",
    ]
    assert [path.name for path in (host.root / "etc").iterdir()] == ["engine.secrets.env"]
    assert not run(state="absent")["changed"]
    run()
    assert text(host, "etc/engine.secrets.env") == secrets


@pytest.mark.parametrize(("unit", "stays"), [(None, False), ("other.service", True)])
def test_the_supervisor_stays_for_another_service_only(
    run: Run, host: Host, unit: str | None, *, stays: bool
) -> None:
    run()
    (host.root / "etc" / "other.json").write_text("{}")  # without a unit: a plan, for example
    if unit:
        (host.root / "units" / unit).touch()
    run(state="absent")
    assert (host.root / "lib").exists() is stays


def test_absent_takes_networks_that_nobody_else_is_on(run: Run, host: Host) -> None:
    networks = [{"name": "own"}, {"name": "shared"}]
    run(networks=networks)
    host.networks["foreign"] = "made by somebody else"
    networks.append({"name": "foreign"})
    host.on_network = {"own": ["engine"], "shared": ["engine", "page"]}
    assert run(state="absent", networks=networks, check=True)["changed"]
    assert "own" in host.networks
    run(state="absent", networks=networks)
    assert sorted(host.networks) == ["foreign", "shared"]
    assert not run(state="absent", networks=networks)["changed"]
    host.has_docker = False
    assert not run(state="absent", networks=networks)["changed"]


def test_absent_after_it_was_cut_off(run: Run, host: Host) -> None:
    run()
    (host.root / "units/engine.service").unlink()
    host.did()
    assert run(state="absent")["changed"]
    assert host.did() == ["systemctl daemon-reload"]
    assert not (host.root / "etc/engine.json").exists()


# Secrets


def test_secrets_are_made_kept_and_replaced(run: Run, host: Host) -> None:
    run()
    made = text(host, "etc/engine.secrets.env").partition("KEY=")[2].strip()
    assert len(made) == 43
    assert not run()["changed"]
    run(secrets={"KEY": "given", "NEW": ""})
    assert "KEY=given\n" in text(host, "etc/engine.secrets.env")


def test_secrets_are_shown_by_name_only(run: Run, host: Host) -> None:
    first = run(diff=True)
    made = text(host, "etc/engine.secrets.env").partition("KEY=")[2].strip()
    changed = run(diff=True, secrets={"KEY": "open sesame", "NEW": "1001 nights"})
    shown = json.dumps([first, changed])
    assert "KEY=(secret)" in shown
    assert made not in shown
    assert "open sesame" not in shown
    assert "1001 nights" not in shown
    diffs = {part["after_header"]: part for part in changed["diff"]}
    assert diffs[f"{host.root}/etc/engine.secrets.env"]["before"] == "KEY=(secret)\n"
    after = diffs[f"{host.root}/etc/engine.secrets.env"]["after"]
    assert after == "KEY=(new secret)\nNEW=(secret)\n"


# Images and networks


def test_an_image_is_pulled_when_it_is_missing(run: Run, host: Host) -> None:
    host.images.clear()
    assert run(check=True)["image_id"] == ""
    assert run()["image_id"] == "sha256:2"
    assert f"docker pull --quiet {IMAGE}" in host.did()
    assert not run()["changed"]


def test_a_new_image_means_a_restart(run: Run, host: Host) -> None:
    run()
    host.images[IMAGE] = "sha256:3"
    assert run()["restarted"]


def test_networks(run: Run, host: Host) -> None:
    network = {"name": "own", "internal": True, "driver_opts": {"b": "2", "a": True}}
    assert run(networks=[network], check=True)["changed"]
    assert host.networks == {}
    run(networks=[network])
    (made,) = host.did("docker network create")
    assert made.endswith(" --internal --opt a=true --opt b=2 own")
    assert not run(networks=[network])["changed"]
    refused = run(networks=[network | {"internal": False}])
    assert refused["failed"]
    assert "docker network rm own" in refused["msg"]


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": None}, "state is started but all of the following are missing: image"),
        ({"name": "my engine"}, "name has the value 'my engine'"),
        ({"name": "../engine"}, "name has the value '../engine'"),
        ({"env": {"MY-FLAG": 1}}, "env has the name 'MY-FLAG'"),
        ({"secrets": {"KEY": "one\n"}}, "secrets KEY has a line break in its value"),
        ({"published_ports": ["8080:80"]}, "published_ports has '8080:80': write address:"),
        ({"published_ports": ["127.0.0.1:0:80"]}, "with ports from 1 to 65535"),
        ({"volumes": ["/nonexistent/models:/models"]}, "/nonexistent/models does not exist"),
        ({"published_ports": ["192.0.2.7:18080:80"]}, "this host has no such address"),
    ],
)
def test_refused(run: Run, host: Host, options: dict[str, t.Any], words: str) -> None:
    answer = run(**options)
    assert answer["failed"]
    assert words in answer["msg"]
    assert host.did() == []
    assert list((host.root / "etc").iterdir()) == []


def test_a_port_that_somebody_has(run: Run, host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        published = [f"127.0.0.1:{port}:80"]
        refused = run(published_ports=published)
        assert refused["failed"]
        assert f"127.0.0.1 port {port} is in use by another program" in refused["msg"]
        assert "sudo ss -ltnp" in refused["msg"]
        (host.root / "etc/engine.json").write_text(
            json.dumps({"create": [[f"--publish=127.0.0.1:{port}:80"]]})
        )
        assert not run(published_ports=published).get("failed")


def test_no_docker(run: Run, host: Host) -> None:
    host.has_docker = False
    assert run(check=True, networks=[{"name": "own"}])["changed"]
    refused = run()
    assert refused["failed"]
    assert refused["msg"].startswith("Docker is not installed (docker-missing): ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("docker version", "systemctl status docker"),
        ("docker pull", "df -h /var/lib"),
        ("docker network create", "docker network ls"),
        ("systemctl daemon-reload", "`systemctl daemon-reload` failed: it is broken"),
    ],
)
def test_a_command_that_fails(run: Run, host: Host, command: str, words: str) -> None:
    host.images.clear()
    host.failing = {command: "it is broken\n"}
    answer = run(networks=[{"name": "own"}])
    assert answer["failed"]
    assert answer["rc"] == 1
    assert "failed: it is broken. " in answer["msg"]
    assert words in answer["msg"]


def test_a_failure_to_start_names_the_cause(run: Run, host: Host) -> None:
    host.failing = {"systemctl restart": "Job for engine.service failed.\n"}
    said = "The container does not use the GPU (container-without-gpu): It lost it. Remedy: Look."
    host.journal = f"sparerig: first\nTraceback\nsparerig: {said}\nnoise\n"
    answer = run()
    assert answer["failed"]
    assert answer["changed"]
    assert answer["msg"].startswith(f"engine.service did not start: {said} ")
    assert answer["failure"] == "container-without-gpu"
    assert "`sudo journalctl -u engine -n 100`" in answer["msg"]
    assert answer["journal"] == host.journal.splitlines()


def test_a_failure_to_start_that_nobody_explains(run: Run, host: Host) -> None:
    host.failing = {"systemctl restart": "Job for engine.service failed.\n"}
    answer = run()
    assert answer["failure"] == "service-not-started"
    assert "(service-not-started): systemd says: Job for engine.service failed. " in answer["msg"]


def test_what_explains_failures_is_installed_where_it_is_asked_for(run: Run, host: Host) -> None:
    run()
    assert {path.name for path in (host.root / "lib").iterdir()} == {"failures.py", "supervisor.py"}
    assert text(host, "lib/failures.py") == inspect.getsource(failures)
    run(explain="vllm")
    assert text(host, "lib/vllm_log.py") == inspect.getsource(vllm_log)


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ({"kind": "openai"}, "kind is openai but all of the following are missing"),
        ({"completion_model": "tiny"}, "probe completion_model is 'tiny' and probe kind is 'http'"),
        ({"bearer_variable": "OTHER"}, "probe bearer_variable is 'OTHER', which is not among"),
        ({"kind": "grpc"}, "value of kind must be one of: http, openai"),
    ],
)
def test_a_probe_that_cannot_be_meant(
    run: Run, host: Host, probe: dict[str, str], says: str
) -> None:
    answer = run(probe={"port": 8000, **probe})
    assert answer["failed"]
    assert says in answer["msg"]
    assert host.commands == []


def test_a_model_that_is_asked_for_a_token(run: Run, host: Host) -> None:
    probe = {"port": 8000, "kind": "openai", "completion_model": "tiny", "bearer_variable": "KEY"}
    run(probe=probe)
    read = supervisor.Config.load(f"{host.root}/etc/engine.json").probe
    assert (read.kind, read.completion_model, read.bearer_variable) == ("openai", "tiny", "KEY")
