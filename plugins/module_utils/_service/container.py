# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container that a service runs in, as Docker describes it."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._host.command import CommandTimedOutError

if t.TYPE_CHECKING:
    from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import Evidence
    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host


@dataclass(frozen=True)
class Container:
    """A running container: its first process and its id."""

    pid: int
    id: str


def check_container(host: Host, name: str, evidence: Evidence, timeout: float) -> Container | None:
    """Find the running container whose network the endpoint is asked from."""
    expected = f"container {name} running"
    argv = ["docker", "inspect", "--type", "container", "--format"]
    try:
        answer = host.run(
            [*argv, "{{.State.Pid}} {{.Id}} {{.State.Status}}", name], timeout=timeout
        )
    except CommandTimedOutError as exc:
        evidence.failed("container", "container-unknown", expected=expected, seen=str(exc))
        return None
    if answer is None:
        evidence.failed(
            "container", "container-unknown", expected=expected, seen="no docker command"
        )
        return None
    if not answer.ok:
        gone = re.search(r"No such (object|container)", answer.stderr)
        evidence.failed(
            "container",
            "container-not-running" if gone else "container-unknown",
            expected=expected,
            seen=" ".join(answer.stderr.split()),
        )
        return None
    pid, container_id, status = answer.stdout.split()
    if status != "running" or pid == "0":
        evidence.failed("container", "container-not-running", expected=expected, seen=status)
        return None
    evidence.passed("container", expected=expected, seen=f"running, PID {pid}")
    return Container(int(pid), container_id)
