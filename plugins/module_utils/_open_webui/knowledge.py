# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Knowledge bases of Open WebUI, synchronised with files by the hash of their content.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import hashlib
import os
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import (
    Change,
    Grant,
    Mode,
    describe_grants,
    grant_list,
    grants_for,
    grants_of,
    only_differences,
    refuse_duplicates,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUI,
    OpenWebUIError,
    quoted,
)
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.users import groups_by_name

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Entry = t.Mapping[str, t.Any]
Record = dict[str, t.Any]

MIB = 1024 * 1024
_POLL = 0.25
_SAMPLE = 8192
# Binary formats that Open WebUI has a reader for; any other is indexed as noise.
_BINARY_DOCUMENTS = {
    ".doc",
    ".docx",
    ".epub",
    ".msg",
    ".odt",
    ".pdf",
    ".ppt",
    ".pptx",
    ".rtf",
    ".xls",
    ".xlsx",
}


@dataclass(frozen=True)
class LocalFile:
    """A file that shall be in a knowledge base."""

    path: Path
    folder: str
    size: int
    sha256: str

    @property
    def shown(self) -> str:
        """Name it as the knowledge base does."""
        return f"{self.folder}/{self.path.name}" if self.folder else self.path.name


def find_files(entry: Entry) -> list[LocalFile]:
    """List the files of an entry; check all of them before any is sent."""
    limit = entry["max_file_size"] * MIB
    found: list[LocalFile] = []
    problems: list[str] = []
    for path, folder in _walk(entry["src"]):
        problem = _unsuitable(path, limit)
        if problem:
            problems.append(f"{path} {problem}")
            continue
        with path.open("rb") as file:
            digest = _sha256(file)
        found.append(LocalFile(path, folder, path.stat().st_size, digest))
    problems += [
        f"{a.path} and {b.path} have the same content" for a, b in _twins(found, lambda f: f.sha256)
    ]
    problems += [
        f"{a.path} and {b.path} would have the same name"
        for a, b in _twins(found, lambda f: f.shown)
    ]
    if problems:
        message = (
            f"Knowledge base {entry['name']}: {'; '.join(problems)}. "
            "Leave these out, or fix them. Nothing was changed."
        )
        raise OpenWebUIError(message)
    return found


def _walk(sources: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield every file with the folder it gets; of a directory all but the hidden ones."""
    for source in map(Path, sources):
        if source.is_dir():
            for root, folders, names in os.walk(source):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                folder = Path(root).relative_to(source).as_posix()
                for name in sorted(name for name in names if not name.startswith(".")):
                    yield Path(root, name), "" if folder == "." else folder
        else:
            yield source, ""


def _unsuitable(path: Path, limit: int) -> str:
    """Say why Open WebUI could not make sense of a file, or nothing."""
    try:
        if not path.is_file():
            return "is not a file" if path.exists() else "does not exist on this host"
        size = path.stat().st_size
        if size == 0:
            return "is empty"
        if size > limit:
            return f"has {size / MIB:.0f} MiB, more than max_file_size ({limit // MIB} MiB)"
        with path.open("rb") as file:
            sample = file.read(_SAMPLE)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if b"\0" in sample and path.suffix.lower() not in _BINARY_DOCUMENTS:
        return "is neither text nor a document format that Open WebUI reads"
    return ""


def _sha256(file: t.BinaryIO) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(MIB), b""):
        digest.update(block)
    return digest.hexdigest()


def _twins(
    files: Sequence[LocalFile], key: Callable[[LocalFile], str]
) -> Iterator[tuple[LocalFile, LocalFile]]:
    first: dict[str, LocalFile] = {}
    for file in files:
        other = first.setdefault(key(file), file)
        if other is not file:
            yield other, file


def check_knowledge(entries: Sequence[Entry]) -> dict[str, list[LocalFile]]:
    """Refuse what can be seen to be wrong without asking anybody; find the files of the rest."""
    refuse_duplicates("Knowledge bases", (entry["name"] for entry in entries))
    return {entry["name"]: find_files(entry) for entry in entries if entry["state"] == "present"}


def knowledge_by_name(client: OpenWebUI) -> dict[str, Record]:
    """List the knowledge bases, page by page; refuse to guess between two of one name."""
    items: list[Record] = []
    page = 1
    while True:
        answer = client.get("/api/v1/knowledge/", page=page)
        items += answer["items"]
        if not answer["items"] or len(items) >= answer["total"]:
            break
        page += 1
    refuse_duplicates("Knowledge bases in Open WebUI", (item["name"] for item in items))
    return {item["name"]: item for item in items}


def plan_knowledge(
    client: OpenWebUI, entries: Sequence[Entry], files: Mapping[str, list[LocalFile]], mode: Mode
) -> list[Change]:
    """Compare the wanted knowledge bases and their files with those that exist."""
    existing = knowledge_by_name(client)
    group_ids = {name: group["id"] for name, group in groups_by_name(client).items()}
    changes: list[Change] = []
    for entry in entries:
        record = existing.get(entry["name"])
        if entry["state"] == "absent":
            if record:
                changes.append(_removal(client, record))
            continue
        grants = grants_for(entry, group_ids, f"Knowledge base {entry['name']}", mode)
        names = {group_id: name for name, group_id in group_ids.items()}
        change = _change(client, entry, record, _Wanted(files[entry["name"]], grants, names))
        if change:
            changes.append(change)
    return changes


def _removal(client: OpenWebUI, record: Record) -> Change:
    base = f"/api/v1/knowledge/{quoted(record['id'])}"

    def make() -> None:
        # The files first: deleting the knowledge base alone leaves them behind on the disk.
        client.post(f"{base}/reset")
        client.delete(f"{base}/delete")

    return Change(record["name"], {"description": record["description"]}, None, make)


@dataclass(frozen=True)
class _Wanted:
    """What an entry comes to once its names are looked up."""

    files: Sequence[LocalFile]
    grants: set[Grant]
    group_names: Mapping[str, str]


def _change(
    client: OpenWebUI, entry: Entry, record: Record | None, wanted: _Wanted
) -> Change | None:
    files, grants, names = wanted.files, wanted.grants, wanted.group_names
    sync = _Sync(client, record["id"], files, entry["index_timeout"]) if record else None
    before = {"description": "", "visibility": "private", "files": {}}
    after = {
        "description": entry["description"] if entry["description"] is not None else "",
        "visibility": describe_grants(grants, names),
        "files": {file.shown: file.sha256[:12] for file in files},
    }
    if record:
        if entry["description"] is None:
            after["description"] = record["description"]
        visibility = describe_grants(grants_of(record), names)
        before = {"description": record["description"], "visibility": visibility, "files": {}}
        if sync and not sync.needed():
            before["files"] = after["files"]
        elif sync:
            before["files"], after["files"] = sync.shown()
    if record and before == after:
        return None

    def make() -> None:
        form = {
            "name": entry["name"],
            "description": after["description"],
            "access_grants": grant_list(grants),
        }
        knowledge_id = (
            record["id"] if record else client.post("/api/v1/knowledge/create", form)["id"]
        )
        if record and before["description"] != after["description"]:
            client.post(f"/api/v1/knowledge/{quoted(knowledge_id)}/update", form)
        if record and before["visibility"] != after["visibility"]:
            client.post(
                f"/api/v1/knowledge/{quoted(knowledge_id)}/access/update",
                {"access_grants": grant_list(grants)},
            )
        (sync or _Sync(client, knowledge_id, files, entry["index_timeout"])).make()

    shown = only_differences(before, after) if record else (None, after)
    return Change(entry["name"], shown[0], shown[1], make)


class _Sync:
    """Synchronises the files of one knowledge base: new ones in, then stale ones out."""

    def __init__(
        self, client: OpenWebUI, knowledge_id: str, files: Sequence[LocalFile], timeout: float
    ) -> None:
        self._client = client
        self._base = f"/api/v1/knowledge/{quoted(knowledge_id)}"
        self._id = knowledge_id
        self._files = {(file.folder, file.path.name): file for file in files}
        self._timeout = timeout
        self._stuck = self._outwait_pending()
        self._plan = self._compare()

    def _outwait_pending(self) -> list[str]:
        """Wait for uploads of an earlier run, which count as done already; list what fails."""
        pending = self._client.get(f"{self._base}/files/pending")
        ids = (file["id"] for file in pending)
        return [i for i in ids if wait_until_indexed(self._client, i, self._timeout)]

    def _compare(self) -> Record:
        manifest = [
            {"filename": name, "path": folder, "checksum": file.sha256, "size": file.size}
            for (folder, name), file in self._files.items()
        ]
        plan: Record = self._client.post(f"{self._base}/sync/diff", {"manifest": manifest})
        return plan

    def needed(self) -> bool:
        return bool(self._stuck) or any(
            self._plan[key] for key in ("added", "modified", "deleted", "mkdir", "rmdir")
        )

    def shown(self) -> tuple[dict[str, str], dict[str, str]]:
        """Name the files that differ, before and after."""
        new = [
            self._files[item["path"], item["filename"]]
            for item in (*self._plan["added"], *self._plan["modified"])
        ]
        stale = {
            _shown(item["path"], item["filename"]): "an older content"
            for item in self._plan["modified"]
        }
        gone = {item["filename"]: "there" for item in self._plan["deleted"]}
        gone |= {f"upload {file_id}": "never indexed" for file_id in self._stuck}
        return {**stale, **gone}, {file.shown: file.sha256[:12] for file in new}

    def make(self) -> None:
        if self._stuck:
            for file_id in self._stuck:
                self._client.delete(f"/api/v1/files/{quoted(file_id)}")
            self._stuck = []
            self._plan = self._compare()
        folders = self._make_folders()
        sent: list[tuple[LocalFile, str]] = []
        for item in (*self._plan["added"], *self._plan["modified"]):
            file = self._files[item["path"], item["filename"]]
            metadata = {"knowledge_id": self._id, "file_hash": file.sha256}
            if file.folder:
                metadata["directory_id"] = folders[file.folder]
            try:
                content = file.path.read_bytes()
            except OSError as error:
                raise OpenWebUIError(f"{file.path} cannot be read ({error.strerror}).") from error
            sent.append((file, self._client.upload(file.path.name, content, metadata)["id"]))
        self._wait_until_indexed(sent)
        stale = [item["stale_file_id"] for item in self._plan["modified"]]
        stale += [item["file_id"] for item in self._plan["deleted"]]
        if stale or self._plan["rmdir"]:
            self._client.post(
                f"{self._base}/sync/cleanup", {"file_ids": stale, "dir_ids": self._plan["rmdir"]}
            )
        self._plan = self._compare()
        if self.needed():
            message = (
                "After everything was sent and indexed, Open WebUI still misses something: "
                f"{self._plan}. Does someone else change it?"
            )
            raise OpenWebUIError(message)

    def _make_folders(self) -> dict[str, str]:
        folders: dict[str, str] = dict(self._plan["directory_map"])
        for path in self._plan["mkdir"]:
            parent, _unused, name = path.rpartition("/")
            form = {"name": name, "parent_id": folders[parent] if parent else None}
            folders[path] = self._client.post(f"{self._base}/dirs/create", form)["id"]
        return folders

    def _wait_until_indexed(self, sent: Sequence[tuple[LocalFile, str]]) -> None:
        """Hold out until every file is indexed: an upload that is answered 200 may still fail."""
        failed: list[str] = []
        for file, file_id in sent:
            error = wait_until_indexed(self._client, file_id, self._timeout)
            if error:
                failed.append(f"{file.path}: {error}")
                self._client.delete(f"/api/v1/files/{quoted(file_id)}")
        if failed:
            raise OpenWebUIError(f"Open WebUI could not index {'; '.join(failed)}")


def wait_until_indexed(client: OpenWebUI, file_id: str, timeout: float) -> str:
    """Wait for the end of indexing; return why it failed, or nothing."""
    deadline = time.monotonic() + timeout
    while True:
        data = client.get(f"/api/v1/files/{quoted(file_id)}").get("data") or {}
        if data.get("status") == "completed":
            return ""
        if data.get("status") == "failed":
            return _explained(str(data.get("error") or "no reason given"))
        if time.monotonic() > deadline:
            status = data.get("status", "pending")
            return f"still {status} after {timeout:g} s; raise index_timeout, or see the log"
        time.sleep(_POLL)


def _explained(error: str) -> str:
    if "No embedding model" in error or "NoneType" in error:
        return (
            f"{error} (the embedding model is not loaded: "
            "RAG_EMBEDDING_MODEL has to be a folder that the container sees)"
        )
    return error


def _shown(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
