# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of failures: complete, used, filled in, and said in one form."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.sparerig.llm.plugins.module_utils._checks import failures
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    FAILURES,
    SECTIONS,
    WORDS,
    Failure,
    UnknownFailureError,
    describe,
    named,
    placeholders,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[5]
REGISTRY = PROJECT / "plugins/module_utils/_checks/failures.py"
IDENTIFIER = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Functions that take an identifier, and as which of their arguments.
TAKERS = {
    "describe": 0, "_failure": 0, "fail": 0, "SnapshotError": 0, "_Rule": 0, "NotPassedError": 0,
    "ParserError": 0,
    "failed": 1, "verdict": 1, "stop": 1,
}  # fmt: skip
ALL = [failure for section in SECTIONS.values() for failure in section]


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Return the code of all plugins but the registry itself."""
    for path in sorted(PROJECT.glob("plugins/**/*.py")):
        if path != REGISTRY:
            yield str(path.relative_to(PROJECT)), ast.parse(path.read_text())


def constants(tree: ast.AST) -> set[str]:
    """Return the string literals of a tree, those within f-strings left out."""
    within = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in within
    }


def values(node: ast.expr) -> set[str]:
    """Return the literals that an expression can have as its value."""
    if isinstance(node, ast.IfExp):
        return values(node.body) | values(node.orelse)
    if isinstance(node, ast.BoolOp):
        return set().union(*(values(part) for part in node.values))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return set()


def reported(tree: ast.Module) -> set[str]:
    """Return the literals that stand where an identifier of a failure has to stand."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found |= given(node)
        elif isinstance(node, ast.Assign):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found |= values(node.value) if "failure" in targets else set()
        elif isinstance(node, ast.FunctionDef) and re.search(r"failure|explain", node.name):
            found |= returned(node)
    return found


def given(call: ast.Call) -> set[str]:
    """Return the identifiers that a call is given."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    place = TAKERS.get(name, len(call.args))
    keywords = [keyword.value for keyword in call.keywords if keyword.arg == "failure"]
    return set().union(*map(values, [*call.args[place : place + 1], *keywords]))


def returned(function: ast.FunctionDef) -> set[str]:
    """Return the identifiers that a function answers, alone or first in a tuple."""
    answers = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    firsts = [answer.elts[0] if isinstance(answer, ast.Tuple) else answer for answer in answers]
    return set().union(*(values(first) for first in firsts if first is not None))


def test_identifiers_are_unique_and_well_formed() -> None:
    assert len(FAILURES) == len(ALL)
    assert all(IDENTIFIER.fullmatch(failure.id) for failure in ALL)


def test_every_failure_that_code_reports_is_in_the_registry() -> None:
    unknown = {
        (path, identifier)
        for path, tree in trees()
        for identifier in reported(tree)
        if identifier and identifier not in FAILURES
    }
    assert not unknown


def test_every_failure_of_the_registry_is_reported_by_code() -> None:
    used = set().union(*(constants(tree) for _path, tree in trees()))
    assert not FAILURES.keys() - used


def test_the_scan_finds_what_is_reported() -> None:
    source = """
class A(Exception):
    failure = "one"
def _driver_failure():
    return "two", seen
evidence.stop("name", "three" if odd else "four", expected="", seen="")
describe(found or "five")
must(failure="six")
"""
    assert set(reported(ast.parse(source))) == {"one", "two", "three", "four", "five", "six"}


def test_only_evidence_makes_checks() -> None:
    makers = {
        path
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Check"
    }
    assert not makers


@pytest.mark.parametrize("failure", ALL, ids=lambda failure: failure.id)
def test_every_text_can_be_filled_in(failure: Failure) -> None:
    texts = (failure.cause, failure.remedy.advice, *failure.remedy.commands)
    assert set().union(*map(placeholders, texts)) <= WORDS.keys()
    said = describe(failure.id).message()
    assert "{" not in said.replace('{"cdi": true}', "")
    assert said.startswith(f"{failure.title} ({failure.id}): ")
    assert failure.remedy.commands or failure.remedy.advice
    assert not failure.title.endswith(".")
    assert failure.cause.endswith((".", ".)"))


def test_every_word_is_said_somewhere_and_every_detail_by_somebody() -> None:
    texts = [
        text
        for failure in ALL
        for text in (failure.cause, failure.remedy.advice, *failure.remedy.commands)
    ]
    assert set().union(*map(placeholders, texts)) == WORDS.keys()
    details = {word for failure in ALL for text in failure.details for word in placeholders(text)}
    literals = set().union(*(constants(tree) for _path, tree in trees()))
    groups = {name for literal in literals for name in re.findall(r"\(\?P<(\w+)>", literal)}
    assert details <= literals | groups


def test_every_option_that_is_named_exists() -> None:
    options = {"sparerig_device", "sparerig_model"}
    for file in PROJECT.glob("roles/*/meta/argument_specs.yml"):
        specs = yaml.safe_load(file.read_text())["argument_specs"]
        options |= {name for spec in specs.values() for name in spec.get("options", {})}
    roles = "|".join(["model", *(path.name for path in PROJECT.glob("roles/*"))])
    texts = [
        text for failure in ALL for text in (failure.cause, failure.remedy.advice, *failure.details)
    ]
    named_options = {
        name for text in texts for name in re.findall(rf"\b(?:{roles}|sparerig)_\w+", text)
    } - {path.name for path in PROJECT.glob("roles/*")}
    assert named_options
    assert not named_options - options


def test_pages_belong_to_failures_and_say_so() -> None:
    pages = {path.stem: path.read_text() for path in PROJECT.glob("docs/failures/*.md")}
    assert pages.keys() == {failure.id for failure in ALL if failure.page}
    for name, text in pages.items():
        assert text.startswith(f"# {FAILURES[name].title}\n\n`{name}`\n")
        for heading in ("What you see", "Why", "How to fix it", "How it is found"):
            assert f"\n## {heading}\n" in text, name


def test_a_detail_is_said_when_all_its_words_are_known() -> None:
    need = {"need": "160 MiB", "have": "64 MiB"}
    assert describe("shared-memory-too-small", need).cause.startswith(
        "vLLM needs 160 MiB in /dev/shm"
    )
    assert "160" not in describe("shared-memory-too-small", need | {"have": ""}).cause


def test_what_is_known_more_exactly_replaces_the_general_text() -> None:
    said = describe("held-package", {"packages": "a b"}, cause="It is {so}.", advice="Wait.")
    assert said.message("Check x: odd.") == (
        "A held package is in the way (held-package): It is {so}. Check x: odd."
        " Remedy: `sudo apt-mark unhold a b`. Wait. See docs/failures/held-package.md."
    )


def test_an_unknown_failure_is_refused() -> None:
    with pytest.raises(UnknownFailureError):
        describe("it-does-not-exist")


@pytest.mark.parametrize("failure", ALL, ids=lambda failure: failure.id)
def test_a_message_gives_its_identifier_back(failure: Failure) -> None:
    assert named(f"engine.service did not start: {describe(failure.id).message()}") == failure.id


def test_other_texts_give_no_identifier() -> None:
    assert named("it ended (of-nothing-known): why") == ""


def test_the_supervisor_can_import_it_without_ansible() -> None:
    program = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('f', {failures.__file__!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['f'] = module;"
        "spec.loader.exec_module(module);"
        "print(module.describe('engine-dead').id);"
        "print([name for name in sys.modules if 'ansible' in name])"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    assert said.stdout.splitlines() == ["engine-dead", "[]"]
