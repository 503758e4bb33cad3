# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the options of ``container_service`` to the files that make the unit.

PRIVATE to this collection. Pure: nothing here touches the host.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets as random_secrets
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_DIR = "/etc/sparerig"
LIBRARY_DIR = "/usr/local/lib/sparerig"
SUPERVISOR = f"{LIBRARY_DIR}/supervisor.py"
RUNTIME_DIR = "/run/sparerig"
UNIT_DIR = "/etc/systemd/system"

UNIT = """\
# Managed by Ansible (sparerig.llm.container_service). What it runs stands in {config}
[Unit]
Description={description}
Documentation=https://github.com/sparerig/sparerig.llm
Requires=docker.service
After=docker.service network-online.target{after}
Wants=network-online.target{after}
StartLimitIntervalSec=15min
StartLimitBurst=10

[Service]
# Ready is said by the supervisor, when the service in the container has answered.
Type=notify
NotifyAccess=main
SyslogIdentifier={name}
ExecStart=/usr/bin/python3 {supervisor} {config}
# For the day the supervisor itself is killed.
ExecStopPost=-/usr/bin/python3 {supervisor} {config} clean
Restart=always
RestartSec=5s
TimeoutStartSec={start_timeout}s
TimeoutStopSec={stop_timeout}s
WatchdogSec=2min
KillMode=mixed
RuntimeDirectory=sparerig
RuntimeDirectoryPreserve=yes
NoNewPrivileges=yes
ProtectHome=read-only
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


class OptionError(Exception):
    """An option has a value that cannot work; the text names both and says what is allowed."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A Docker network that the container joins."""

    name: str
    internal: bool = False
    driver_opts: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def label(self) -> str:
        """Tell networks apart that bear the same name but were made differently."""
        wanted = json.dumps([self.internal, sorted(self.driver_opts.items())])
        return hashlib.sha256(wanted.encode()).hexdigest()[:12]

    def create_command(self) -> list[str]:
        """Return the command that makes it."""
        command = ["docker", "network", "create", "--label", f"sparerig.network={self.label}"]
        command += ["--internal"] if self.internal else []
        for key, value in sorted(self.driver_opts.items()):
            command += ["--opt", f"{key}={value}"]
        return [*command, self.name]


@dataclasses.dataclass(frozen=True)
class Port:
    """A port of the container that the host publishes."""

    address: str
    host_port: int
    container_port: int

    @classmethod
    def parse(cls, text: str) -> Port:
        """Read ``address:host_port:container_port``; the address is always given, on purpose."""
        match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[0-9.]+):(\d+):(\d+)", text)
        if not match or not all(0 < int(number) < 2**16 for number in match.group(2, 3)):
            raise OptionError(
                f"published_ports has {text!r}: write address:host_port:container_port, "
                "for example 127.0.0.1:8080:8080, with ports from 1 to 65535"
            )
        return cls(match[1].strip("[]"), int(match[2]), int(match[3]))


@dataclasses.dataclass(frozen=True)
class Spec:
    """The options of the module, as it received them."""

    name: str
    description: str
    image: str
    entrypoint: str | None
    command: list[str]
    env: dict[str, str]
    volumes: list[str]
    data_directories: list[str]
    networks: list[Network]
    published_ports: list[Port]
    devices: list[str]
    run_options: list[str]
    after: list[str]
    stop_timeout: int
    probe: dict[str, t.Any]
    explain: str | None

    @property
    def config_file(self) -> str:
        """What the supervisor reads."""
        return f"{CONFIG_DIR}/{self.name}.json"

    @property
    def env_file(self) -> str:
        """Settings that anybody may read."""
        return f"{CONFIG_DIR}/{self.name}.env"

    @property
    def secrets_file(self) -> str:
        """Settings for root alone."""
        return f"{CONFIG_DIR}/{self.name}.secrets.env"

    @property
    def unit_file(self) -> str:
        """What systemd reads."""
        return f"{UNIT_DIR}/{self.name}.service"

    @property
    def fingerprint_file(self) -> str:
        """Where the supervisor notes what the running container was started from."""
        return f"{RUNTIME_DIR}/{self.name}.fingerprint"

    def files(self) -> list[str]:
        """Return what the container is made from: a change in any of them means a restart."""
        return [SUPERVISOR, self.config_file, self.env_file, self.secrets_file, self.unit_file]


def spec_from(params: Mapping[str, t.Any]) -> tuple[Spec, dict[str, str]]:
    """Return what the module's options ask for, and its secrets; raise OptionError."""
    env = {name: _as_env(value) for name, value in params["env"].items()}
    secrets = {name: _as_env(value) for name, value in params["secrets"].items()}
    check_name(params["name"])
    check_env("env", env)
    check_env("secrets", secrets)
    probe = params["probe"] or {}
    check_probe(probe, secrets)
    spec = Spec(
        name=params["name"],
        description=params["description"] or params["name"],
        image=params["image"] or "",
        entrypoint=params["entrypoint"],
        command=params["command"],
        env=env,
        volumes=params["volumes"],
        data_directories=params["data_directories"],
        networks=[_as_network(**network) for network in params["networks"]],
        published_ports=[Port.parse(text) for text in params["published_ports"]],
        devices=params["devices"],
        run_options=params["run_options"],
        after=params["after"],
        stop_timeout=params["stop_timeout"],
        probe=probe,
        explain=params["explain"],
    )
    return spec, secrets


def _as_env(value: t.Any) -> str:
    """Return a YAML value as the programs in the containers expect it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_network(name: str, *, internal: bool, driver_opts: dict[str, t.Any]) -> Network:
    """Return a network, with its options as Docker expects them."""
    return Network(name, internal, {key: _as_env(value) for key, value in driver_opts.items()})


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a unit, a container and files at once."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise OptionError(
            f"name has the value {name!r}: use letters, digits, dots, hyphens and underscores"
        )


def check_env(option: str, values: dict[str, str]) -> None:
    """Refuse what an env file cannot hold: it has one line a variable and no quoting."""
    for name, value in values.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise OptionError(
                f"{option} has the name {name!r}: use letters, digits and underscores"
            )
        if re.search(r"[\n\r\0]", value):
            raise OptionError(
                f"{option} {name} has a line break in its value, often a stray one at its end: "
                "give the value on one line (in YAML, not after | or >)"
            )


def check_probe(probe: Mapping[str, t.Any], secrets: Mapping[str, str]) -> None:
    """Refuse a probe whose options do not go together."""
    model, variable = probe.get("completion_model"), probe.get("bearer_variable")
    if model and probe["kind"] != "openai":
        raise OptionError(
            f"probe completion_model is {model!r} and probe kind is {probe['kind']!r}: a model is "
            "asked by kind openai only. Set kind to openai, or leave completion_model out"
        )
    if variable and variable not in secrets:
        raise OptionError(
            f"probe bearer_variable is {variable!r}, which is not among secrets: "
            f"{', '.join(sorted(secrets)) or 'there are none'}"
        )


def settle_secrets(wanted: dict[str, str], present: dict[str, str]) -> dict[str, str]:
    """Take the values given; keep, or else make, those that are left to the host."""
    return {
        name: value or present.get(name) or random_secrets.token_urlsafe(32)
        for name, value in wanted.items()
    }


def render_unit(spec: Spec) -> str:
    """Return the unit's text. It names files only: no setting and no secret stands in it."""
    return UNIT.format(
        name=spec.name,
        # A line break would end the setting, and systemd replaces what stands after a %.
        description=" ".join(spec.description.split()).replace("%", "%%"),
        config=spec.config_file,
        supervisor=SUPERVISOR,
        after="".join(f" {unit}" for unit in spec.after),
        # The supervisor ends a start that takes too long, and says why; systemd is the second net.
        start_timeout=int(spec.probe["start_deadline"]) + 120,
        stop_timeout=spec.stop_timeout + 10,
    )


def render_config(spec: Spec, image_id: str) -> str:
    """Return what the supervisor runs. The image's id is in it, so a new image means a restart."""
    create = ["docker", "create", "--rm", "--name", spec.name]
    create += ["--pull", "never", "--log-driver", "none"]
    create += ["--env-file", spec.env_file, "--env-file", spec.secrets_file]
    create += ["--label", f"sparerig.image={image_id}"]
    create += [f"--volume={volume}" for volume in spec.volumes]
    create += [f"--device={device}" for device in spec.devices]
    for port in spec.published_ports:
        address = f"[{port.address}]" if ":" in port.address else port.address
        create.append(f"--publish={address}:{port.host_port}:{port.container_port}")
    create += ["--entrypoint", spec.entrypoint] if spec.entrypoint else []
    # The first network is given at creation, the others join before the start: every Docker can.
    create += [f"--network={network.name}" for network in spec.networks[:1]]
    join = [["docker", "network", "connect", net.name, spec.name] for net in spec.networks[1:]]
    config = {
        "name": spec.name,
        "create": [[*create, *spec.run_options, spec.image, *spec.command], *join],
        "run": ["docker", "start", "--attach", spec.name],
        "probe": spec.probe,
        "stop_timeout": spec.stop_timeout,
        "secrets_file": spec.secrets_file,
        "files": spec.files(),
        "fingerprint_file": spec.fingerprint_file,
        "explain": spec.explain,
    }
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
