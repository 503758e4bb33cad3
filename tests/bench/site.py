# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time site.yml on a fresh host: the first run, and later runs beside a play that gathers facts.

``make bench`` runs it. The ratio is of medians of runs taken in turn, so a machine that is slow for
a while is slow for both. At last the host's page and engine are asked the same by many at once.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
import xml.etree.ElementTree as ET
from pathlib import Path

from testbed.hosts import SSH_CONFIG

PROJECT = Path(__file__).parents[2]
HOST = "bench"
ENGINE, PAGE = "sparerig-vllm", "sparerig-open-webui"
ROUNDS = 5
INVENTORY = f"""\
all:
  children:
    gpu_hosts: {{hosts: {{{HOST}: }}}}
    webui_hosts: {{hosts: {{{HOST}: }}}}
  vars: {{ansible_ssh_common_args: -F {SSH_CONFIG} -o ControlPath=~/.cache/sparerig/ssh-%C}}
"""
FACTS = "- name: Gather facts\n  hosts: gpu_hosts\n  gather_facts: true\n"


class Run(t.NamedTuple):
    """One ansible-playbook, by the clock."""

    seconds: float
    tasks: int
    changed: int
    slowest: list[tuple[float, str]]


def testbed(*arguments: str) -> None:
    """Make or remove the host."""
    subprocess.run([sys.executable, "-m", "testbed", *arguments], check=True)


def playbook(inventory: Path, path: Path) -> Run:
    """Run a playbook; read the time of each task from Ansible's own JUnit report."""
    with tempfile.TemporaryDirectory() as reports:
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.junit",
            "JUNIT_OUTPUT_DIR": reports,
            "ANSIBLE_NOCOLOR": "1",
        }
        begin = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", inventory, path],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - begin
        if done.returncode:
            raise SystemExit(f"{path} failed:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
        cases = [
            (float(case.get("time", 0)), str(case.get("name")))
            for report in Path(reports).glob("*.xml")
            for case in ET.parse(report).iter("testcase")  # noqa: S314 - written by Ansible just now
        ]
    recap = re.search(rf"^{HOST}\s+: ok=(\d+)\s+changed=(\d+)", done.stdout, re.MULTILINE)
    ok, changed = map(int, recap.groups()) if recap else (0, 0)
    return Run(seconds, ok, changed, sorted(cases, reverse=True)[:5])


def chats() -> None:
    """Stream chats through the page and past it, from beside both (chats.py)."""
    secrets = [f"--env-file /etc/sparerig/{unit}.secrets.env" for unit in (ENGINE, PAGE)]
    image = f"$(sudo docker inspect --format '{{{{.Image}}}}' {PAGE})"
    command = (
        f"sudo docker run --rm --interactive --network sparerig {' '.join(secrets)}"
        f" --env WEBUI_ADMIN_EMAIL=admin@localhost.localdomain"
        f" --entrypoint python3 {image} - --page http://{PAGE}:8080 --engine http://{ENGINE}:8000/v1"
        f" --model tiny-llama-gptq"
    )
    script = (PROJECT / "tests/bench/chats.py").read_bytes()
    subprocess.run(["ssh", "-F", SSH_CONFIG, HOST, command], input=script, check=True)


def say(name: str, run: Run) -> None:
    """Print a run, and what took longest in it."""
    print(f"{name}: {run.seconds:.1f} s, {run.tasks} tasks, {run.changed} changed")
    for seconds, task in run.slowest:
        print(f"    {seconds:6.1f} s  {re.sub(r'^.*?: ', '', task, count=1)}")


def main() -> None:
    """Measure, and print the figures."""
    testbed("up")
    testbed("host", "down", HOST)
    testbed("host", "up", HOST)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "hosts.yml").write_text(INVENTORY)
        (place / "group_vars").symlink_to(PROJECT / "inventories/demo/group_vars")
        facts_only = place / "facts.yml"
        facts_only.write_text(FACTS)
        say("first run of site.yml", playbook(place, PROJECT / "site.yml"))
        later, facts = [], []
        for _round in range(ROUNDS):
            facts.append(playbook(place, facts_only))
            later.append(playbook(place, PROJECT / "site.yml"))
    say("a later run of site.yml", sorted(later)[ROUNDS // 2])
    site, base = (statistics.median(run.seconds for run in runs) for runs in (later, facts))
    print(f"a play that only gathers facts: {base:.1f} s")
    print(f"ratio: {site / base:.1f} (medians of {ROUNDS} runs each, taken in turn)")
    chats()
    testbed("host", "down", HOST)


if __name__ == "__main__":
    main()
