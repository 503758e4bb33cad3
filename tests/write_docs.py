# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/reference.md, docs/failures.md, and the tables of docs/testbed.md and of vLLM's start.

``python tests/write_docs.py`` writes them; with ``--check`` it fails when they are out of date.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    FAILURES,
    SECTIONS,
    Failure,
    commands,
    describe,
    page,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.log import IDENTIFIERS
from testbed import upstream

if t.TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]
# The order in which a host meets them; a role that is not listed comes after these.
ROAD = (
    "nvidia_driver", "docker_engine", "nvidia_container_toolkit", "cuda_toolkit",
    "model", "vllm", "open_webui",
)  # fmt: skip

MADE_BY = "<!-- Made by `make docs`: do not edit. {source} -->\n"

REFERENCE = """\
# Reference

Every option of every role, with its default, and the modules. The same text is in the terminal:
`ansible-doc -t role sparerig.llm.vllm`, `ansible-doc sparerig.llm.inference_health`. Set options in the inventory
([getting started](getting-started.md)); a wrong value stops the play before the first change.

"""

FAILURES_HEAD = """\
# When something fails

Every message says `TITLE (IDENTIFIER): CAUSE Remedy: REMEDY`. These are all identifiers; those with a link have a page of
their own. Commands are typed on the host, shown here with the usual names of our services;
`ansible-playbook playbooks/verify.yml -i inventories/home` looks for most of what can be wrong, and changes nothing. Why vLLM
itself did not start is explained [on a page of its own](when-vllm-does-not-start.md).

"""

TABLE = "| identifier | what happened | likely cause | remedy |\n|---|---|---|---|\n"
# Between these two lines of a page stands a table that is made.
BEGIN, END = "<!-- The table is made by `make docs`. -->\n", "<!-- End of the table. -->\n"
START_PAGE = "docs/when-vllm-does-not-start.md"
# Beside what vLLM's log tells, a service can fail to start in these ways.
START_SECTION = "The start of a service"

# Ansible's semantic markup, and what it is in Markdown.
MARKUP = (
    (r"\b(?:RV|[OVCE])\(((?:\\.|[^)\\])*)\)", r"`\1`"),
    (r"\b[MP]\(([^)#]*)(?:#\w+)?\)", r"`\1`"),
    (r"\bB\(([^)]*)\)", r"**\1**"),
    (r"\bI\(([^)]*)\)", r"*\1*"),
    (r"\bL\(([^,]*), *([^)]*)\)", r"[\1](\2)"),
    (r"\bU\(([^)]*)\)", r"<\1>"),
    (r"\\([)\\])", r"\1"),
)


def markdown(text: str) -> str:
    """Turn Ansible's semantic markup into Markdown."""
    for markup, replacement in MARKUP:
        text = re.sub(markup, replacement, text)
    return text


def paragraph(text: str | list[str]) -> str:
    """Return a description in one line."""
    parts = [text] if isinstance(text, str) else text
    return markdown(" ".join(" ".join(part.split()) for part in parts))


def cell(text: str) -> str:
    """Return what may stand in a table's cell."""
    return text.replace("|", "\\|")


def type_of(option: dict[str, t.Any]) -> str:
    """Name an option's type, and what is in it."""
    elements = f" of {option['elements']}" if "elements" in option else ""
    choices = ", ".join(f"`{choice}`" for choice in option.get("choices", []))
    return f"{option['type']}{elements}" + (f": {choices}" if choices else "")


def default_of(option: dict[str, t.Any]) -> str:
    """Show an option's default as it would be written in an inventory."""
    if option.get("required"):
        return "*required*"
    if "default" not in option:
        return ""
    value = option["default"]
    plain = isinstance(value, str) and value
    return f"`{value if plain else json.dumps(value, ensure_ascii=False)}`"


def options_table(options: dict[str, t.Any]) -> str:
    """Return the options of a role, those within others below them."""
    lines = ["| option | type | default | what it is |", "|---|---|---|---|"]

    def add(options: dict[str, t.Any], above: str) -> None:
        for name, option in options.items():
            path = f"{above}{name}"
            cells = (type_of(option), default_of(option), paragraph(option["description"]))
            lines.append(f"| `{path}` | " + " | ".join(cell(text) for text in cells) + " |")
            add(option.get("options", {}), f"{path}.")

    add(options, "")
    return "\n".join(lines) + "\n"


def roles() -> list[str]:
    """Return the roles in the order of the road."""
    names = {path.parents[1].name for path in ROOT.glob("roles/*/meta/argument_specs.yml")}
    return sorted(names, key=lambda name: (ROAD.index(name) if name in ROAD else len(ROAD), name))


def role_section(name: str) -> str:
    """Describe one role."""
    file = ROOT / "roles" / name / "meta" / "argument_specs.yml"
    specs = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]
    main = specs["main"]
    text = f"## {name}\n\n{paragraph(main['short_description'])}.\n\n"
    text += "".join(f"{paragraph(part)}\n\n" for part in main.get("description", []))
    others = {entry: spec for entry, spec in specs.items() if entry != "main"}
    if others:
        text += "Also, by `tasks_from`: " + "; ".join(
            f"`{entry}` ({paragraph(spec['short_description'])})" for entry, spec in others.items()
        ) + ".\n\n"  # fmt: skip
    return text + (options_table(main["options"]) if main.get("options") else "No options.\n")


def modules_table() -> str:
    """List modules and filters, each in a line."""
    lines = []
    for kind, folder in (("module", "modules"), ("filter", "filter")):
        files = sorted((ROOT / "plugins" / folder).iterdir())
        names = [
            f"sparerig.llm.{file.stem}"
            for file in files
            if file.suffix in {".py", ".yml"} and (kind == "module" or file.suffix == ".yml")
        ]
        command = ["ansible-doc", "--type", kind, "--json", *names]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        known = json.loads(said)
        lines += [
            f"| `{name}` | {kind} | {cell(paragraph(known[name]['doc']['short_description']))} |"
            for name in names
        ]
    return "\n".join(["| name | kind | what it does |", "|---|---|---|", *lines]) + "\n"


def reference() -> str:
    """Return docs/reference.md."""
    head = MADE_BY.format(source="The sources are roles/*/meta/argument_specs.yml and plugins/.")
    contents = "".join(f"- [{name}](#{name})\n" for name in roles())
    sections = "\n".join(role_section(name) for name in roles())
    plugins = (
        "## Modules and filters\n\nEach is useful by itself. `ansible-doc NAME` tells its options, "
        f"examples and what it returns.\n\n{modules_table()}"
    )
    listed = f"{contents}- [Modules and filters](#modules-and-filters)\n"
    return f"{head}{REFERENCE}{listed}\n{sections}\n{plugins}"


def failures() -> str:
    """Return docs/failures.md: all failures, section by section."""
    head = MADE_BY.format(source="The source is plugins/module_utils/_checks/failures.py.")
    tables = "\n".join(
        f"## {title}\n\n{failures_table(section)}" for title, section in SECTIONS.items()
    )
    return f"{head}{FAILURES_HEAD}{tables}"


def failures_table(listed: Iterable[Failure]) -> str:
    """Return a table of failures, a line for each."""
    lines = []
    for failure in listed:
        name = f"`{failure.id}`"
        if failure.page:
            name = f"[{failure.id}]({page(failure.id).removeprefix('docs/')})"
        typed = "<br>".join(f"`{cell(command)}`" for command in commands(failure))
        advice = describe(failure.id).remedy.removesuffix(f" See {page(failure.id)}.")
        shown = "; ".join(f"`{command}`" for command in commands(failure))
        advice = advice.removeprefix(f"{shown}." if shown else "").strip()
        fixed = "<br>".join(part for part in (typed, cell(advice)) if part)
        lines.append(
            f"| {name} | {cell(failure.title)} | {cell(describe(failure.id).cause)} | {fixed} |"
        )
    return TABLE + "\n".join(lines) + "\n"


def start_page() -> str:
    """Return the page about vLLM's start, with its table as it has to be."""
    before, _begin, rest = (ROOT / START_PAGE).read_text(encoding="utf-8").partition(BEGIN)
    _table, _end, after = rest.partition(END)
    names = dict.fromkeys([*IDENTIFIERS, *(failure.id for failure in SECTIONS[START_SECTION])])
    return f"{before}{BEGIN}{failures_table(FAILURES[name] for name in names)}{END}{after}"


def testbed() -> str:
    """Return docs/testbed.md with the tables of the official images anew."""
    text = (ROOT / "docs" / "testbed.md").read_text(encoding="utf-8")
    block = re.compile(
        r"(?<=<!-- official images: begin)([^\n]*\n).*(?=<!-- official images: end -->)", re.DOTALL
    )
    new, count = block.subn(lambda match: f"{match[1]}\n{upstream.tables()}\n", text)
    if count != 1:
        sys.exit("docs/testbed.md lacks its two comments named official images: bring them back")
    return new


def main() -> int:
    """Write the pages, or tell which are out of date."""
    pages = {
        "docs/reference.md": reference(),
        "docs/failures.md": failures(),
        START_PAGE: start_page(),
        "docs/testbed.md": testbed(),
    }
    stale = []
    for path, text in pages.items():
        file = ROOT / path
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"out of date: {', '.join(stale)}. `make docs` writes them anew.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
