# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/architecture.md is true: the floors of the packages, and the path of one choice."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._service.spec import (
    Network,
    Spec,
    render_config,
)
from ansible_collections.sparerig.llm.plugins.module_utils._service.supervisor import Config

ROOT = Path(__file__).parents[2]
UTILS = ROOT / "plugins" / "module_utils"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HERE = "ansible_collections.sparerig.llm.plugins.module_utils."


# --- packages ---------------------------------------------------------------------------------


def floors() -> dict[str, int]:
    rows = re.findall(r"^\| (\d) \| `(_\w+)` \|", PAGE, re.MULTILINE)
    return {package: int(floor) for floor, package in rows}


def imported(file: Path) -> set[str]:
    """Find the modules of ours that a module imports, at its top or deeper, also for typing."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(HERE):
            name = (node.module or "").removeprefix(HERE)
            inside = [f"{name}.{alias.name}" for alias in node.names]
            found |= {part if is_module(part) else name for part in inside}
    return found


def is_module(name: str) -> bool:
    return (UTILS / name.replace(".", "/")).with_suffix(".py").is_file()


def graph() -> dict[str, set[str]]:
    files = [file for file in UTILS.rglob("*.py") if file.name != "__init__.py"]
    return {
        ".".join(file.relative_to(UTILS).with_suffix("").parts): imported(file) for file in files
    }


def test_every_package_has_its_floor() -> None:
    assert set(floors()) == {path.parent.name for path in UTILS.glob("_*/__init__.py")}
    assert sorted(floors(), key=lambda package: floors()[package])[:2] == ["_checks", "_host"]


def test_a_package_imports_from_lower_floors_only() -> None:
    edges = [(module, other) for module, others in graph().items() for other in others]
    assert len(edges) > 50
    floor = floors()
    upward = [
        f"{module} imports {other}"
        for module, other in edges
        if (above := module.partition(".")[0]) != (below := other.partition(".")[0])
        and floor[above] <= floor[below]
    ]
    assert not upward


def test_no_module_imports_itself_by_a_detour() -> None:
    rest = graph()
    while free := {module for module, others in rest.items() if not others & set(rest)}:
        rest = {module: others for module, others in rest.items() if module not in free}
    assert not rest


# --- the path of one choice -------------------------------------------------------------------

HOP = re.compile(r"^\| (\d) \| ([\w./]+) \| (?:`([^`]+)` )?\| `([^`]+)` \|$", re.MULTILINE)


def paths() -> list[list[tuple[str, str, str]]]:
    """Read the tables of hops: place, what it takes, what it gives."""
    found: list[list[tuple[str, str, str]]] = []
    for number, place, takes, gives in HOP.findall(PAGE):
        if number == "1":
            found.append([])
        found[-1].append((place, takes, gives))
        assert len(found[-1]) == int(number)
    return found


def text_of(place: Path) -> str:
    files = (
        [place] if place.is_file() else [f for f in place.rglob("*") if f.suffix in {".py", ".yml"}]
    )
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize("path", paths(), ids=[path[0][2] for path in paths()])
def test_each_hop_takes_what_the_one_before_gives(path: list[tuple[str, str, str]]) -> None:
    assert len(path) == 6
    for (_place, _takes, gives), (_next, takes, _gives) in itertools.pairwise(path):
        assert takes == gives
    for place, takes, gives in path:
        text = text_of(ROOT / place)
        for name in (takes, gives) if place != path[-1][0] else (takes,):
            assert not name or re.search(rf"\b{name}\b", text), f"{place} does not name {name}"


PLAY = {
    "hosts": "studio",
    "connection": "local",
    "gather_facts": False,
    "vars_files": [
        # What the role vllm has by itself; the wiring wins, as it does in the playbooks.
        str(ROOT / "roles/vllm/defaults/main.yml"),
        str(ROOT / "roles/vllm/vars/main.yml"),
        str(ROOT / "playbooks/vars/wiring.yml"),
    ],
}


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Take the shipped inventory all the way, to what the unit's supervisor runs."""
    folder = tmp_path_factory.mktemp("play")
    tasks = yaml.safe_load((ROOT / "roles/vllm/tasks/run.yml").read_text(encoding="utf-8"))
    (settings,) = [task["sparerig.llm.container_service"] for task in tasks]
    play = PLAY | {
        "tasks": [
            {
                "ansible.builtin.include_role": {
                    "name": "sparerig.llm.model",
                    "tasks_from": "plan",
                },
            },
            {
                "ansible.builtin.copy": {
                    "content": "{{ settings | to_json }}",
                    "dest": str(folder / "settings.json"),
                    "mode": "0600",
                },
                "vars": {"settings": settings},
            },
        ]
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
    facts = {
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "sparerig_device": "cpu",
        "model_plan_file": str(folder / "plan.json"),
        "model_root": str(folder / "models"),
    }
    ran = subprocess.run(
        [
            *(Path(sys.executable).with_name("ansible-playbook"), folder / "play.yml"),
            *("-i", ROOT / "inventories/fleet", "-e", json.dumps(facts)),
        ],
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    given = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    empty: dict[str, t.Any] = {field.name: [] for field in dataclasses.fields(Spec)}
    given["networks"] = [Network(**network) for network in given["networks"]]
    known = {name: value for name, value in given.items() if name in empty}
    (folder / "config.json").write_text(render_config(Spec(**(empty | known)), "sha256:1"))
    return Config.load(str(folder / "config.json")).create[0]


def test_the_context_of_the_inventory_reaches_the_command_line(argv: list[str]) -> None:
    inventory = yaml.safe_load((ROOT / "inventories/fleet/hosts.yml").read_text(encoding="utf-8"))
    context = inventory["all"]["children"]["gpu_hosts"]["hosts"]["studio"]["model_context"]
    assert context != 8192, "the planner's default would be there as well"
    assert argv[argv.index("--max-model-len") + 1] == str(context)
    assert f"docker create ... vllm serve --max-model-len {context}" in PAGE


def test_the_model_of_the_inventory_reaches_the_command_line(argv: list[str]) -> None:
    model = catalogue.smallest()  # what auto is on a processor
    folder = f"models/{model.repository.replace('/', '--')}/{model.commit}"
    name = model.repository.rpartition("/")[2]
    assert any(
        word.startswith("--volume=") and word.endswith(f"{folder}:/models/{name}:ro")
        for word in argv
    )
    assert argv[argv.index("serve") + 1] == f"/models/{name}"
    assert argv[argv.index("--served-model-name") + 1] == name
    assert argv[argv.index("--tool-call-parser") + 1] == model.tool_parser
