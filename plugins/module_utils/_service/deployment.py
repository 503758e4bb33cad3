# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings a host to what the options of ``container_service`` say: files, networks, image, unit.

PRIVATE to this collection.
"""

from __future__ import annotations

import inspect
import shutil
import typing as t
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks import failures
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    describe,
    named,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    parse_env,
    read_text,
    render_env,
    write_atomically,
)
from ansible_collections.sparerig.llm.plugins.module_utils._host.requirements import check_port
from ansible_collections.sparerig.llm.plugins.module_utils._service import supervisor
from ansible_collections.sparerig.llm.plugins.module_utils._service.spec import (
    LIBRARY_DIR,
    SUPERVISOR,
    Network,
    Spec,
    render_config,
    render_unit,
    settle_secrets,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import log as vllm_log

if t.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Callable[[list[str]], tuple[int, str, str]]

SAID = "sparerig: "  # how the supervisor's own lines in the journal begin
COMMENT = "Managed by Ansible (sparerig.llm.container_service)"
PRIVATE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC = 0o644

EXPLANATIONS = {"vllm": vllm_log}
"""What the supervisor may find beside itself to explain the end of a container."""


class DeploymentError(Exception):
    """The host cannot be brought there; the message says why.

    ``failure`` is its identifier in the registry, ``evidence`` what a module returns of it.
    """

    def __init__(self, message: str, failure: str, **evidence: t.Any) -> None:
        super().__init__(message)
        self.failure = failure
        self.evidence = evidence


class Deployment:
    """Brings the host to what the options say."""

    def __init__(
        self, spec: Spec, run: Run, *, docker: bool, check: bool = False, diff: bool = False
    ) -> None:
        """Take what is wanted and how to run a command (its exit status and output).

        ``docker``: whether the host has that program. ``check``: change nothing, but say what would
        be. ``diff``: put the files before and after into ``result``.
        """
        self.spec = spec
        self.unit = f"{spec.name}.service"
        self.docker = docker
        self.check_mode = check
        self.diff = diff
        self._run = run
        self.result: dict[str, t.Any] = {"changed": False, "unit": self.unit, "restarted": False}

    def run(self, *command: str) -> tuple[int, str, str]:
        """Run a command; return its exit status and output."""
        status, out, err = self._run(list(command))
        return status, out, err

    def must(
        self,
        *command: str,
        failure: str = "command-failed",
        words: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command that has to work; return its output."""
        status, out, err = self.run(*command)
        if status:
            said = err.strip() or out.strip()
            cause = f"`{' '.join(command)}` failed: {said}."
            self.fail(failure, cause, words, cmd=list(command), rc=status)
        return out

    def fail(
        self,
        failure: str,
        cause: str = "",
        words: Mapping[str, str] | None = None,
        **more: t.Any,
    ) -> t.NoReturn:
        """End with a failure of the registry and the evidence so far."""
        known = describe(failure, {"unit": self.spec.name, **(words or {})}, cause=cause)
        self.end(known.message(), known.id, **more)

    def end(self, message: str, failure: str, **more: t.Any) -> t.NoReturn:
        """End with a message that is complete."""
        raise DeploymentError(message, failure, **{**self.result, **more})

    def changed(self) -> bool:
        """Note a change; return whether to make it."""
        self.result["changed"] = True
        return not self.check_mode

    # What the host has

    def state(self) -> dict[str, str]:
        """Ask systemd about the unit, in one question."""
        wanted = "ActiveState,SubState,UnitFileState,StatusText,Result"
        _status, out, _err = self.run("systemctl", "show", "--property", wanted, self.unit)
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def check_docker(self) -> None:
        """Stop when there is no Docker that answers."""
        if not self.docker:
            if self.check_mode:
                return  # a role before this one would have installed it
            self.fail("docker-missing")
        self.must(
            "docker", "version", "--format", "{{.Server.Version}}", failure="docker-not-running",
        )  # fmt: skip

    def check_volumes(self) -> None:
        """Docker would make a missing directory, empty and owned by root: nobody wants that."""
        for volume in self.spec.volumes:
            source = volume.split(":", 1)[0]
            if source.startswith("/") and not Path(source).exists() and not self.check_mode:
                self.fail("volume-missing", f"volumes has {volume!r}, and {source} does not exist.")

    def ensure_directories(self) -> None:
        """Make the directories of the service's data; keep everybody else out of them."""
        for name in self.spec.data_directories:
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
            same = read_text(path) == text and Path(path).stat().st_mode & 0o777 == mode
            if same:
                continue
            written.append(path)
            if self.changed():
                Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                write_atomically(path, text, mode=mode)
        return written

    def library(self) -> dict[str, str]:
        """Return the supervisor and what it imports: the registry, and a log's reader if asked."""
        files = {f"{LIBRARY_DIR}/failures.py": inspect.getsource(failures)}
        name = self.spec.explain
        if name is not None:
            files[f"{LIBRARY_DIR}/{name}_log.py"] = inspect.getsource(EXPLANATIONS[name])
        # Last: a run that is cut off leaves no supervisor beside a registry older than itself.
        return {**files, SUPERVISOR: inspect.getsource(supervisor)}

    def show_diff(self, files: dict[str, str], secrets: dict[str, str]) -> None:
        """Give Ansible's diff mode the files before and after, secrets as names only."""
        if not self.diff:
            return
        hidden, own = self.spec.secrets_file, self.spec.files()[1:]
        before = {path: read_text(path) or "" for path in own}
        after = {path: files[path] for path in own}
        old = parse_env(before[hidden])
        before[hidden] = "".join(f"{name}=(secret)\n" for name in sorted(old))
        replaced = {name for name in old if name in secrets and old[name] != secrets[name]}
        after[hidden] = "".join(
            f"{name}=({'new secret' if name in replaced else 'secret'})\n"
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
        secrets = settle_secrets(secrets_wanted, parse_env(read_text(spec.secrets_file) or ""))
        files = {
            **self.library(),
            spec.config_file: render_config(spec, image_id),
            spec.env_file: render_env(spec.env, COMMENT),
            spec.secrets_file: render_env(secrets, COMMENT),
            spec.unit_file: render_unit(spec),
        }
        self.show_diff(files, secrets)
        written = self.write(files, {spec.secrets_file: PRIVATE})
        self.result.update(image_id=image_id, secrets_file=spec.secrets_file)
        if spec.unit_file in written and not self.check_mode:
            self.must("systemctl", "daemon-reload")
        state = self.state()
        verb = "enable" if started else "disable"
        if (state.get("UnitFileState") == "enabled") != started and self.changed():
            self.must("systemctl", verb, "--quiet", self.unit)
        if started:
            wanted = supervisor.fingerprint(files[path].encode() for path in spec.files())
            self.start(state, is_current=read_text(spec.fingerprint_file) == wanted, wait=wait)
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
        if self.check_mode:
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

    def other_units(self) -> list[str]:
        """List the units of other services: those whose settings are beside this one's."""
        units = Path(self.spec.unit_file).parent
        settings = Path(self.spec.config_file).parent.glob("*.json")
        return [file.stem for file in settings if (units / f"{file.stem}.service").exists()]

    def remove_unit(self) -> None:
        """Take away the unit and its settings, and with it the container."""
        spec = self.spec
        left = [
            path
            for path in (spec.unit_file, spec.config_file, spec.env_file)
            if read_text(path) is not None
        ]
        if not left or not self.changed():
            return
        if spec.unit_file in left:  # an earlier run may have been cut off after it had removed it
            self.must("systemctl", "disable", "--now", "--quiet", self.unit)
        for path in left:
            Path(path).unlink()
        if not self.other_units():
            shutil.rmtree(LIBRARY_DIR, ignore_errors=True)
        self.must("systemctl", "daemon-reload")
