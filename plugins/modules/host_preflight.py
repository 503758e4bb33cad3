#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find what would stop a deployment, before the first change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_preflight
short_description: Find what would stop a deployment, before the first change
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Looks at the system, the free disk space, the ports and the kind of Docker on a host, and fails with all that is wrong at once.
  - Changes nothing.
extends_documentation_fragment: [sparerig.llm.attributes, sparerig.llm.attributes.read_only]
options:
  disk:
    description: Room that is needed.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where; the path itself need not exist yet.
        type: path
        required: true
      min_free_gib:
        description: How much, in GiB.
        type: float
        required: true
  unit:
    description: Name of the M(sparerig.llm.container_service) that is to have the O(published_ports).
    type: str
    default: ""
  published_ports:
    description: Ports that have to be free, or already that unit's, each as C(address:host_port:container_port).
    type: list
    elements: str
    default: []
  secrets:
    description: Secrets by the names of the options that give them; each has to fit on one line.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check the host before anything is changed
  sparerig.llm.host_preflight:
    disk:
      - path: /var/lib/docker
        min_free_gib: 20
    unit: sparerig-open-webui
    published_ports: ["127.0.0.1:8080:8080"]
"""

RETURN = r"""
checks:
  description: Everything looked at, in order, also when the module fails.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at.
      type: str
    status:
      description: One of V(pass), V(fail), V(unknown) and V(skipped).
      type: str
    expected:
      description: What would be right.
      type: str
    seen:
      description: What is there.
      type: str
    failure:
      description: Identifier of the failure, as in docs/failures.md; empty where it is none.
      type: str
    cause:
      description: Why it is not right.
      type: str
    remedy:
      description: What to do about it.
      type: str
docker:
  description: The Docker engine that the host has, V(none), V(package) or V(snap).
  returned: always
  type: str
docker_runs:
  description: Whether Docker's unit runs, and does at boot.
  returned: always
  type: bool
"""

import dataclasses
import platform
import shutil
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import (
    Check,
    messages,
)
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._host.requirements import (
    check_disk,
    check_port,
    check_system,
)
from ansible_collections.sparerig.llm.plugins.module_utils._service.spec import (
    CONFIG_DIR,
    OptionError,
    Port,
    check_env,
)


def docker_kind() -> str:
    """Tell how Docker was installed, if it was."""
    if Path("/snap/bin/docker").exists():
        return "snap"
    return (
        "package"
        if shutil.which("dockerd", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
        else "none"
    )


def unit_runs(module: AnsibleModule, unit: str) -> bool:
    """Tell whether a unit runs, and does at boot."""
    if not module.get_bin_path("systemctl"):
        return False  # not one of our systems, as another check says
    wanted = "--property=ActiveState,UnitFileState"
    _status, out, _err = module.run_command(["systemctl", "show", wanted, unit])
    return set(out.split()) == {"ActiveState=active", "UnitFileState=enabled"}


def check_docker(kind: str) -> Check:
    """Refuse Docker from snap: it cannot reach GPUs, nor directories outside its own."""
    expected = "none, or installed from a package"
    if kind != "snap":
        return Check.passed("docker", expected=expected, seen=kind)
    return Check.failed("docker", "docker-from-snap", expected=expected, seen="the docker snap")


def check_published(text: str, unit: str) -> Check:
    """Look at one port to be published, and at how it is written."""
    try:
        port = Port.parse(text)
    except OptionError as error:
        failure = describe("option-invalid", cause=f"{error}.")
        expected = "address:host_port:container_port"
        return Check.failed("port", failure, expected=expected, seen=text)
    return check_port(port.address, port.host_port, f"{CONFIG_DIR}/{unit}.json")


def check_secret(name: str, value: str) -> Check:
    """Refuse a secret that an env file cannot hold, without showing it."""
    step, expected = f"secret {name}", "one line"
    try:
        check_env(name, {"SECRET": value})
    except OptionError:
        cause = f"{name} has a line break in its value, often a stray one at its end."
        failure = describe("option-invalid", cause=cause)
        return Check.failed(step, failure, expected=expected, seen="more than one line")
    return Check.passed(step, expected=expected, seen="one line" if value else "left to the host")


def main() -> None:
    """Look at everything, then say all that is wrong."""
    module = AnsibleModule(
        argument_spec={
            "disk": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "min_free_gib": {"type": "float", "required": True},
                },
            },
            "unit": {"type": "str", "default": ""},
            "published_ports": {"type": "list", "elements": "str", "default": []},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    kind = docker_kind()
    os_release = Path("/etc/os-release").read_text(encoding="utf-8")
    checks = [check_system(os_release, platform.machine()), check_docker(kind)]
    checks += [check_disk(entry["path"], entry["min_free_gib"]) for entry in module.params["disk"]]
    checks += [
        check_published(text, module.params["unit"]) for text in module.params["published_ports"]
    ]
    checks += [
        check_secret(name, "" if value is None else str(value))
        for name, value in module.params["secrets"].items()
    ]
    result: dict[str, t.Any] = {
        "changed": False,
        "checks": [dataclasses.asdict(check) for check in checks],
        "docker": kind,
        "docker_runs": unit_runs(module, "docker.service"),
    }
    wrong = messages(checks)
    if wrong:
        module.fail_json(msg=f"Nothing was changed. {wrong}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
