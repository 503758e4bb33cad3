# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every step of ``make test``, two at a time, and say at the end how each went and how long it took.

    python tests/suite.py [STEP ...]

A step is a target of the Makefile. It starts when a worker is free and the steps that it needs
have passed. A failed step stops only those that need it. The exit status is 0 if all passed, 1
otherwise, 130 or 143 after SIGINT or SIGTERM. Output goes to standard output, each line with its
step, and to ``.cache/test/STEP.log``.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
import typing as t
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / ".cache" / "test"
COLUMNS = "160"  # molecule breaks lines at the terminal's width: no line of pytest is longer

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BEGIN = re.compile(r"\w+ ➜ (\w+): Executing$")
END = re.compile(r"\w+ ➜ (\w+): Executed: ")
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed)\b")
CLOSING = re.compile(r"\b\d+ (?:passed|failed|errors?)\b.* in [\d.]+s\b")
FAILED_TEST = re.compile(r"^[│ ]*(?:FAILED|ERROR) \S+::")


@dataclass(frozen=True)
class Step:
    """One target of the Makefile, the steps that must have passed before, and what else is run."""

    name: str
    needs: tuple[str, ...] = ()
    target: str = ""  # where it is not the name
    command: tuple[str, ...] = ()  # in place of make

    @property
    def argv(self) -> list[str]:
        """What runs it."""
        return list(self.command) or ["make", "--no-print-directory", self.target or self.name]


def scenario(name: str, *needs: str) -> Step:
    """Return the step of a molecule scenario."""
    return Step(name, needs, f"molecule-{name}")


# In the order in which free workers take them: what is cheap and often fails first, then the
# longest, so that both workers end at about the same time.
STEPS = (
    Step("images"),
    Step("lint"),
    Step("types"),
    Step("unit"),
    Step("chromium"),
    scenario("default", "images", "chromium"),
    scenario("nvidia_driver"),
    scenario("nvidia_host"),
    Step("vm"),
    scenario("nvidia_container_toolkit"),
    scenario("fleet"),
    scenario("cuda_toolkit"),
    scenario("ubuntu_24_04"),
    scenario("debian_12"),
    Step("cores"),
    Step("integration"),
    Step("sanity"),
)
WORKERS = 2


@dataclass
class Result:
    """How a step went."""

    step: Step
    state: t.Literal["waiting", "running", "passed", "failed", "not run"] = "waiting"
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)  # molecule's, in seconds
    counts: Counter[str] = field(default_factory=Counter)  # pytest's
    lines: list[str] = field(default_factory=list)  # how pytest closed, and each test that failed


class Reader:
    """Reads the output of a step as it comes."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._begun: float | None = None

    def read(self, line: str, now: float) -> str:
        """Take one line, written at a time in seconds; return it without colours."""
        line = COLOUR.sub("", line.rstrip())
        if BEGIN.search(line):
            self._begun = now
        elif found := END.search(line):
            # At the end, molecule says it all once more.
            if self._begun is not None:
                phases = self._result.phases
                phases[found[1]] = phases.get(found[1], 0.0) + now - self._begun
                self._begun = None
        elif CLOSING.search(line):
            self._result.lines.append(line.strip("│ "))
            for number, kind in COUNT.findall(line):
                self._result.counts[kind.rstrip("s") if kind == "errors" else kind] += int(number)
        elif FAILED_TEST.match(line):
            self._result.lines.append(line.strip("│ "))
        return line


def table(results: t.Sequence[Result], seconds: float, busy: float | None) -> list[str]:
    """Write what took how long; the total is by the clock, since steps run side by side."""
    width = max(len(result.step.name) for result in results)
    rows = [f"{'step':{width}}  seconds  result"]
    for result in results:
        phases = ", ".join(f"{name} {value:.0f}" for name, value in result.phases.items())
        took = " " * 6 + "-" if result.state == "not run" else f"{result.seconds:7.0f}"
        rows.append(
            f"{result.step.name:{width}}  {took}  {result.state}{phases and f'  ({phases})'}"
        )
    processors = "" if busy is None else f"  processors {busy:.0%} busy"
    rows.append(f"{'by the clock':{width}}  {seconds:7.0f}{processors}")
    return rows


def counts(results: t.Sequence[Result]) -> str:
    """Count steps and tests, in one line."""
    states = Counter(result.state for result in results)
    tests: Counter[str] = sum((result.counts for result in results), Counter())
    # Without the words that CI looks for in the closing lines of pytest, or it would count twice.
    kinds = sorted(tests, key=lambda kind: (kind != "passed", kind))
    return (
        f"Steps: {states['passed']} of {len(results)} well, {states['failed']} failed,"
        f" {states['not run']} not run. Tests: "
        + (", ".join(f"{kind} {tests[kind]}" for kind in kinds) or "none")
        + "."
    )


def choose(names: t.Sequence[str]) -> list[Step]:
    """Return the steps of these names and all that they need; all steps if no name is given."""
    known = {step.name: step for step in STEPS}
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"There is no step {', '.join(unknown)}. Steps: {', '.join(known)}")
    wanted = set(names or known)
    while more := {need for name in wanted for need in known[name].needs} - wanted:
        wanted |= more
    return [step for step in STEPS if step.name in wanted]


class Suite:
    """Runs steps, several at a time."""

    def __init__(self, steps: t.Sequence[Step], logs: Path, *, workers: int = WORKERS) -> None:
        self.results = {step.name: Result(step) for step in steps}
        self._logs = logs
        self._workers = workers
        self._changed = threading.Condition()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._stopped = False

    def run(self) -> list[Result]:
        """Run all steps; return how they went."""
        self._logs.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=self._work) for _unused in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return list(self.results.values())

    def stop(self) -> None:
        """Start no other step, and end those that run, with everything that they started."""
        self._stopped = True
        for process in list(self._running.values()):
            os.killpg(process.pid, signal.SIGTERM)

    def _work(self) -> None:
        while (step := self._next()) is not None:
            result = self.results[step.name]
            begin = time.monotonic()
            state = self._run(step, result)
            with self._changed:
                result.seconds = time.monotonic() - begin
                result.state = state
                self._running.pop(step.name, None)
                self._changed.notify_all()
            self._say(step, f"{state} after {result.seconds:.0f} s")

    def _next(self) -> Step | None:
        """Wait for a step that can start; none if there is no such step any more."""
        with self._changed:
            while True:
                waiting = [result for result in self.results.values() if result.state == "waiting"]
                for result in waiting:
                    needs = {self.results[need].state for need in result.step.needs}
                    if self._stopped or needs & {"failed", "not run"}:
                        result.state = "not run"
                        self._changed.notify_all()
                    elif needs <= {"passed"}:
                        result.state = "running"
                        return result.step
                if all(result.state != "waiting" for result in self.results.values()):
                    return None
                self._changed.wait(1)

    def _run(self, step: Step, result: Result) -> t.Literal["passed", "failed"]:
        reader = Reader(result)
        with (
            (self._logs / f"{step.name}.log").open("w", encoding="utf-8") as log,
            subprocess.Popen(
                step.argv,
                cwd=ROOT,
                env={**os.environ, "COLUMNS": COLUMNS},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            self._running[step.name] = process
            if self._stopped:
                os.killpg(process.pid, signal.SIGTERM)
            assert process.stdout
            for raw in process.stdout:
                line = reader.read(raw, time.monotonic())
                log.write(f"{line}\n")
                log.flush()
                self._say(step, line)
        return "failed" if process.returncode else "passed"

    def _say(self, step: Step, line: str) -> None:
        sys.stdout.write(f"[{step.name}] {line}\n")
        sys.stdout.flush()


def processor_ticks() -> tuple[int, int] | None:
    """Return how long the machine's processors worked and idled since the boot, where Linux tells."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    idle = fields[3] + fields[4]
    return sum(fields) - idle, idle


def main(arguments: list[str] | None = None) -> int:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help="these only, with what they need")
    suite = Suite(choose(parser.parse_args(arguments).steps), LOGS)
    caught: list[int] = []

    def stop(number: int, _frame: object) -> None:
        caught.append(number)
        suite.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    begin, before = time.monotonic(), processor_ticks()
    results = suite.run()
    seconds, after = time.monotonic() - begin, processor_ticks()
    busy = None
    if before and after:
        worked, idled = after[0] - before[0], after[1] - before[1]
        busy = worked / max(1, worked + idled)
    closing = [f"[{result.step.name}] {line}" for result in results for line in result.lines]
    failed = [result.step.name for result in results if result.state == "failed"]
    logs = [f"Failed: {name}; its whole output: {LOGS / name}.log" for name in failed]
    print("", *closing, "", *table(results, seconds, busy), *logs, counts(results), sep="\n")  # noqa: T201
    if caught:
        return 128 + caught[0]
    return 0 if all(result.state == "passed" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
