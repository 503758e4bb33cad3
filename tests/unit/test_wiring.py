# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/vars/wiring.yml: what roles found out, as inputs of others, on other hosts too."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOTICE = "Built with Meta Llama 3"
LLAMA = {"license_notice": NOTICE, "tool_call_parser": ""}
QWEN = {"license_notice": "", "tool_call_parser": "hermes"}
NOT_FOUND = {"license_notice": ""}  # in check mode, where no model is chosen yet
SKIPPED = {"skipped": True}
NOT_THERE = {"failed": True, "msg": "file not found"}


def read(plan: dict[str, str]) -> dict[str, str]:
    """Answer as slurp does."""
    return {"content": base64.b64encode(json.dumps(plan).encode()).decode()}


# The page's host by name, then its engines: the plan of this run, and what was read from the host.
PAGES: dict[str, list[tuple[dict[str, str] | None, t.Mapping[str, t.Any]]]] = {
    "in-this-run": [(LLAMA, SKIPPED)],
    "left-out": [(None, read(LLAMA))],
    "both": [(LLAMA, SKIPPED), (None, read(LLAMA))],
    "nothing-to-show": [(None, read(QWEN)), (QWEN, SKIPPED)],
    "not-planned": [(None, NOT_THERE), (None, read(LLAMA))],
    "elsewhere": [],
    "not-yet-known": [(NOT_FOUND, SKIPPED)],
    "alone": [(LLAMA, SKIPPED)],
    "alone-left-out": [(None, read(LLAMA))],
    "alone-not-planned": [(None, NOT_THERE)],
    "two-without": [(LLAMA, SKIPPED), (None, read(LLAMA))],
    "one-of-two": [(LLAMA, SKIPPED), (None, read(QWEN))],
}
# Pages that have no other engine than these; the others have one that nobody here runs.
OURS = {
    "not-yet-known",
    "alone",
    "alone-left-out",
    "alone-not-planned",
    "two-without",
    "one-of-two",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, t.Any]]:
    """Let Ansible work out each page's notices and tools, in one play over all of them."""
    folder = tmp_path_factory.mktemp("play")
    hosts: dict[str, t.Any] = {}
    for page, engines in PAGES.items():
        upstreams: list[dict[str, str]] = []
        if page not in OURS:
            upstreams.append({"url": "http://elsewhere/v1", "api_key": "none"})
        for number, (plan, _unused) in enumerate(engines):
            name = f"{page}-engine-{number}"
            hosts[name] = {"model_plan": plan} if plan else {}
            upstreams.append({"url": f"http://{name}/v1", "host": name})
        results = [answer for _unused, answer in engines]
        hosts[page] = {"open_webui_upstreams": upstreams, "other_engines": {"results": results}}
    play = {
        "hosts": ",".join(PAGES),
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks/vars/wiring.yml")],
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ {'notices': open_webui_license_notices, 'tools': open_webui_tools} | to_json }}",
                    "dest": str(folder / "{{ inventory_hostname }}.json"),
                    "mode": "0600",
                }
            }
        ],
    }
    inventory = {"all": {"hosts": hosts, "vars": {"ansible_python_interpreter": sys.executable}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    (folder / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    program = Path(sys.executable).with_name("ansible-playbook")
    ran = subprocess.run(
        [program, folder / "play.yml", "-i", folder / "hosts.yml"],
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {page: json.loads((folder / f"{page}.json").read_text()) for page in PAGES}


@pytest.mark.parametrize(
    ("page", "notices"),
    [
        ("in-this-run", [NOTICE]),
        ("left-out", [NOTICE]),
        ("both", [NOTICE, NOTICE]),
        ("nothing-to-show", ["", ""]),
        ("not-planned", [NOTICE]),
        ("elsewhere", []),
    ],
)
def test_the_page_shows_what_its_engines_licenses_want(
    shown: dict[str, dict[str, t.Any]], page: str, notices: list[str]
) -> None:
    assert shown[page]["notices"] == notices


@pytest.mark.parametrize(
    ("page", "offered"),
    [
        ("alone", False),
        ("alone-left-out", False),
        ("two-without", False),
        ("one-of-two", True),
        ("nothing-to-show", True),
        # not ours to know
        ("alone-not-planned", True),
        ("not-yet-known", True),
        ("in-this-run", True),
        ("elsewhere", True),
    ],
)
def test_the_page_offers_tools_where_an_engine_may_take_them(
    shown: dict[str, dict[str, t.Any]],
    page: str,
    *,
    offered: bool,
) -> None:
    assert shown[page]["tools"] is offered


def test_the_wiring_gives_options_that_there_are() -> None:
    wiring = yaml.safe_load((ROOT / "playbooks/vars/wiring.yml").read_text(encoding="utf-8"))
    options = set()
    for file in ROOT.glob("roles/*/meta/argument_specs.yml"):
        options |= set(yaml.safe_load(file.read_text("utf-8"))["argument_specs"]["main"]["options"])
    assert set(wiring) - options == {"sparerig_gpu", "sparerig_engine_plans"}
