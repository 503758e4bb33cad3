# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles keep their contracts: what can be set is documented, and only that is used."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from jinja2 import Environment, nodes

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.parent.name for path in (ROOT / "roles").glob("*/tasks"))

# Variables without a role's prefix that roles may read.
SHARED = {
    "sparerig_device",  # the one switch between an NVIDIA card and the processor
    "sparerig_model",  # what to serve: auto, an id of the catalogue, a repository, a directory
    "sparerig_engine_unit",  # the engine's unit, and its name for the page
    "sparerig_engine_network",  # the private network of the engine, which the page joins
    "inventory_hostname",
    "groups",
    "hostvars",
    "item",
    "omit",
    "lookup",
    "ansible_check_mode",
    "ansible_managed",
    "ansible_playbook_python",
}


def load(path: Path) -> t.Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


def specs(role: str) -> dict[str, t.Any]:
    found = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")
    assert found, f"{role} has no meta/argument_specs.yml"
    entry_points: dict[str, t.Any] = found["argument_specs"]
    return entry_points


def defaults(role: str) -> dict[str, t.Any]:
    return load(ROOT / "roles" / role / "defaults" / "main.yml") or {}


def is_template(value: t.Any) -> bool:
    return "{{" in str(value)


@pytest.mark.parametrize("role", ROLES)
def test_files(role: str) -> None:
    folder = ROOT / "roles" / role
    for file in ("README.md", "meta/main.yml", "meta/argument_specs.yml", "defaults/main.yml"):
        assert (folder / file).is_file(), f"{role} has no {file}"


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_has_an_example_that_works(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (play,) = yaml.safe_load(example)
    (used,) = play["roles"]
    assert used["role"] == f"sparerig.llm.{role}"
    options = specs(role)["main"]["options"]
    given = ArgumentSpecValidator(options).validate(used["vars"])
    assert not given.error_messages


PHASES = ("preflight", "install", "configure", "run", "verify", "remove")


@pytest.mark.parametrize("role", ROLES)
def test_tasks_are_cut_by_phases(role: str) -> None:
    folder = ROOT / "roles" / role / "tasks"
    for task in load(folder / "main.yml"):
        (included,) = [
            value if isinstance(value, str) else value["file"]
            for name, value in task.items()
            if name in {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"}
        ]
        tags = [task["tags"]] if isinstance(task["tags"], str) else task["tags"]
        if tags != ["always"]:  # what the other phases need to know
            assert included.removesuffix(".yml") in PHASES
            assert included.removesuffix(".yml") == tags[0]
            assert set(tags) <= set(PHASES)


@pytest.mark.parametrize("role", ROLES)
def test_options_are_the_defaults(role: str) -> None:
    options, values = specs(role)["main"].get("options", {}), defaults(role)
    required = {name for name, option in options.items() if option.get("required")}
    undocumented = set(values) - set(options)
    assert not undocumented, (
        f"in defaults/main.yml and not in meta/argument_specs.yml: {undocumented}"
    )
    # An option without a default stands in defaults/main.yml as a comment, to be found there.
    text = (ROOT / "roles" / role / "defaults" / "main.yml").read_text(encoding="utf-8")
    commented = set(re.findall(r"^# ?(\w+):", text, re.MULTILINE))
    missing = set(options) - set(values) - required - commented
    assert not missing, f"in meta/argument_specs.yml and not in defaults/main.yml: {missing}"


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_told_right(role: str) -> None:
    values = defaults(role)
    for name, option in specs(role)["main"].get("options", {}).items():
        assert option.get("description"), f"{name} has no description"
        assert option.get("type"), f"{name} has no type"
        if name not in values or is_template(values[name]):
            continue
        assert "default" in option, f"{name} has the default {values[name]!r}, and none is told"
        assert option["default"] == values[name], f"{name}: told {option['default']!r}"


def test_the_driver_is_checked_against_the_image_that_runs() -> None:
    pinned = load(ROOT / "roles" / "vllm" / "vars" / "main.yml")["__vllm_devices"]["cuda"]["image"]
    wiring = load(ROOT / "playbooks" / "vars" / "wiring.yml")
    assert f"default('{pinned}')" in wiring["nvidia_driver_for_image"]


def test_the_plan_is_made_for_the_image_that_runs() -> None:
    devices = load(ROOT / "roles" / "vllm" / "vars" / "main.yml")["__vllm_devices"]
    wired = load(ROOT / "playbooks" / "vars" / "wiring.yml")["model_vllm_image"]
    assert f"default('{devices['cpu']['image']}')" in wired
    assert "nvidia_driver_for_image if sparerig_gpu" in wired


@pytest.mark.parametrize("role", ROLES)
def test_entry_points(role: str) -> None:
    for entry_point in specs(role):
        assert (ROOT / "roles" / role / "tasks" / f"{entry_point}.yml").is_file()


def uses(node: t.Any) -> t.Iterator[dict[str, t.Any]]:
    """Find what includes a role with tasks_from, however deep."""
    if isinstance(node, dict):
        if "tasks_from" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from uses(part)


def test_entry_points_that_are_used_exist() -> None:
    files = [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]
    used = [(file, use) for file in files for use in uses(load(file))]
    assert used
    for file, use in used:
        role = use["name"].removeprefix("sparerig.llm.")
        entry_point = use["tasks_from"].removesuffix(".yml")
        assert entry_point in specs(role), f"{file} uses {role}: {entry_point}, which has no spec"


def templates(node: t.Any) -> t.Iterator[str]:
    """Find everything in a YAML file that is or holds an expression."""
    if isinstance(node, dict):
        for key, value in node.items():
            conditions = value if isinstance(value, list) else [value]
            if key in {"when", "changed_when", "failed_when", "until", "that"}:
                yield from (f"{{{{ {condition} }}}}" for condition in conditions)
            else:
                yield from templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from templates(value)
    elif is_template(node):
        yield node


def names_in(template: str) -> set[str]:
    """Find the variables that a template reads."""
    names = list(Environment(autoescape=True).parse(template).find_all(nodes.Name))
    own = {name.name for name in names if name.ctx != "load"}
    return {name.name for name in names} - own


def local_names(node: t.Any) -> set[str]:
    """Find the variables of loops and of ``vars`` within a task file."""
    names: set[str] = set()
    if isinstance(node, dict):
        names |= set(node.get("vars") or {}) if isinstance(node.get("vars"), dict) else set()
        loop = node.get("loop_control")
        names |= {loop["loop_var"]} if isinstance(loop, dict) and "loop_var" in loop else set()
        names |= {node["register"]} if "register" in node else set()
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            names |= local_names(part)
    return names


def variables(role: str) -> t.Iterator[tuple[Path, str]]:
    """Find each variable that a role reads or sets, with the file."""
    folder = ROOT / "roles" / role
    for file in sorted([*folder.glob("*/*.yml"), *folder.glob("templates/*.j2")]):
        if file.parent.name == "meta":
            continue
        if file.suffix == ".j2":
            names = names_in(file.read_text(encoding="utf-8"))
        else:
            content = load(file)
            names = set().union(local_names(content), *map(names_in, templates(content)))
            if file.parent.name in {"vars", "defaults"}:
                names |= set(content or {})
        yield from ((file, name) for name in sorted(names))


@pytest.mark.parametrize("role", ROLES)
def test_variables_bear_the_name_of_their_role(role: str) -> None:
    strange = {
        f"{file.relative_to(ROOT)}: {name}"
        for file, name in variables(role)
        if not name.startswith((f"{role}_", f"__{role}_")) and name not in SHARED
    }
    assert not strange


@pytest.mark.parametrize("role", ROLES)
def test_a_default_does_not_depend_on_what_the_role_found_out(role: str) -> None:
    folder = ROOT / "roles" / role
    found_out = set().union(*(registered(load(file)) for file in folder.glob("tasks/*.yml")))
    for name, value in defaults(role).items():
        read = set().union(*map(names_in, templates([value])))
        assert not read & found_out, f"{name} reads what a task registers: {read & found_out}"
        assert name not in read, f"{name} reads its own former value"


def registered(node: t.Any) -> set[str]:
    """Find the variables that tasks register, however deep."""
    names: set[str] = set()
    if isinstance(node, dict):
        names |= {node["register"]} if "register" in node else set()
        node = list(node.values())
    if isinstance(node, list):
        names = names.union(*(registered(part) for part in node))
    return names


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_used(role: str) -> None:
    files = [*(ROOT / "roles" / role).glob("*/*.yml"), *(ROOT / "roles" / role).glob("*/*.j2")]
    text = "".join(file.read_text(encoding="utf-8") for file in files if file.parent.name != "meta")
    # Comments and the lines that give the options their values are no use of them.
    used = set(re.findall(r"\w+", re.sub(r"^(#.*|\w+:)", "", text, flags=re.MULTILINE)))
    unused = set(specs(role)["main"].get("options", {})) - used
    assert not unused, f"{unused} can be set, and nothing reads it"
