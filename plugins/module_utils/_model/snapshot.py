# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings one snapshot of a model to a disk: what decides first, what weighs last."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime as dt
import errno
import tempfile
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._model.inspection import (
    SMALL_FILES,
    Engine,
    Inspection,
    inspect,
    size_text,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import (
    REPOSITORY,
    Listing,
    SnapshotError,
    Store,
    free_space,
    in_use,
)

if t.TYPE_CHECKING:
    from ansible_collections.sparerig.llm.plugins.module_utils._model.hub import Hub

# Left free on the disk, for logs and for the file system's own need.
RESERVE = 512 << 20
PROGRESS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for."""

    root: Path
    repository: str
    revision: str
    listing: Listing | None = None
    update: bool = False
    verify_every_byte: bool = False
    need_chat_template: bool = True
    engine: Engine = dataclasses.field(default_factory=Engine)
    licenses: tuple[str, ...] = ()
    workers: int = 4
    prune: bool = False

    def check(self) -> None:
        """Refuse what can't be meant, before the network is asked."""
        if not REPOSITORY.fullmatch(self.repository):
            raise SnapshotError(
                "repository-invalid",
                f"{self.repository!r} is not the name of a repository.",
            )
        if not self.root.is_absolute():
            raise SnapshotError("root-invalid", f"The root {self.root} is not absolute.")
        if not self.revision or self.revision != self.revision.strip():
            raise SnapshotError(
                "revision-invalid",
                f"{self.revision!r} is not a revision.",
            )
        if self.listing and self.listing.repository != self.repository:
            raise SnapshotError(
                "listing-invalid",
                f"The listing is of {self.listing.repository}, not of {self.repository}.",
            )


@dataclasses.dataclass
class Outcome:
    """What was done, or would be."""

    path: Path
    listing: Listing
    to_download: int = 0
    pinned: bool = False
    pruned: list[str] = dataclasses.field(default_factory=list)
    kept_in_use: list[str] = dataclasses.field(default_factory=list)
    model: Inspection | None = None

    @property
    def changed(self) -> bool:
        """Tell whether anything on the disk changed, or would."""
        return bool(self.to_download or self.pinned or self.pruned)


class Progress:
    """A line every few seconds, in a file that ``tail -f`` follows."""

    def __init__(self, path: Path, total: int, to_come: int) -> None:
        self._file = path.open("w", encoding="utf-8")
        path.chmod(0o644)
        self._total = total
        self._had = self._now = total - to_come
        self._begun = self._last = time.monotonic()
        self._mutex = threading.Lock()
        self._stopped = False
        self.say(f"{size_text(to_come)} of {size_text(total)} to come")

    def add(self, count: int) -> None:
        """Count bytes that came, or that had to be thrown away."""
        with self._mutex:
            if self._stopped:
                raise SnapshotError("download-stopped")
            self._now += count
            now = time.monotonic()
            if now - self._last >= PROGRESS_SECONDS:
                self._last = now
                speed = max(1.0, (self._now - self._had) / (now - self._begun))
                left = dt.timedelta(seconds=round((self._total - self._now) / speed))
                percent = 100 * self._now // max(1, self._total)
                self.say(
                    f"{size_text(self._now)} of {size_text(self._total)} ({percent} %), "
                    f"{size_text(round(speed))}/s, {left} left"
                )

    def stop(self) -> None:
        """Have the other files end at their next byte, when one has failed."""
        self._stopped = True

    def close(self, text: str) -> None:
        """Write the last line."""
        self.say(text)
        self._file.close()

    def say(self, text: str) -> None:
        """Write a line, at once."""
        when = dt.datetime.now().astimezone().isoformat(" ", "seconds")
        self._file.write(f"{when}  {text}\n")
        self._file.flush()


def here(wanted: Wanted) -> Outcome | None:
    """Return the wanted snapshot if it is complete on the disk: this needs no network."""
    store = Store(wanted.root, wanted.repository)
    commit = wanted.listing.commit if wanted.listing else store.pinned(wanted.revision)
    listing = store.listing(commit) if commit else None
    if listing is None or (wanted.update and wanted.listing is None):
        return None
    if store.faults(listing, every_byte=wanted.verify_every_byte):
        return None
    _check_license(wanted, listing)
    return Outcome(store.snapshot(listing.commit), listing)


def bring(wanted: Wanted, hub: Hub, *, check: bool = False) -> Outcome:
    """Bring the wanted snapshot to the disk, or say what that would take."""
    store = Store(wanted.root, wanted.repository)
    pinned = None if wanted.update else store.pinned(wanted.revision)
    listing = wanted.listing or hub.listing(wanted.repository, pinned or wanted.revision)
    outcome = Outcome(
        store.snapshot(listing.commit),
        listing,
        pinned=store.pinned(wanted.revision) != listing.commit,
    )
    _check_license(wanted, listing)
    # What is there without our own note was put there by somebody else: trust no byte of it.
    known = store.listing(listing.commit) is not None
    faults = store.faults(listing, every_byte=wanted.verify_every_byte or not known)
    outcome.to_download = store.still_to_come(listing, faults)
    if check:
        with tempfile.TemporaryDirectory() as directory:
            _look_first(wanted, hub, listing, Path(directory))
        _check_room(store, listing, outcome.to_download)
        return outcome
    if faults:
        with store.alone():
            _download(wanted, hub, store, listing, faults)
    elif not known:
        store.adopt(listing)
    store.pin(wanted.revision, listing.commit)
    return outcome


def prune(wanted: Wanted, outcome: Outcome, *, check: bool = False) -> None:
    """Remove what is here of other commits of the repository, except what is in use."""
    store = Store(wanted.root, wanted.repository)
    others = store.others(outcome.listing.commit)
    used = in_use(others) if others else []
    outcome.kept_in_use = [str(path) for path in used]
    outcome.pruned = [str(path) for path in others if path not in used]
    if others and not check:
        with store.alone():
            for path in others:
                if path not in used:
                    store.remove(path)


def disk_failure(error: OSError, root: Path) -> SnapshotError:
    """Name what the disk said."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return SnapshotError(
            "disk-full",
            f"The disk of {root} filled up during the download: something else writes to it too. "
            "What was fetched stays.",
            {"path": str(_nearest(root))},
        )
    return SnapshotError(
        "disk-error",
        f"{error.filename or root}: {error.strerror}.",
        {"path": str(_nearest(root))},
    )


def _nearest(path: Path) -> Path:
    """Return the path, or the directory above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _check_license(wanted: Wanted, listing: Listing) -> None:
    if wanted.licenses and listing.license not in wanted.licenses:
        raise SnapshotError(
            "license-not-allowed",
            f"{listing.repository} has the license {listing.license or '(none given)'}, and only "
            f"{', '.join(wanted.licenses)} may be used here.",
        )


def _look_first(wanted: Wanted, hub: Hub, listing: Listing, directory: Path) -> None:
    """Fetch the small files and see whether the rest is worth it."""
    for name in SMALL_FILES:
        if name in listing.files and not (directory / name).exists():
            hub.fetch(listing, name, directory, lambda _count: None)
    sizes = {name: facts.size for name, facts in listing.files.items()}
    model = inspect(
        directory,
        to_come=sizes,
        need_chat_template=wanted.need_chat_template,
        engine=wanted.engine,
    )
    for check in model.checks:
        if check.status == "fail":
            raise SnapshotError.of(
                check.explanation(),
                f"Check {check.name} of {listing.repository} at {listing.commit} saw: {check.seen}."
                " It is not downloaded.",
            )


def _check_room(store: Store, listing: Listing, to_come: int) -> None:
    """Refuse to start what the disk has no room for."""
    free = free_space(store.folder)
    if to_come + RESERVE > free:
        raise SnapshotError(
            "disk-full",
            f"{store.folder} has {size_text(free)} free, and {listing.repository} needs "
            f"{size_text(to_come)} more and {size_text(RESERVE)} to spare.",
            {"path": str(_nearest(store.folder))},
        )


def _download(wanted: Wanted, hub: Hub, store: Store, listing: Listing, faults: list[str]) -> None:
    partial = store.begin(listing, faults)
    _look_first(wanted, hub, listing, partial)
    to_come = store.still_to_come(listing, faults)
    _check_room(store, listing, to_come)
    progress = Progress(store.log, listing.size, to_come)
    # The largest first: none is left to come alone at the end.
    names = sorted(
        (name for name in faults if not (partial / name).exists()),
        key=lambda name: -listing.files[name].size,
    )
    try:
        with concurrent.futures.ThreadPoolExecutor(wanted.workers) as pool:
            running = [
                pool.submit(hub.fetch, listing, name, partial, progress.add) for name in names
            ]
            try:
                for future in concurrent.futures.as_completed(running):
                    future.result()
            except BaseException:
                progress.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        progress.close("complete" if not store.still_to_come(listing, faults) else "broken off")
    store.publish(listing)
