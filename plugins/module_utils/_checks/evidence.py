# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence, step by step: what a verifying module returns of every check that it reached."""

from __future__ import annotations

import typing as t
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import FAILURES

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Check:
    """One step: what was expected, what was seen, and what to do about the difference."""

    name: str
    status: str  # pass, fail, unknown, skipped
    expected: str = ""
    seen: str = ""
    failure: str = ""
    cause: str = ""
    remedy: str = ""


class StopSectionError(Exception):
    """What follows in this section is pointless; the words say why."""


class Evidence:
    """The checks in the order in which they were reached."""

    def __init__(self, words: Mapping[str, str]) -> None:
        """Take the words that remedies stand in for: unit, url and so on."""
        self._words = words
        self._checks: list[Check] = []

    @property
    def checks(self) -> list[dict[str, str]]:
        """The checks as a module returns them."""
        return [asdict(check) for check in self._checks]

    @property
    def first_failure(self) -> Check | None:
        """The check that a message should be about."""
        return next((check for check in self._checks if check.status == "fail"), None)

    def passed(self, name: str, *, expected: str, seen: str) -> None:
        """Note that what was seen is what was expected."""
        self._checks.append(Check(name, "pass", expected, seen))

    def failed(self, name: str, failure: str, *, expected: str, seen: str) -> None:
        """Note a failure by its name; cause and remedy come from the table."""
        known = FAILURES[failure]
        remedy = known.remedy.format_map(self._words)
        self._checks.append(Check(name, "fail", expected, seen, failure, known.cause, remedy))

    def unknown(self, name: str, *, expected: str, seen: str, cause: str) -> None:
        """Note that the truth could not be learnt, which is no failure."""
        self._checks.append(Check(name, "unknown", expected, seen, cause=cause))

    def verdict(self, name: str, failure: str, *, good: bool, expected: str, seen: str) -> None:
        """Note a pass or the named failure."""
        if good:
            self.passed(name, expected=expected, seen=seen)
        else:
            self.failed(name, failure, expected=expected, seen=seen)

    def stop(self, name: str, failure: str, *, expected: str, seen: str) -> t.NoReturn:
        """Note a failure that makes the rest of the section pointless."""
        self.failed(name, failure, expected=expected, seen=seen)
        raise StopSectionError(f"{name} failed")

    @contextmanager
    def section(self, names: Sequence[str]) -> Iterator[None]:
        """Run checks that build on each other; those not reached after a stop are skipped."""
        begin = len(self._checks)
        try:
            yield
        except StopSectionError as stop:
            reached = {check.name for check in self._checks[begin:]}
            self.skip([name for name in names if name not in reached], str(stop))

    def skip(self, names: Sequence[str], cause: str) -> None:
        """Note checks that were not made."""
        self._checks += [Check(name, "skipped", cause=cause) for name in names]

    def report(self) -> list[str]:
        """Return a line for each check, for people."""
        width = max((len(check.name) for check in self._checks), default=0)
        return [
            f"{check.status:<7}  {check.name:<{width}}  {check.seen or check.cause}".rstrip()
            for check in self._checks
        ]

    def message(self) -> str:
        """Say in one paragraph what failed first, why, and what fixes it."""
        check = self.first_failure
        if check is None:
            return f"All {len(self._checks)} checks passed or could not be made"
        others = sum(other.status == "fail" for other in self._checks) - 1
        return (
            f"{FAILURES[check.failure].title} ({check.failure})."
            f" Check {check.name}: expected {check.expected}; seen: {check.seen}."
            f" Likely cause: {check.cause} To remedy: {check.remedy}"
            + (f" (and {others} more failed: see checks)" if others else "")
        )
