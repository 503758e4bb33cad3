# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence, step by step: what a verifying module returns of every check that it reached."""

from __future__ import annotations

import typing as t
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    Explanation,
    describe,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Check:
    """One step: what was expected, what was seen, and what to do about the difference.

    It is made by one of the four below and nowhere else, so that every failure is one of the
    registry.
    """

    name: str
    status: str  # pass, fail, unknown, skipped
    expected: str = ""
    seen: str = ""
    failure: str = ""
    cause: str = ""
    remedy: str = ""

    @classmethod
    def passed(cls, name: str, *, expected: str, seen: str) -> Check:
        """Note that what was seen is what was expected."""
        return cls(name, "pass", expected, seen)

    @classmethod
    def failed(cls, name: str, failure: str | Explanation, *, expected: str, seen: str) -> Check:
        """Note a failure, by its identifier or as ``describe`` says it of this case."""
        known = describe(failure) if isinstance(failure, str) else failure
        return cls(name, "fail", expected, seen, known.id, known.cause, known.remedy)

    @classmethod
    def unknown(
        cls, name: str, *, expected: str, seen: str, cause: str = "", remedy: str = ""
    ) -> Check:
        """Note that the truth could not be learnt or does no harm yet, which is no failure."""
        return cls(name, "unknown", expected, seen, cause=cause, remedy=remedy)

    @classmethod
    def skipped(cls, name: str, cause: str) -> Check:
        """Note a check that was not made."""
        return cls(name, "skipped", cause=cause)

    def not_yet(self) -> Check:
        """Turn a failure into something that does not stop a run."""
        return replace(self, status="unknown")

    def explanation(self) -> Explanation:
        """Return what a failed check tells of its failure."""
        title = describe(self.failure).title
        return Explanation(self.failure, title, self.cause, self.remedy)

    def message(self) -> str:
        """Say a failure as every message of the collection does."""
        said = f"Check {self.name}: expected {self.expected}; seen: {self.seen}."
        return self.explanation().message(said)


class StopSectionError(Exception):
    """What follows in this section is pointless; the words say why."""


class Evidence:
    """The checks in the order in which they were reached."""

    def __init__(self, words: Mapping[str, str] | None = None) -> None:
        """Take the words that remedies have places for: unit, url and so on."""
        self._words = words or {}
        self._checks: list[Check] = []

    @property
    def checks(self) -> list[dict[str, str]]:
        """The checks as a module returns them."""
        return [asdict(check) for check in self._checks]

    @property
    def first_failure(self) -> Check | None:
        """The check that a message should be about."""
        return next((check for check in self._checks if check.status == "fail"), None)

    def add(self, check: Check) -> None:
        """Take a check that was made elsewhere."""
        self._checks.append(check)

    def passed(self, name: str, *, expected: str, seen: str) -> None:
        """Note that what was seen is what was expected."""
        self.add(Check.passed(name, expected=expected, seen=seen))

    def failed(self, name: str, failure: str, *, expected: str, seen: str) -> None:
        """Note a failure by its identifier; cause and remedy come from the registry."""
        self.add(Check.failed(name, describe(failure, self._words), expected=expected, seen=seen))

    def unknown(self, name: str, *, expected: str, seen: str, cause: str) -> None:
        """Note that the truth could not be learnt, which is no failure."""
        self.add(Check.unknown(name, expected=expected, seen=seen, cause=cause))

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
        for name in names:
            self.add(Check.skipped(name, cause))

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
        return check.message() + (f" (and {others} more failed: see checks)" if others else "")


def messages(checks: Iterable[Check]) -> str:
    """Say all that failed, a line for each; empty when nothing did."""
    return "\n".join(check.message() for check in checks if check.status == "fail")
