# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/reference.md, docs/failures.md and the tables of docs/testbed.md from their sources.

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
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import FAILURES
from testbed import upstream

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

A failed check says its name, what was expected, what was seen, and the command that fixes it. These are the names, in the
order in which they are looked for. `ansible-playbook playbooks/verify.yml -i inventories/home` looks for them; it changes
nothing. Why vLLM itself did not start is [a page of its own](when-vllm-does-not-start.md).

| name | what it means | likely cause | remedy |
|---|---|---|---|
"""

# What stands for the usual addresses and units in the commands of the table.
USUAL = {
    "unit": "sparerig-vllm",
    "web_unit": "sparerig-open-webui",
    "url": "http://127.0.0.1:8000",
    "web_url": "http://127.0.0.1:8080",
}


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
    """Return docs/failures.md."""
    head = MADE_BY.format(source="The source is plugins/module_utils/_checks/failures.py.")
    lines = [
        f"| `{failure.id}` | {cell(failure.title)} | {cell(failure.cause)} | {remedy(failure.remedy)} |"
        for failure in FAILURES.values()
    ]
    return f"{head}{FAILURES_HEAD}" + "\n".join(lines) + "\n"


def remedy(text: str) -> str:
    """Show commands as such, and sentences as they are."""
    text = text.format_map(USUAL)
    if re.match(r"[A-Z][a-z]+ ", text):
        return cell(text)
    return "<br>".join(f"`{cell(command)}`" for command in text.split("; "))


def testbed() -> str:
    """Return docs/testbed.md with the tables of the official images anew."""
    page = (ROOT / "docs" / "testbed.md").read_text(encoding="utf-8")
    block = re.compile(
        r"(?<=<!-- official images: begin)([^\n]*\n).*(?=<!-- official images: end -->)", re.DOTALL
    )
    new, count = block.subn(lambda match: f"{match[1]}\n{upstream.tables()}\n", page)
    if count != 1:
        sys.exit("docs/testbed.md lacks its two comments named official images: bring them back")
    return new


def main() -> int:
    """Write the pages, or tell which are out of date."""
    pages = {
        "docs/reference.md": reference(),
        "docs/failures.md": failures(),
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
