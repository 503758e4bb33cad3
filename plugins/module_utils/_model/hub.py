# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talks to a model hub by way of huggingface_hub, and gives each of its failures a name.

huggingface_hub keeps no half file from one process to the next (it did once), so the files that
are resumed are ours; requests, redirects, retries and rate limits are its.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._model.store import (
    FileFacts,
    Listing,
    SnapshotError,
    make_directory,
    needed_files,
    part_of,
)

# huggingface_hub reads these as it is imported. Its other way, Xet, can't go on where a killed run
# stopped; a token comes from the play or not at all.
for _variable in (
    "HF_HUB_DISABLE_XET",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_UPDATE_CHECK",
):
    os.environ[_variable] = "1"
# What it would log of its attempts, the failure's text says once.
os.environ["HF_HUB_VERBOSITY"] = "critical"
try:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, constants, errors, hf_hub_url
    from huggingface_hub.file_download import http_get
except ImportError:
    HAS_HUGGINGFACE_HUB = False
else:
    HAS_HUGGINGFACE_HUB = True
    # What a connection that is cut may lose: 10 MiB would be more than some lines bring in one go.
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 20

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEFAULT_ENDPOINT = "https://huggingface.co"
ATTEMPTS = 5
TIMEOUT = 30
LONGEST_PAUSE = 300
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404
RANGE_NOT_SATISFIABLE = 416
MAY_PASS = (408, 429, 500, 502, 503, 504)
TOO_MANY_REQUESTS = 429
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EFBIG)

_Result = t.TypeVar("_Result")


class Hub:
    """One hub, with or without a token."""

    def __init__(self, endpoint: str, token: str | None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token

    def listing(self, repository: str, revision: str) -> Listing:
        """Resolve a revision and list its files."""
        api = HfApi(endpoint=self.endpoint, token=self._token or False)
        try:
            info = self._patiently(
                repository,
                f"{repository} at revision {revision}",
                lambda: api.model_info(
                    repository, revision=revision, files_metadata=True, timeout=TIMEOUT
                ),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise self._failure("hub-not-a-hub", repository, repository) from error
        files = {
            sibling.rfilename: FileFacts(
                size=int(sibling.size or 0),
                sha256=sibling.lfs.sha256 if sibling.lfs else None,
                git_sha1=None if sibling.lfs else sibling.blob_id,
            )
            for sibling in info.siblings or []
        }
        listing = Listing(
            repository=repository,
            commit=str(info.sha),
            license=str(getattr(info.card_data, "license", None) or ""),
            gated=bool(info.gated),
            files=needed_files(files),
        )
        listing.check()
        return listing

    def fetch(
        self, listing: Listing, name: str, directory: Path, count: Callable[[int], None]
    ) -> None:
        """Bring one file into a directory; it gets its name there once it is verified."""
        make_directory(directory)
        target = directory / name
        with contextlib.closing(_PartFile(part_of(target), listing.files[name], count)) as part:
            if not part.whole():
                self._download(listing, name, part)
            if not part.verified():
                # A byte was flipped on the way, or a power cut took some of an earlier part.
                part.restart()
                self._download(listing, name, part)
            if not part.verified():
                part.restart()
                raise self._failure(
                    "checksum-mismatch", listing.repository, f"{name} of {listing.repository}"
                )
        part_of(target).replace(target)

    def _download(self, listing: Listing, name: str, part: _PartFile) -> None:
        url = hf_hub_url(listing.repository, name, revision=listing.commit, endpoint=self.endpoint)
        # Compressed on the way, a file could not be resumed at a byte.
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        self._patiently(
            listing.repository,
            f"{name} of {listing.repository}",
            lambda: http_get(
                url,
                t.cast("t.BinaryIO", part),
                resume_size=part.tell(),
                headers=headers,
                expected_size=listing.files[name].size,
            ),
            out_of_range=part.restart,
        )

    def _patiently(
        self,
        repository: str,
        subject: str,
        call: Callable[[], _Result],
        out_of_range: Callable[[], None] | None = None,
    ) -> _Result:
        """Try again what may pass; name what will not."""
        for attempt in range(1, ATTEMPTS + 1):
            pause = 2 ** (attempt - 1)
            try:
                return call()
            except errors.HfHubHTTPError as error:
                status = error.response.status_code
                if status == RANGE_NOT_SATISFIABLE and out_of_range:
                    out_of_range()
                elif status not in MAY_PASS or attempt == ATTEMPTS:
                    failure = _failure_of(error, status)
                    raise self._failure(failure, repository, subject, status=status) from error
                asked = error.response.headers.get("Retry-After", "")
                pause = min(int(asked), LONGEST_PAUSE) if asked.isdigit() else pause
            except (HTTPError, OSError) as error:
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    raise
                offline = isinstance(error, errors.OfflineModeIsEnabled)
                if offline or attempt == ATTEMPTS:
                    # Some errors quote an address that was signed for this download: cut that.
                    reason = (str(error) or type(error).__name__).splitlines()[0]
                    raise self._failure(
                        "hub-offline" if offline else "hub-unreachable",
                        repository,
                        subject,
                        reason=reason.partition("?")[0].rstrip("."),
                    ) from error
            time.sleep(pause)
        raise self._failure("hub-server-error", repository, subject, status=RANGE_NOT_SATISFIABLE)

    def _failure(
        self, failure: str, repository: str, subject: str, **more: object
    ) -> SnapshotError:
        words = {
            "subject": subject,
            "endpoint": self.endpoint,
            "repository": repository,
            "reader": "the owner of this token" if self._token else "a request without a token",
        }
        return SnapshotError(
            failure, words=words | {name: str(value) for name, value in more.items()}
        )


def _failure_of(error: errors.HfHubHTTPError, status: int) -> str:
    """Name what the hub answered, the more particular first."""
    kinds = (
        ("hub-license-not-accepted", isinstance(error, errors.GatedRepoError)),
        ("hub-repository-not-found", isinstance(error, errors.RepositoryNotFoundError)),
        ("hub-revision-not-found", isinstance(error, errors.RevisionNotFoundError)),
        ("hub-file-not-found", status == NOT_FOUND),
        ("hub-token-refused", status in {UNAUTHORIZED, FORBIDDEN}),
        ("hub-rate-limited", status == TOO_MANY_REQUESTS),
    )
    return next((name for name, is_it in kinds if is_it), "hub-server-error")


class _PartFile:
    """A file on its way: huggingface_hub writes to it, and it is hashed as it goes by."""

    def __init__(self, path: Path, facts: FileFacts, count: Callable[[int], None]) -> None:
        self._facts = facts
        self._digest = facts.digest()
        self._count = count
        path.touch()
        path.chmod(0o644)
        self._file = path.open("r+b")
        if path.stat().st_size > facts.size:
            self._file.truncate()
        self._digest.update_from(self._file)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._count(len(data))
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> None:
        """Go back to the start, as when the hub ignored the range asked for; nothing else is."""
        if position:
            raise NotImplementedError
        self.restart()

    def truncate(self) -> None:
        """Cut off what follows: a seek has done so."""

    def restart(self) -> None:
        self._count(-self.tell())
        self._file.seek(0)
        self._file.truncate()
        self._digest.restart()

    def whole(self) -> bool:
        return self.tell() == self._facts.size

    def verified(self) -> bool:
        return self.whole() and self._digest.matches()
