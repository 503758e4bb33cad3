# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of ``make test``: what it starts when, what it reads, and what it says at the end."""

from __future__ import annotations

import signal
import sys
import threading
import time
import typing as t
from collections import Counter
from pathlib import Path

import pytest
import suite
from suite import Reader, Result, Step, Suite, choose, counts, table

ROOT = Path(__file__).parents[2]

MOLECULE = """\
\x1b[36mINFO    \x1b[0m \x1b[32mdefault\x1b[0m ➜ \x1b[33mdestroy\x1b[0m: \x1b[36mExecuting\x1b[0m
INFO     default ➜ destroy: Executed: Successful
INFO     default ➜ verify: Executing
INFO     default ➜ verify: Executing Testinfra tests found in molecule/default/tests/...
  │ ============== 1 failed, 59 passed, 2 skipped, 1 error in 61.20s (0:01:01) ===============
  │ FAILED molecule/default/tests/test_x.py::test_y - assert 1 == 2
INFO     default ➜ verify: Executed: Failed
INFO     default ➜ destroy: Executing
INFO     default ➜ destroy: Executed: Successful
SCENARIO RECAP
default ➜ destroy: Executed: Successful
default ➜ verify: Executed: Failed
"""


def test_phases_counts_and_failures_are_read() -> None:
    result = Result(Step("default"))
    reader = Reader(result)
    for now, line in enumerate(MOLECULE.splitlines(keepends=True)):
        reader.read(line, now * 10.0)
    assert result.phases == {"destroy": 20.0, "verify": 40.0}
    assert result.counts == {"passed": 59, "failed": 1, "skipped": 2, "error": 1}
    assert result.lines == [
        "============== 1 failed, 59 passed, 2 skipped, 1 error in 61.20s (0:01:01) ===============",
        "FAILED molecule/default/tests/test_x.py::test_y - assert 1 == 2",
    ]


@pytest.mark.parametrize(
    "line", ["60 passed the gate", "INFO  default ➜ create: Executing the playbook", "FAILED: no"]
)
def test_other_lines_count_for_nothing(line: str) -> None:
    result = Result(Step("unit"))
    assert Reader(result).read(line, 1.0) == line
    assert result == Result(Step("unit"))


def test_the_table_and_the_counts() -> None:
    results = [
        Result(Step("unit"), "passed", 61.4, counts=Counter(passed=1600)),
        Result(Step("default"), "failed", 905.0, {"create": 20.2, "verify": 600.0}),
        Result(Step("after"), "not run"),
    ]
    results[1].counts.update(passed=59, failed=1)
    assert table(results, 966.0, 0.871) == [
        "step     seconds  result",
        "unit          61  passed",
        "default      905  failed  (create 20, verify 600)",
        "after          -  not run",
        "by the clock      966  processors 87% busy",
    ]
    assert counts(results) == (
        "Steps: 1 of 3 well, 1 failed, 1 not run. Tests: passed 1659, failed 1."
    )


def test_steps_are_chosen_with_what_they_need() -> None:
    assert [step.name for step in choose(["default"])] == ["images", "chromium", "default"]
    assert choose([]) == list(suite.STEPS)
    with pytest.raises(SystemExit, match="There is no step none"):
        choose(["none"])


def test_every_scenario_and_target_is_a_step() -> None:
    scenarios = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
    assert scenarios == {step.name for step in suite.STEPS if step.target.startswith("molecule-")}
    targets = (ROOT / "Makefile").read_text()
    for step in suite.STEPS:
        assert step.target or f"\n{step.name}:" in targets, f"the Makefile has no {step.name}"


def script(name: str, source: str = "", needs: tuple[str, ...] = ()) -> Step:
    """Return a step that is a line of Python."""
    return Step(name, needs, command=(sys.executable, "-c", source))


def states(steps: t.Sequence[Step], logs: Path, workers: int = 2) -> dict[str, str]:
    return {result.step.name: result.state for result in Suite(steps, logs, workers=workers).run()}


def test_a_failure_stops_only_what_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [
        script("bad", source="print('it breaks'); raise SystemExit(3)"),
        script("good", source="print('it works')"),
        script("next", needs=("bad",)),
        script("last", needs=("next", "good")),
        script("other", needs=("good",), source="print('so does this')"),
    ]
    expected = {"bad": "failed", "good": "passed", "next": "not run", "last": "not run"}
    assert states(steps, tmp_path) == expected | {"other": "passed"}
    said = capsys.readouterr().out
    assert "[bad] it breaks\n" in said
    assert "[other] so does this\n" in said
    assert (tmp_path / "bad.log").read_text() == "it breaks\n"


def test_a_step_waits_for_what_it_needs_and_two_run_at_once(tmp_path: Path) -> None:
    """Each of the first two ends when it sees the other; the third finds what both left."""
    meet = (
        "import pathlib, time\n"
        "mine, other = (pathlib.Path({folder!r}) / name for name in {names!r})\n"
        "mine.touch()\n"
        "while not other.exists(): time.sleep(0.01)"
    )
    folder = str(tmp_path)
    find = f"import os; assert {{'a', 'b'}} <= set(os.listdir({folder!r}))"
    steps = [
        script("c", needs=("a", "b"), source=find),
        script("a", source=meet.format(folder=folder, names=["a", "b"])),
        script("b", source=meet.format(folder=folder, names=["b", "a"])),
    ]
    assert states(steps, tmp_path / "logs") == {"c": "passed", "a": "passed", "b": "passed"}


def test_stopping_ends_what_runs_with_its_children(tmp_path: Path) -> None:
    child = "import pathlib, time; pathlib.Path({!r}).touch(); time.sleep(600)"
    mark = tmp_path / "runs"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child.format(str(mark))!r}])"
    running = Suite([script("long", source=source), script("next", source="")], tmp_path, workers=1)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not mark.exists():
        time.sleep(0.01)
    running.stop()
    thread.join()
    assert [result.state for result in running.results.values()] == ["failed", "not run"]


def test_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(suite, "LOGS", tmp_path)
    for source, status in (("", 0), ("raise SystemExit(1)", 1)):
        monkeypatch.setattr(suite, "STEPS", (script("one", source=source), script("two")))
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        try:
            assert suite.main([]) == status
        finally:
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])
