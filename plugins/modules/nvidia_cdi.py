#!/usr/bin/python
# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the description right by which Docker hands NVIDIA cards to containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_cdi
short_description: Keep the description right by which Docker hands NVIDIA cards to containers
version_added: 1.0.0
author: [The sparerig maintainers (@sparerig)]
description:
  - Writes the CDI specification of the host's NVIDIA cards if there is none, if it is of another driver than the installed one,
    or if it names files that are gone.
  - Switches the toolkit's own unit on, which renews the specification at every boot and after every change of the driver.
  - On request, starts a container to see whether it finds the card.
  - With O(state=absent), switches the unit off and removes the specification that it wrote; do this before the toolkit is removed.
extends_documentation_fragment: [sparerig.llm.attributes]
attributes:
  check_mode:
    support: full
    details: In check mode no container is started.
  diff_mode:
    support: none
    details: The specification is some hundred lines that no one wrote.
  idempotent:
    support: full
options:
  state:
    description: Whether cards are described to Docker.
    type: str
    choices: [present, absent]
    default: present
  test_image:
    description: An image in which C(nvidia-smi -L) has to list a card; empty to start no container.
    type: str
    default: ""
  timeout:
    description: How long the container may take, in seconds.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Describe the cards to Docker, and see whether a container finds them
  sparerig.llm.nvidia_cdi:
    test_image: docker.io/vllm/vllm-openai:v0.33.0
"""

RETURN = r"""
failure:
  description: Identifier of the failure, as in C(docs/failures.md).
  returned: when a program of the toolkit fails
  type: str
  sample: cdi-not-refreshed
checks:
  description: Everything looked at, in order, also when the module fails.
  returned: when O(state=present)
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
      description: Identifier of the failure, as in C(docs/failures.md); empty where there is none.
      type: str
    cause:
      description: Why it is not right.
      type: str
    remedy:
      description: What to do about it.
      type: str
written_because:
  description: Why the specification was written anew; empty when it was not.
  returned: when O(state=present)
  type: str
docker_reads_cdi:
  description: Whether Docker takes CDI devices; null when it does not answer.
  returned: when O(state=present)
  type: bool
"""

import dataclasses
import os
import typing as t
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import (
    Check,
    messages,
)
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._driver.cdi import (
    EVERY_CARD,
    SPECIFICATIONS,
    docker_reads_cdi,
    judge_container,
    judge_devices,
    judge_docker,
    judge_specification,
    read_specification,
    staleness,
)
from ansible_collections.sparerig.llm.plugins.module_utils._driver.state import read_loaded
from ansible_collections.sparerig.llm.plugins.module_utils._host.command import (
    Answer,
    CommandTimedOutError,
    kernel_host,
)

UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")


class Toolkit:
    """The toolkit on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.host = kernel_host()

    def call(self, *argv: str, timeout: float = 60.0) -> Answer | None:
        """Run a program; None when there is no such program."""
        try:
            return self.host.run(argv, timeout=timeout)
        except CommandTimedOutError as error:
            self.module.fail_json(msg=f"{error}.")

    def stale(self) -> str:
        """Say why the specification has to be written anew; empty when it need not."""
        specification = read_specification(self.host)
        files = specification.files if specification else ()
        there = [file for file in files if os.path.lexists(file)]
        return staleness(specification, read_loaded(self.host).library, there)

    def switched_off(self) -> list[str]:
        """List those of the toolkit's units that do not start by themselves."""
        return [unit for unit in UNITS if not self.starts(unit)]

    def starts(self, unit: str) -> bool:
        """Tell whether a unit starts by itself."""
        answer = self.call("systemctl", "is-enabled", unit)
        return answer is not None and answer.stdout.strip() == "enabled"

    def remove(self) -> bool:
        """Switch the units off and remove what they wrote; say whether there was any of it."""
        on = [unit for unit in UNITS if self.starts(unit)]
        written = Path(SPECIFICATIONS[0])
        there = written.exists()
        if not self.module.check_mode:
            if on:
                self.must("systemctl", "disable", "--now", *on)
            written.unlink(missing_ok=True)
        return bool(on) or there

    def must(self, *argv: str) -> None:
        """Run a program that has to succeed."""
        answer = self.call(*argv)
        if answer is None or not answer.ok:
            said = answer.stderr.strip() if answer else "there is no such program"
            known = describe("cdi-not-refreshed", cause=f"`{' '.join(argv)}` failed: {said}.")
            self.module.fail_json(msg=known.message(), failure=known.id)

    def checks(self, stale: str) -> list[Check]:
        """Look at what came of it: the specification, its devices, Docker, a container."""
        found = [judge_specification(stale)]
        listed = self.call("nvidia-ctk", "cdi", "list")
        found.append(judge_devices(listed.stdout if listed else ""))
        info = self.call("docker", "info", "--format", "{{json .}}")
        found.append(judge_docker(docker_reads_cdi(info)))
        return found

    def try_container(self) -> Check:
        """Ask a container with all cards which ones it finds."""
        image = self.module.params["test_image"]
        answer = self.call(
            "docker", "run", "--rm", "--network=none", f"--device={EVERY_CARD}",
            "--entrypoint=nvidia-smi", image, "-L",
            timeout=self.module.params["timeout"],
        )  # fmt: skip
        return judge_container(image, answer or Answer(127, "", "there is no program docker"))


def main() -> None:
    """Write the specification if it has to be, then look whether it does."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "test_image": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    toolkit = Toolkit(module)
    if module.params["state"] == "absent":
        module.exit_json(changed=toolkit.remove())
    off, stale = toolkit.switched_off(), toolkit.stale()
    result: dict[str, t.Any] = {"changed": bool(off or stale), "written_because": stale}
    if module.check_mode:
        module.exit_json(checks=[], docker_reads_cdi=None, **result)
    if off:
        toolkit.must("systemctl", "enable", "--now", *UNITS)
    if stale:
        toolkit.must("systemctl", "restart", UNITS[1])
    checks = toolkit.checks(toolkit.stale() if stale else "")
    docker = {"pass": True, "fail": False}.get(checks[-1].status)
    # Docker that does not read CDI yet is for the caller to switch over, and no failure here.
    if module.params["test_image"] and docker is not False:
        checks.append(toolkit.try_container())
    result |= {
        "checks": [dataclasses.asdict(check) for check in checks],
        "docker_reads_cdi": docker,
    }
    wrong = messages(check for check in checks if check.name != "docker")
    if wrong:
        module.fail_json(msg=wrong, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
