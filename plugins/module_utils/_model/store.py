# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model snapshots on a disk: complete, verified and pinned, or not there at all.

One folder for each repository, ``ROOT/ORGANISATION--NAME``, holds

- ``COMMIT/``: a snapshot. It appears by a rename once every file in it is verified;
- ``COMMIT.json``: its listing, with the size and the hash of every file;
- ``lock.json``: which commit a branch or tag stood for when it was first asked for;
- ``.COMMIT.partial/``: a download under way. What is verified has its final name there, the rest
  ends in ``.part``. A run that was killed leaves nothing else behind;
- ``download.log``: the progress of the last download.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import typing as t
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import describe
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    JsonError,
    read_json_object,
    sync_directory,
    write_atomically,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import Explanation

JsonObject = dict[str, t.Any]

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
BLOCK = 1 << 20
# Weights and checkpoints that vLLM does not load; some repositories hold them beside the others.
NOT_NEEDED = (".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pt", ".pth")


class SnapshotError(Exception):
    """A failure of the registry, said in full: what happened, why, and what to do."""

    def __init__(
        self, failure: str, cause: str = "", words: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(describe(failure, words, cause=cause).message())
        self.failure = failure

    @classmethod
    def of(cls, known: Explanation, circumstances: str) -> SnapshotError:
        """Make it of a failure that is explained already."""
        error = cls(known.id)
        error.args = (known.message(circumstances),)
        return error


@dataclasses.dataclass(frozen=True)
class FileFacts:
    """What the hub says of a file: its size, and its SHA-256 or, if it is small, its Git hash."""

    size: int
    sha256: str | None
    git_sha1: str | None

    def digest(self) -> Digest:
        """Start to verify the file."""
        return Digest(self)


class Digest:
    """The hash of a file, as its bytes go by."""

    def __init__(self, facts: FileFacts) -> None:
        self._facts = facts
        self.restart()

    def restart(self) -> None:
        """Begin again at the file's first byte."""
        if self._facts.sha256:
            self._hash = hashlib.sha256()
        else:
            # Git's names are SHA-1 over a short header and the content: no choice of ours.
            self._hash = hashlib.sha1(usedforsecurity=False)
            self._hash.update(f"blob {self._facts.size}\0".encode())

    def update(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._hash.update(data)

    def update_from(self, file: t.BinaryIO) -> None:
        """Take in what a file still has."""
        while block := file.read(BLOCK):
            self.update(block)

    def matches(self) -> bool:
        """Tell whether the bytes so far are the hub's."""
        return self._hash.hexdigest() == (self._facts.sha256 or self._facts.git_sha1)


@dataclasses.dataclass(frozen=True)
class Listing:
    """A commit of a repository: its files, as far as a server of the model needs them."""

    repository: str
    commit: str
    license: str
    gated: bool
    files: dict[str, FileFacts]

    @property
    def size(self) -> int:
        """All bytes of the snapshot."""
        return sum(facts.size for facts in self.files.values())

    def as_json(self) -> JsonObject:
        """Return what a file or another host needs to know."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: JsonObject) -> Listing:
        """Read a listing, from a file that may be damaged or from another host."""
        try:
            listing = cls(
                repository=str(value["repository"]),
                commit=str(value["commit"]),
                license=str(value["license"]),
                gated=bool(value["gated"]),
                files={
                    str(name): FileFacts(int(facts["size"]), facts["sha256"], facts["git_sha1"])
                    for name, facts in value["files"].items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"This is not a listing as hf_snapshot returns it: {error!r}."
            raise SnapshotError("listing-invalid", text) from error
        listing.check()
        return listing

    def check(self) -> None:
        """See that every file can be verified, and that none can leave its directory."""
        faults = [
            name
            for name, facts in self.files.items()
            if not is_plain_name(name) or not (facts.sha256 or facts.git_sha1)
        ]
        if faults or not self.files or not COMMIT.fullmatch(self.commit):
            raise SnapshotError(
                "listing-invalid",
                f"The listing of {self.repository} at {self.commit!r} has {len(self.files)} files, "
                f"and without a hash or a plain name: {faults or 'none'}. The endpoint does not "
                "speak as the Hugging Face hub does, or the repository is empty.",
            )


def is_plain_name(name: str) -> bool:
    """Tell whether a file lies directly in its directory and is not hidden."""
    return "/" not in name and not name.startswith(".") and "\0" not in name


def needed_files(files: dict[str, FileFacts]) -> dict[str, FileFacts]:
    """Leave out what vLLM would not load, often as many bytes again."""
    kept = {
        name: facts
        for name, facts in files.items()
        if is_plain_name(name) and not name.endswith(NOT_NEEDED)
    }
    if any(name.startswith("model") and name.endswith(".safetensors") for name in kept):
        kept = {
            name: facts
            for name, facts in kept.items()
            if not name.endswith((".bin", ".bin.index.json"))
            and not name.startswith("consolidated")
        }
    return kept


class Store:
    """The snapshots of one repository under a root."""

    def __init__(self, root: Path, repository: str) -> None:
        self.repository = repository
        self.folder = root / repository.replace("/", "--")
        self.log = self.folder / "download.log"
        self._lock = self.folder / "lock.json"

    def snapshot(self, commit: str) -> Path:
        """Where a commit's files are, once they are complete."""
        return self.folder / commit

    def partial(self, commit: str) -> Path:
        """Where a commit's files are assembled: on the same file system, so that a rename does."""
        return self.folder / f".{commit}.partial"

    def _listing_file(self, commit: str) -> Path:
        return self.folder / f"{commit}.json"

    def pinned(self, revision: str) -> str | None:
        """Return the commit that a revision is pinned to on this host."""
        if COMMIT.fullmatch(revision):
            return revision
        commit = self._pins().get(revision)
        return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None

    def _pins(self) -> JsonObject:
        revisions = _read(self._lock).get("revisions")
        return revisions if isinstance(revisions, dict) else {}

    def pin(self, revision: str, commit: str) -> None:
        """Record what a revision stands for. A commit stands for itself."""
        if not COMMIT.fullmatch(revision):
            pins = {**self._pins(), revision: commit}
            _write(self._lock, {"repository": self.repository, "revisions": pins})

    def listing(self, commit: str) -> Listing | None:
        """Return the listing of a snapshot; none if it was never completed here."""
        try:
            listing = Listing.from_json(_read(self._listing_file(commit)))
        except SnapshotError:
            return None
        return listing if listing.commit == commit else None

    def faults(self, listing: Listing, *, every_byte: bool) -> list[str]:
        """Return the names of a snapshot's files that are not as they should be."""
        return [
            name
            for name, facts in listing.files.items()
            if not _is_good(self.snapshot(listing.commit) / name, facts, every_byte=every_byte)
        ]

    def still_to_come(self, listing: Listing, faults: list[str]) -> int:
        """Return how many bytes are still missing for the files named."""
        partial = self.partial(listing.commit)
        sizes = {name: listing.files[name].size for name in faults}
        return sum(
            size - max(0, min(size, _size(part_of(partial / name))))
            for name, size in sizes.items()
            if _size(partial / name) != size
        )

    def begin(self, listing: Listing, faults: list[str]) -> Path:
        """Make the place where a snapshot is assembled, with what is good of a damaged one."""
        partial = self.partial(listing.commit)
        make_directory(partial)
        for name in listing.files.keys() - set(faults):
            with contextlib.suppress(FileExistsError):
                os.link(self.snapshot(listing.commit) / name, partial / name)
        return partial

    def adopt(self, listing: Listing) -> None:
        """Note that a snapshot is complete and verified."""
        _write(self._listing_file(listing.commit), listing.as_json())

    def publish(self, listing: Listing) -> Path:
        """Make a complete download visible, all at once."""
        partial, snapshot = self.partial(listing.commit), self.snapshot(listing.commit)
        for path in partial.iterdir():
            if path.name not in listing.files:
                path.unlink()
        sync_directory(partial)
        self.adopt(listing)
        broken = self.folder / f".{listing.commit}.broken"
        if snapshot.exists():
            shutil.rmtree(broken, ignore_errors=True)
            snapshot.rename(broken)
        partial.rename(snapshot)
        sync_directory(self.folder)
        shutil.rmtree(broken, ignore_errors=True)
        return snapshot

    def snapshots(self) -> list[str]:
        """Return the commits that are here."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if COMMIT.fullmatch(path.name))

    def others(self, commit: str) -> list[Path]:
        """Return what is here of other commits: snapshots, and downloads that were given up."""
        if not self.folder.is_dir():
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.is_dir() and COMMIT.search(path.name) and commit not in path.name
        )

    def remove(self, path: Path) -> None:
        """Remove a snapshot, hidden first: a reader sees all of it or nothing."""
        hidden = self.folder / f".{path.name.strip('.').partition('.')[0]}.broken"
        if path != hidden:
            path.rename(hidden)
        shutil.rmtree(hidden)
        self._listing_file(path.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second run out. The lock goes with the process, however it ends."""
        make_directory(self.folder)
        with (self.folder / ".busy").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SnapshotError(
                    "download-running",
                    f"Another run is downloading into {self.folder}, perhaps one whose connection "
                    "was lost.",
                    {"log": str(self.log)},
                ) from error
            yield


def in_use(paths: list[Path], processes: Path = Path("/proc")) -> list[Path]:
    """Return the directories that a process or a container has open or mounted."""
    used: set[Path] = set()
    for process in processes.iterdir():
        if process.name.isdigit():
            traces = "\n".join(_traces(process))
            # A mount names a directory from the root of its own file system: compare the end.
            used |= {path for path in paths if f"/{path.parent.name}/{path.name}" in traces}
    return sorted(used)


def _traces(process: Path) -> Iterator[str]:
    """Give what a process has open, mapped and mounted, as far as it still runs."""
    for name in ("maps", "mountinfo"):
        with contextlib.suppress(OSError):
            yield (process / name).read_text(errors="replace")
    links = [process / "cwd"]
    with contextlib.suppress(OSError):
        links += (process / "fd").iterdir()
    for link in links:
        with contextlib.suppress(OSError):
            yield str(link.readlink())


def part_of(path: Path) -> Path:
    """Where a file is while it is not yet verified."""
    return path.with_name(f"{path.name}.part")


def make_directory(path: Path) -> None:
    """Make a directory and those above it, open to every reader whatever the umask is."""
    if not path.is_dir():
        if path.parent != path:
            make_directory(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def free_space(path: Path) -> int:
    """Return the bytes that can still be written under a path, which need not exist yet."""
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def _is_good(path: Path, facts: FileFacts, *, every_byte: bool) -> bool:
    if _size(path) != facts.size:
        return False
    if not every_byte:
        return True
    digest = facts.digest()
    with path.open("rb") as file:
        digest.update_from(file)
    return digest.matches()


def _size(path: Path) -> int:
    """Return a file's size, -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _read(path: Path) -> JsonObject:
    """Read one of our own notes; a missing or damaged one counts as empty."""
    try:
        return read_json_object(path)
    except (OSError, JsonError):
        return {}


def _write(path: Path, value: JsonObject) -> None:
    """Write one of our own notes, for every reader."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n", mode=0o644)
