#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a container as a systemd service that is active only while it answers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_service
short_description: Run a Docker container as a systemd service that is active only while it answers
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Makes one systemd unit for one container. systemd starts it at boot, restarts it after a crash, and stops it in order.
  - C(systemctl start) returns when the service in the container has answered, and fails with the reason when it did not.
    The unit goes on asking; a container that runs but no longer answers is restarted, with a line in the journal that says so.
  - The container's output goes to the journal of the unit (C(journalctl -u NAME)).
  - Secrets live in a file that only root can read. They are never in the unit, a command line, the journal or this module's answer.
  - The unit is restarted only when something that it was started from has changed, also if an earlier run was cut off before the restart.
requirements:
  - systemd 247 or newer and Docker 20.10 or newer on the target
  - root on the target
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Secrets are shown by their names only.
  idempotent:
    support: full
options:
  name:
    description: Name of the unit (without C(.service)) and of the container.
    type: str
    required: true
  state:
    description:
      - V(started) makes the unit, enables it at boot and has it running.
      - V(stopped) makes the unit and has it stopped and not started at boot.
      - V(absent) removes the unit, its container, its settings and those of its O(networks) that no other container is on.
        Its secrets and volumes are kept.
    type: str
    choices: [started, stopped, absent]
    default: started
  wait:
    description:
      - Whether to return only when the service answers.
      - With V(false) the start is only asked for, so that other work can go on meanwhile; call again with V(true) to see it through.
    type: bool
    default: true
  description:
    description: What the unit is, in a few words.
    type: str
  image:
    description:
      - The image, with a tag or a digest. It is pulled when the host does not have it.
      - Required unless O(state=absent).
    type: str
  entrypoint:
    description: Program to start instead of the image's own.
    type: str
  command:
    description: Arguments for the image's program. Never put a secret here, everybody on the host can read it.
    type: list
    elements: str
    default: []
  env:
    description: Environment variables that anybody on the host may read.
    type: dict
    default: {}
  secrets:
    description:
      - Environment variables that only root may read on the host.
      - A variable with an empty value is made by the host at the first run (32 random bytes) and kept on later ones.
    type: dict
    default: {}
  volumes:
    description: Directories or volumes, each as C(source:target) or C(source:target:ro). A directory that is missing is an error.
    type: list
    elements: str
    default: []
  own_directories:
    description: Directories on the host that are made when missing, for root alone, before the container has them as O(volumes).
    type: list
    elements: path
    default: []
  networks:
    description: Docker networks that the container joins, made when missing. The first is the one that carries published ports.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the network.
        type: str
        required: true
      internal:
        description: Whether it has no way out of the host.
        type: bool
        default: false
      driver_opts:
        description: Options of Docker's bridge driver.
        type: dict
        default: {}
  published_ports:
    description:
      - Ports open on the host, each as C(address:host_port:container_port), for example V(127.0.0.1:8080:8080).
      - A host firewall such as ufw does not guard these ports; the address does.
    type: list
    elements: str
    default: []
  devices:
    description: Devices, by path or by CDI name, for example V(nvidia.com/gpu=all).
    type: list
    elements: str
    default: []
  run_options:
    description: Further options of C(docker create), for example V(--shm-size=1g).
    type: list
    elements: str
    default: []
  after:
    description: Units to be started before this one, if they exist.
    type: list
    elements: str
    default: []
  stop_timeout:
    description: Seconds that the container has to end by itself when stopped.
    type: int
    default: 20
  explain:
    description: Whose known failures to look for in the last lines of a container that ended, so that its status names the cause.
    type: str
    choices: [vllm]
  probe:
    description:
      - How to tell that the service works. The question is asked inside the container's network; no port need be published.
      - Required unless O(state=absent).
    type: dict
    suboptions:
      port:
        description: Port that the service listens on, in the container.
        type: int
        required: true
      path:
        description: Path that answers 200 when the service is up.
        type: str
        default: /health
      completion_model:
        description: Name of a model that one token is asked of through C(/v1/completions). Without it the path alone decides.
        type: str
      bearer_variable:
        description: Which of O(secrets) is sent as the bearer key.
        type: str
      interval:
        description: Seconds between two questions, once the service is ready.
        type: int
        default: 60
      deadline:
        description: Seconds that one question may take.
        type: int
        default: 120
      start_deadline:
        description: Seconds that the service may take to answer for the first time.
        type: int
        default: 900
"""

EXAMPLES = r"""
- name: Serve a page on the loopback interface
  sparerig.llm.container_service:
    name: whoami
    image: docker.io/traefik/whoami:v1.11.0
    published_ports: ["127.0.0.1:8081:80"]
    probe:
      port: 80
      path: /health

- name: Take it away again
  sparerig.llm.container_service:
    name: whoami
    state: absent
"""

RETURN = r"""
unit:
  description: Name of the unit.
  returned: always
  type: str
  sample: sparerig-vllm.service
restarted:
  description: Whether the unit was (or in check mode would be) started or restarted.
  returned: always
  type: bool
active_state:
  description: What systemd says of the unit at the end, for example V(active) or V(activating).
  returned: when not in check mode
  type: str
status:
  description: The unit's own last words, as in C(systemctl status).
  returned: when not in check mode
  type: str
failure:
  description: Identifier of the failure, as in C(docs/failures.md).
  returned: on failure
  type: str
  sample: context-exceeds-kv-cache
image_id:
  description: Id of the image that the unit runs; empty in check mode when it would be pulled.
  returned: when O(state) is not V(absent)
  type: str
secrets_file:
  description: Where the secrets are.
  returned: when O(state) is not V(absent)
  type: str
  sample: /etc/sparerig/sparerig-vllm.secrets.env
"""

import inspect
import os
import shutil
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks import failures
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    describe,
    named,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.requirements import check_port
from ansible_collections.sparerig.llm.plugins.module_utils._service import supervisor
from ansible_collections.sparerig.llm.plugins.module_utils._service.spec import (
    LIBRARY_DIR,
    SUPERVISOR,
    Network,
    OptionError,
    Port,
    Spec,
    check_env,
    check_name,
    parse_env,
    render_config,
    render_env,
    render_unit,
    settle_secrets,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import log as vllm_log

SAID = "sparerig: "  # how the supervisor's own lines in the journal begin
Words = dict[str, str] | None
PRIVATE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC = 0o644


def read(path: str) -> str | None:
    """Return a file's text, or None when there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


class ContainerService:
    """Brings the host to what the options say."""

    def __init__(self, module: AnsibleModule, spec: Spec) -> None:
        self.module = module
        self.spec = spec
        self.unit = f"{spec.name}.service"
        self.docker = module.get_bin_path("docker") is not None
        self.result: dict[str, t.Any] = {"changed": False, "unit": self.unit, "restarted": False}

    def run(self, *command: str) -> tuple[int, str, str]:
        """Run a command; return its exit status and output."""
        status, out, err = self.module.run_command(list(command))
        return status, out, err

    def must(self, *command: str, failure: str = "command-failed", words: Words = None) -> str:
        """Run a command that has to work; return its output."""
        status, out, err = self.run(*command)
        if status:
            said = err.strip() or out.strip()
            cause = f"`{' '.join(command)}` failed: {said}."
            self.fail(failure, cause, words, cmd=list(command), rc=status)
        return out

    def fail(self, failure: str, cause: str = "", words: Words = None, **more: t.Any) -> t.NoReturn:
        """End with a failure of the registry and the evidence so far."""
        known = describe(failure, {"unit": self.spec.name, **(words or {})}, cause=cause)
        self.end(known.message(), known.id, **more)

    def end(self, message: str, failure: str, **more: t.Any) -> t.NoReturn:
        """End with a message that is complete."""
        self.module.fail_json(msg=message, failure=failure, **{**self.result, **more})

    def changed(self) -> bool:
        """Note a change; return whether to make it."""
        self.result["changed"] = True
        return not self.module.check_mode

    # What the host has

    def state(self) -> dict[str, str]:
        """Ask systemd about the unit, in one question."""
        wanted = "ActiveState,SubState,UnitFileState,StatusText,Result"
        _status, out, _err = self.run("systemctl", "show", "--property", wanted, self.unit)
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def check_docker(self) -> None:
        """Stop when there is no Docker that answers."""
        if not self.docker:
            if self.module.check_mode:
                return  # a role before this one would have installed it
            self.fail("docker-missing")
        self.must(
            "docker", "version", "--format", "{{.Server.Version}}", failure="docker-not-running",
        )  # fmt: skip

    def check_volumes(self) -> None:
        """Docker would make a missing directory, empty and owned by root: nobody wants that."""
        for volume in self.spec.volumes:
            source = volume.split(":", 1)[0]
            if source.startswith("/") and not Path(source).exists() and not self.module.check_mode:
                self.fail("volume-missing", f"volumes has {volume!r}, and {source} does not exist.")

    def ensure_directories(self) -> None:
        """Make the directories that are the service's own; keep everybody else out of them."""
        for name in self.spec.own_directories:
            path = Path(name)
            try:
                fits = path.stat().st_mode & 0o777 == PRIVATE_DIRECTORY
                if not fits and self.changed():
                    path.chmod(PRIVATE_DIRECTORY)
            except FileNotFoundError:
                if self.changed():
                    path.mkdir(mode=PRIVATE_DIRECTORY, parents=True)

    def check_ports(self) -> None:
        """Stop when somebody else has a port that is to be published."""
        for port in self.spec.published_ports:
            check = check_port(port.address, port.host_port, self.spec.config_file)
            if check.status == "fail":
                self.end(check.message(), check.failure)

    # What is brought about

    def ensure_image(self) -> str:
        """Return the image's id, after pulling it when it is missing."""
        inspect_image = ("docker", "image", "inspect", "--format", "{{.Id}}", self.spec.image)
        status, out, _err = self.run(*inspect_image) if self.docker else (1, "", "")
        if status == 0:
            return out.strip()
        if not self.changed():
            return ""
        self.must(
            "docker", "pull", "--quiet", self.spec.image,
            failure="image-not-pulled", words={"image": self.spec.image},
        )  # fmt: skip
        return self.must(*inspect_image).strip()

    def network_label(self, network: Network) -> str | None:
        """Return how a network of this name was made; None when there is none."""
        label = '{{index .Labels "sparerig.network"}}'
        inspect_network = ("docker", "network", "inspect", "--format", label, network.name)
        status, out, _err = self.run(*inspect_network) if self.docker else (1, "", "")
        return None if status else out.strip()

    def ensure_network(self, network: Network) -> None:
        """Make the network when it is missing; refuse one of the same name made differently."""
        label = self.network_label(network)
        if label is None:
            if self.changed():
                self.must(*network.create_command(), failure="network-not-made")
        elif label != network.label:
            cause = f"The network {network.name} exists with other properties than are asked for."
            self.fail("network-differs", cause, {"network": network.name})

    def write(self, files: dict[str, str], modes: dict[str, int]) -> list[str]:
        """Write the files that differ, each in one step; return their paths."""
        written = []
        for path, text in files.items():
            mode = modes.get(path, PUBLIC)
            same = read(path) == text and Path(path).stat().st_mode & 0o777 == mode
            if same:
                continue
            written.append(path)
            if self.changed():
                Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                temporary = Path(f"{path}.new")
                with os.fdopen(
                    os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w"
                ) as file:
                    os.fchmod(file.fileno(), mode)
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
        return written

    def show_diff(self, files: dict[str, str], secrets: dict[str, str]) -> None:
        """Give Ansible's diff mode the files before and after, secrets as names only."""
        if not self.module._diff:
            return
        hidden, own = self.spec.secrets_file, self.spec.files()[1:]
        before = {path: read(path) or "" for path in own}
        after = {path: files[path] for path in own}
        old = parse_env(before[hidden])
        before[hidden] = "".join(f"{name}=(secret)\n" for name in sorted(old))
        after[hidden] = "".join(
            f"{name}=({'secret' if old.get(name) == secrets[name] or name not in old else 'new secret'})\n"
            for name in sorted(secrets)
        )
        self.result["diff"] = [
            {
                "before_header": path,
                "after_header": path,
                "before": before[path],
                "after": after[path],
            }
            for path in own
            if before[path] != after[path]
        ]

    def present(self, secrets_wanted: dict[str, str], *, started: bool, wait: bool) -> None:
        """Have the unit as wanted, started or stopped."""
        spec = self.spec
        self.check_docker()
        self.ensure_directories()
        self.check_volumes()
        self.check_ports()
        image_id = self.ensure_image()
        for network in spec.networks:
            self.ensure_network(network)
        secrets = settle_secrets(secrets_wanted, parse_env(read(spec.secrets_file) or ""))
        files = {
            SUPERVISOR: inspect.getsource(supervisor),
            f"{LIBRARY_DIR}/failures.py": inspect.getsource(failures),
            f"{LIBRARY_DIR}/vllm_log.py": inspect.getsource(vllm_log),
            spec.config_file: render_config(spec, image_id),
            spec.env_file: render_env(spec.env),
            spec.secrets_file: render_env(secrets),
            spec.unit_file: render_unit(spec),
        }
        self.show_diff(files, secrets)
        written = self.write(files, {spec.secrets_file: PRIVATE})
        self.result.update(image_id=image_id, secrets_file=spec.secrets_file)
        if spec.unit_file in written and not self.module.check_mode:
            self.must("systemctl", "daemon-reload")
        state = self.state()
        verb = "enable" if started else "disable"
        if (state.get("UnitFileState") == "enabled") != started and self.changed():
            self.must("systemctl", verb, "--quiet", self.unit)
        if started:
            wanted = supervisor.fingerprint(files[path].encode() for path in spec.files())
            self.start(state, is_current=read(spec.fingerprint_file) == wanted, wait=wait)
        elif state.get("ActiveState") not in {"inactive", "failed"} and self.changed():
            self.must("systemctl", "stop", self.unit)

    def start(self, state: dict[str, str], *, is_current: bool, wait: bool) -> None:
        """Start or restart the unit unless what runs was started from these very files."""
        active = state.get("ActiveState")
        if is_current and (active == "active" or (active == "activating" and not wait)):
            return
        # A start that is under way from these very files needs to be waited for, not begun again.
        under_way = is_current and active == "activating"
        self.result["restarted"] = not under_way
        if not under_way and not self.changed():
            return
        if self.module.check_mode:
            return
        if not under_way:
            self.run("systemctl", "reset-failed", self.unit)
        verb = "start" if under_way else "restart"
        no_block = [] if wait else ["--no-block"]
        status, _out, err = self.run("systemctl", *no_block, verb, self.unit)
        if status:
            show = ("journalctl", "--unit", self.unit, "--lines=60", "--output=cat")
            journal = self.run(*show)[1].splitlines()
            # Not the Status line: by now the next try may have written its own there.
            verdicts = [line[len(SAID) :] for line in journal if line.startswith(SAID)]
            if not verdicts:
                words = {"said": err.strip().rstrip(".")}
                self.fail("service-not-started", words=words, journal=journal)
            shows = f"`sudo journalctl -u {self.spec.name} -n 100` on the host shows all it wrote."
            message = f"{self.unit} did not start: {verdicts[-1]} {shows}"
            self.end(message, named(message) or "service-not-started", journal=journal)

    def absent(self) -> None:
        """Take away the unit, its container, settings and networks; keep its secrets."""
        self.remove_unit()
        unused = [
            network.name
            for network in self.spec.networks
            if self.network_label(network) == network.label and self.is_unused(network)
        ]
        if unused and self.changed():
            self.must("docker", "network", "rm", *unused)

    def is_unused(self, network: Network) -> bool:
        """Tell whether no container but this service's own is on a network."""
        on_it = self.must(
            "docker", "ps", "--all", "--filter", f"network={network.name}",
            "--format", "{{.Names}}",
        )  # fmt: skip
        return set(on_it.split()) <= {self.spec.name}

    def remove_unit(self) -> None:
        """Take away the unit and its settings, and with it the container."""
        spec = self.spec
        left = [
            path
            for path in (spec.unit_file, spec.config_file, spec.env_file)
            if read(path) is not None
        ]
        if not left or not self.changed():
            return
        if spec.unit_file in left:  # an earlier run may have been cut off after it had removed it
            self.must("systemctl", "disable", "--now", "--quiet", self.unit)
        for path in left:
            Path(path).unlink()
        if not list(Path(spec.config_file).parent.glob("*.json")):
            shutil.rmtree(LIBRARY_DIR, ignore_errors=True)  # no other unit needs it
        self.must("systemctl", "daemon-reload")


def main() -> None:
    """Read the options, act, answer."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["started", "stopped", "absent"],
                "default": "started",
            },
            "wait": {"type": "bool", "default": True},
            "description": {"type": "str"},
            "image": {"type": "str"},
            "entrypoint": {"type": "str"},
            "command": {"type": "list", "elements": "str", "default": []},
            "env": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "volumes": {"type": "list", "elements": "str", "default": []},
            "own_directories": {"type": "list", "elements": "path", "default": []},
            "networks": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "internal": {"type": "bool", "default": False},
                    "driver_opts": {"type": "dict", "default": {}},
                },
            },
            "published_ports": {"type": "list", "elements": "str", "default": []},
            "devices": {"type": "list", "elements": "str", "default": []},
            "run_options": {"type": "list", "elements": "str", "default": []},
            "after": {"type": "list", "elements": "str", "default": []},
            "stop_timeout": {"type": "int", "default": 20},
            "explain": {"type": "str", "choices": ["vllm"]},
            "probe": {
                "type": "dict",
                "options": {
                    "port": {"type": "int", "required": True},
                    "path": {"type": "str", "default": "/health"},
                    "completion_model": {"type": "str"},
                    "bearer_variable": {"type": "str"},
                    "interval": {"type": "int", "default": 60},
                    "deadline": {"type": "int", "default": 120},
                    "start_deadline": {"type": "int", "default": 900},
                },
            },
        },
        required_if=[
            ("state", "started", ["image", "probe"]),
            ("state", "stopped", ["image", "probe"]),
        ],
        supports_check_mode=True,
    )
    given = module.params
    try:
        env = {name: as_env(value) for name, value in given["env"].items()}
        secrets = {name: as_env(value) for name, value in given["secrets"].items()}
        check_name(given["name"])
        check_env("env", env)
        check_env("secrets", secrets)
        spec = Spec(
            name=given["name"],
            description=given["description"] or given["name"],
            image=given["image"] or "",
            entrypoint=given["entrypoint"],
            command=given["command"],
            env=env,
            volumes=given["volumes"],
            own_directories=given["own_directories"],
            networks=[as_network(**network) for network in given["networks"]],
            published_ports=[Port.parse(text) for text in given["published_ports"]],
            devices=given["devices"],
            run_options=given["run_options"],
            after=given["after"],
            stop_timeout=given["stop_timeout"],
            probe=given["probe"] or {},
            explain=given["explain"],
        )
    except OptionError as error:
        known = describe("option-invalid", cause=f"{error}.")
        module.fail_json(msg=known.message(), failure=known.id)
    unit = ContainerService(module, spec)
    if given["state"] == "absent":
        unit.absent()
    else:
        unit.present(secrets, started=given["state"] == "started", wait=given["wait"])
    if not module.check_mode:
        state = unit.state()
        unit.result.update(active_state=state.get("ActiveState"), status=state.get("StatusText"))
    module.exit_json(**unit.result)


def as_env(value: t.Any) -> str:
    """Return a YAML value as the programs in the containers expect it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_network(name: str, *, internal: bool, driver_opts: dict[str, t.Any]) -> Network:
    """Return a network, with its options as Docker expects them."""
    return Network(name, internal, {key: as_env(value) for key, value in driver_opts.items()})


if __name__ == "__main__":
    main()
