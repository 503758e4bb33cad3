# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""hf_snapshot against a real HTTP server that speaks the hub's protocol."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import sys
import time
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model import hub, snapshot
from ansible_collections.sparerig.llm.plugins.module_utils._model.inspection import (
    SMALL_FILES,
    size_text,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import Listing, Store
from ansible_collections.sparerig.llm.plugins.modules import hf_snapshot
from hub_server import Fault, HubServer, running
from model_files import SHARDS, Files, as_json, changed, model_files

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "example/model"
FOLDER = "example--model"
TOKEN = "hf_testtesttest"  # noqa: S105  opens nothing but the server of this test
FILES = model_files(1 << 16)
SIZE = sum(map(len, FILES.values()))
DESC_ACT = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}


@dataclasses.dataclass
class Site:
    """A hub, a disk, and the module between them."""

    hub: HubServer
    root: Path
    call: Callable[..., dict[str, t.Any]]
    pauses: list[float]

    def run(self, **options: object) -> dict[str, t.Any]:
        """Run the module for this hub and this disk."""
        given = {"repository": NAME, "root": str(self.root), "endpoint": self.hub.url}
        return self.call(hf_snapshot, **{**given, **options})

    def content(self, commit: str) -> Files:
        """Return a snapshot's files."""
        directory = self.root / FOLDER / commit
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    def left_behind(self) -> list[str]:
        """Return what a finished run should have removed."""
        return [str(path) for path in self.root.rglob("*") if path.suffix in {".part", ".partial"}]


@pytest.fixture
def site(
    run_module: Callable[..., dict[str, t.Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    # The tests' own disk may be nearly full.
    monkeypatch.setattr(snapshot, "RESERVE", 0)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    with running(FILES) as hub:
        yield Site(hub, tmp_path / "models", run_module, pauses)


def test_download_then_nothing(site: Site) -> None:
    first = site.run()

    commit = site.hub.repositories[NAME].refs["main"]
    assert first["changed"]
    assert first["commit"] == commit
    assert first["path"] == str(site.root / FOLDER / commit)
    assert first["license"] == "llama3"
    assert first["architecture"] == "LlamaForCausalLM"
    assert {check["status"] for check in first["checks"]} == {"pass"}
    assert site.content(commit) == FILES
    assert site.left_behind() == []
    assert first["diff"] == {"before": {"snapshots": []}, "after": {"snapshots": [commit]}}
    log = (site.root / FOLDER / "download.log").read_text()
    assert log.splitlines()[-1].endswith("complete")

    site.hub.requests.clear()
    second = site.run()
    assert not second["changed"]
    assert second["path"] == first["path"]
    assert second["bytes_to_download"] == 0
    assert site.hub.requests == []


def test_second_run_without_network(site: Site) -> None:
    path = site.run()["path"]
    answer = site.run(endpoint="http://127.0.0.1:9")
    assert not answer["changed"]
    assert answer["path"] == path


def test_small_files_come_first(site: Site) -> None:
    site.run()
    names = [r.path.rpartition("/")[2] for r in site.hub.requests if "/resolve/" in r.path]
    assert names[0] == "config.json"
    small = [names.index(name) for name in FILES if name in SMALL_FILES]
    assert max(small) < min(names.index(name) for name in SHARDS)


def test_check_mode_tells_bytes_and_writes_nothing(site: Site) -> None:
    answer = site.run(check=True)
    assert answer["changed"]
    assert answer["bytes_to_download"] == SIZE
    assert not site.root.exists()
    assert not site.hub.weights_sent()

    site.run()
    assert not site.run(check=True)["changed"]


def test_check_mode_finds_a_refused_model(site: Site) -> None:
    site.hub.add(NAME, changed(FILES, quantization_config=DESC_ACT))
    assert site.run(check=True)["failure"] == "act-order-refused"


def test_revision_stays_until_asked(site: Site) -> None:
    old = site.run()["commit"]
    new = site.hub.add(NAME, {**FILES, "README.md": b"newer"})

    assert site.run()["commit"] == old
    lock = json.loads((site.root / FOLDER / "lock.json").read_text())
    assert lock == {"repository": NAME, "revisions": {"main": old}}

    updated = site.run(update=True)
    assert updated["changed"]
    assert updated["commit"] == new
    assert (site.root / FOLDER / old).is_dir()
    assert site.run()["commit"] == new
    assert not site.run(update=True)["changed"]


def test_revision_survives_a_lost_snapshot(site: Site) -> None:
    """What was pinned comes back, even if the branch has moved since."""
    old = site.run()["commit"]
    site.hub.add(NAME, {**FILES, "README.md": b"newer"})
    (site.root / FOLDER / old).rename(site.root / "elsewhere")
    answer = site.run()
    assert answer["changed"]
    assert answer["commit"] == old


def test_tag_and_full_commit(site: Site) -> None:
    commit = site.hub.add(NAME, {**FILES, "README.md": b"tagged"}, "v1")
    assert site.run(revision="v1")["commit"] == commit
    site.hub.requests.clear()
    assert not site.run(revision=commit)["changed"]
    assert site.hub.requests == []


def test_only_what_vllm_loads(site: Site) -> None:
    more = {
        "README.md": b"a card",
        "LICENSE": b"a license",
        ".gitattributes": b"x",
        "model-q4.gguf": b"x",
        "pytorch_model.bin": b"x",
        "pytorch_model.bin.index.json": b"x",
        "consolidated.safetensors": b"x",
        "original/consolidated.00.pth": b"x",
        "onnx/model.onnx": b"x",
    }
    commit = site.hub.add(NAME, {**FILES, **more})
    site.run()
    assert site.content(commit).keys() == FILES.keys() | {"README.md", "LICENSE"}


def test_weights_that_are_damaged_on_the_hub(site: Site) -> None:
    plain = {name: content for name, content in FILES.items() if "safetensors" not in name}
    commit = site.hub.add(NAME, {**plain, "pytorch_model.bin": b"x"})
    answer = site.run()
    assert answer["failure"] == "model-file-damaged"
    assert "not a complete PyTorch file" in answer["msg"]
    assert "pytorch_model.bin" in site.content(commit)


# What the network does to a download, and what becomes of it. The faults hit the second shard.
RECOVERIES: dict[str, list[Fault]] = {
    "connection cut once": [Fault(SHARDS[1] + "?", cut_after=30000)],
    "connection cut four times": [Fault(SHARDS[1] + "?", times=4, cut_after=10000)],
    "cut in the listing": [Fault("/api/models", cut_after=20)],
    "a byte flipped": [Fault(SHARDS[1] + "?", flip_at=12345)],
    "a byte flipped in a small file": [Fault("config.json", flip_at=3)],
    "server error once": [Fault(SHARDS[1] + "?", status=503)],
    "server error in the listing": [Fault("/api/models", times=2, status=502)],
    "too many requests": [Fault(SHARDS[1], status=429, headers={"Retry-After": "7"})],
    "too many listings": [Fault("/api/models", status=429, headers={"Retry-After": "7"})],
    "cut, then the range is ignored": [
        Fault(SHARDS[1] + "?", cut_after=30000),
        Fault(SHARDS[1] + "?", ignore_range=True),
    ],
    "cut, then the range is refused": [
        Fault(SHARDS[1] + "?", cut_after=30000),
        Fault(SHARDS[1] + "?", status=416),
    ],
}


@pytest.mark.parametrize("case", RECOVERIES)
def test_recovery(site: Site, case: str) -> None:
    site.hub.faults = RECOVERIES[case]
    answer = site.run()
    assert "failed" not in answer, answer["msg"]
    assert all(fault.times == 0 for fault in site.hub.faults)
    assert site.content(answer["commit"]) == FILES
    assert site.left_behind() == []


def test_cut_connection_goes_on_where_it_stopped(site: Site) -> None:
    site.hub.faults = [Fault(SHARDS[1] + "?", cut_after=30000)]
    site.run()
    ranges = [r.range for r in site.hub.requests if f"{SHARDS[1]}?" in r.path]
    assert ranges == [None, "bytes=30000-"]


@pytest.mark.parametrize("path", ["/api/models", SHARDS[1]])
def test_retry_after_is_obeyed(site: Site, path: str) -> None:
    site.hub.faults = [Fault(path, status=429, headers={"Retry-After": "7"})]
    site.run()
    assert any(pause in {7, 8} for pause in site.pauses)


# Faults that do not pass: how the hub is set up, options, the failure's name, words of its text.
@dataclasses.dataclass
class Failure:
    """A download that must fail, by name."""

    name: str
    words: tuple[str, ...]
    options: dict[str, t.Any] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    repository: dict[str, bool] = dataclasses.field(default_factory=dict)
    files: Files | None = None
    weights_sent: bool = False


FAILURES = {
    "no such repository": Failure(
        "hub-repository-not-found",
        ("example/other at revision main", "misspelt", "without a token"),
        {"repository": "example/other"},
    ),
    "no such repository, token": Failure(
        "hub-repository-not-found",
        ("example/other", "the owner of this token"),
        {"repository": "example/other", "token": TOKEN},
    ),
    "private": Failure("hub-repository-not-found", ("private",), repository={"private": True}),
    "gated, no token": Failure(
        "hub-license-not-accepted",
        ("config.json of example/model", "without a token", "/settings/tokens", "option token"),
        repository={"gated": True},
    ),
    "gated, not accepted": Failure(
        "hub-license-not-accepted",
        ("config.json of example/model", "not to the owner of this token", "Accept the license"),
        {"token": TOKEN},
        repository={"gated": True},
    ),
    "unknown token": Failure(
        "hub-token-refused", ("HTTP 401", "revoked or mistyped"), {"token": "hf_revoked"}
    ),
    "no such revision": Failure(
        "hub-revision-not-found",
        ("example/model at revision v9", "/commits/main"),
        {"revision": "v9"},
    ),
    "no such commit": Failure("hub-revision-not-found", ("0" * 40,), {"revision": "0" * 40}),
    "a file is listed but not there": Failure(
        "hub-file-not-found",
        ("tokenizer.json of example/model", "HTTP 404", "out of step"),
        faults=[Fault("/tokenizer.json", times=99, status=404)],
    ),
    "too many requests for ever": Failure(
        "hub-rate-limited",
        ("too many requests", "token", "stays"),
        faults=[Fault("config.json", times=999, status=429)],
    ),
    "server error for ever": Failure(
        "hub-server-error",
        ("HTTP 503", "status.huggingface.co"),
        faults=[Fault("/api/models", times=999, status=503)],
    ),
    "a strange status": Failure(
        "hub-server-error", ("HTTP 418",), faults=[Fault("/api/models", status=418)]
    ),
    "the range is refused for ever": Failure(
        "hub-server-error",
        ("HTTP 416", SHARDS[0]),
        faults=[Fault(SHARDS[0] + "?", times=999, status=416)],
        weights_sent=True,
    ),
    "cut for ever": Failure(
        "hub-unreachable",
        (SHARDS[1], "the next run goes on from there"),
        faults=[Fault(SHARDS[1] + "?", times=999, cut_after=0)],
        weights_sent=True,
    ),
    "nobody there": Failure(
        "hub-unreachable",
        ("http://127.0.0.1:9", "curl -I", "proxy"),
        {"endpoint": "http://127.0.0.1:9"},
    ),
    "flipped for ever": Failure(
        "checksum-mismatch",
        (SHARDS[1], "arrived twice", "memory"),
        faults=[Fault(SHARDS[1] + "?", times=999, flip_at=5)],
        weights_sent=True,
    ),
    "a login page": Failure(
        "hub-not-a-hub",
        ("login page", "curl -i"),
        faults=[Fault("/api/models", status=200)],
    ),
    "activation ordering": Failure(
        "act-order-refused",
        ("desc_act", "not downloaded", "vLLM 0.30"),
        files=changed(FILES, quantization_config=DESC_ACT),
    ),
    "a template of another tokenizer": Failure(
        "chat-template-token-missing",
        ("tokenizer_config.json writes <|im_end|>, <|im_start|>", "not downloaded"),
        files={
            **FILES,
            "tokenizer_config.json": as_json({"chat_template": "<|im_start|>{{ m }}<|im_end|>"}),
        },
    ),
    "an unknown parser": Failure(
        "parser-unknown",
        ("knows no --tool-call-parser 'llama3'", "Perhaps llama3_json", "not downloaded"),
        {"tool_call_parser": "llama3"},
    ),
    "a parser of another family": Failure(
        "parser-not-for-tokenizer",
        ("llama3_json needs <|python_tag|>", "Set model_tool_call_parser: auto"),
        {"tool_call_parser": "llama3_json"},
    ),
    "a reasoning parser of a later version": Failure(
        "parser-unknown",
        ("vLLM 0.32 knows no --reasoning-parser 'step5'",),
        {"reasoning_parser": "step5", "vllm_image": "vllm/vllm-openai:v0.32.0"},
    ),
    "a damaged tokenizer": Failure(
        "model-file-damaged",
        ("tokenizer.json: it has no vocabulary", "not downloaded"),
        files={**FILES, "tokenizer.json": b"{}"},
    ),
    "no chat template": Failure(
        "chat-template-missing",
        ("base model", "Choose another release"),
        files={**FILES, "tokenizer_config.json": b"{}"},
    ),
    "no config.json": Failure(
        "model-config-missing",
        ("no config.json",),
        files={name: content for name, content in FILES.items() if name != "config.json"},
    ),
    "a shard is not in the repository": Failure(
        "model-weights-missing",
        (SHARDS[1], "Choose another release"),
        files={name: content for name, content in FILES.items() if name != SHARDS[1]},
    ),
    "only GGUF": Failure("listing-invalid", ("0 files",), files={"model-q4.gguf": b"x"}),
    "license not allowed": Failure(
        "license-not-allowed",
        ("llama3", "apache-2.0, mit"),
        {"licenses": ["apache-2.0", "mit"]},
    ),
    "token with a line break": Failure(
        "token-invalid", ("line break", "trim"), {"token": f"{TOKEN}\n"}
    ),
    "token with a blank": Failure("token-invalid", ("blank",), {"token": f"Bearer {TOKEN}"}),
    "repository is a name": Failure(
        "repository-invalid", ("'llama'", "ORGANISATION/NAME"), {"repository": "llama"}
    ),
    "repository is an address": Failure(
        "repository-invalid",
        ("https://huggingface.co/a/b",),
        {"repository": "https://huggingface.co/a/b"},
    ),
    "repository leads out": Failure("repository-invalid", ("'../x'",), {"repository": "../x"}),
    "no revision": Failure("revision-invalid", ("''",), {"revision": ""}),
    "relative root": Failure("root-invalid", ("models",), {"root": "models"}),
    "too many workers": Failure("workers-invalid", ("1 to 16",), {"workers": 17}),
    "no listing": Failure("listing-invalid", ("not a listing",), {"listing": {"files": 1}}),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_has_a_name(site: Site, case: str) -> None:
    failure = FAILURES[case]
    site.hub.grants[TOKEN] = set()
    if failure.files is not None:
        site.hub.add(NAME, failure.files)
    for attribute, value in failure.repository.items():
        setattr(site.hub.repositories[NAME], attribute, value)
    site.hub.faults = [dataclasses.replace(fault) for fault in failure.faults]

    answer = site.run(**failure.options)

    assert answer["failed"]
    assert answer["failure"] == failure.name, answer["msg"]
    for word in failure.words:
        assert word in answer["msg"]
    assert site.hub.weights_sent() == failure.weights_sent
    assert Store(site.root, NAME).snapshots() == []
    assert "Signature" not in json.dumps(answer)
    assert TOKEN not in json.dumps(answer)


def test_after_a_failure_what_was_fetched_is_kept(site: Site) -> None:
    site.hub.faults = [
        Fault(SHARDS[1] + "?", cut_after=40000),
        Fault(SHARDS[1] + "?", times=99, cut_after=0),
    ]
    assert site.run(workers=1)["failure"] == "hub-unreachable"
    site.hub.faults = []
    site.hub.requests.clear()
    assert site.run(check=True)["bytes_to_download"] < SIZE - 40000
    site.hub.requests.clear()

    assert "failed" not in site.run()
    assert [r.range for r in site.hub.requests if f"{SHARDS[1]}?" in r.path] == ["bytes=40000-"]
    assert site.hub.asked_for(SHARDS[0]) == 0


@pytest.mark.parametrize("damage", [b"", b"x" * 100, b"x" * 999999])
def test_damaged_part_is_fetched_again(site: Site, damage: bytes) -> None:
    """As after a power cut: a part whose content is not what was sent."""
    commit = site.hub.repositories[NAME].refs["main"]
    partial = site.root / FOLDER / f".{commit}.partial"
    partial.mkdir(parents=True)
    (partial / f"{SHARDS[0]}.part").write_bytes(damage)
    site.run()
    assert site.content(commit) == FILES


def test_gated_with_a_grant(site: Site) -> None:
    site.hub.repositories[NAME].gated = True
    site.hub.grants[TOKEN] = {NAME}
    answer = site.run(token=TOKEN)
    assert answer["gated"]
    # The token goes to the hub alone: not to its CDN, not to the disk, not into the answer.
    seen = {(r.port == site.hub.cdn_port, r.authorization) for r in site.hub.requests}
    assert seen == {(False, f"Bearer {TOKEN}"), (True, None)}
    assert TOKEN not in json.dumps({**answer, "invocation": None})
    for path in site.root.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


def test_offline_variable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    answer = site.run()
    assert answer["failure"] == "hub-offline"
    assert site.pauses == []


def test_endpoint_of_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.hub.url)
    assert site.call(hf_snapshot, repository=NAME, root=str(site.root))["changed"]


def test_disk_too_small(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "free_space", lambda _path: SIZE // 2)
    for check in (True, False):
        answer = site.run(check=check)
        assert answer["failure"] == "disk-full"
        assert f"{size_text(SIZE // 2)} free" in answer["msg"]
        assert "prune" in answer["msg"]
    assert not site.hub.weights_sent()


@pytest.mark.parametrize(
    ("number", "failure", "words"),
    [
        (errno.ENOSPC, "disk-full", "filled up"),
        (errno.EDQUOT, "disk-full", "filled up"),
        (errno.EIO, "disk-error", "dmesg"),
        (errno.EROFS, "disk-error", "findmnt"),
    ],
)
def test_disk_fails_on_the_way(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int, failure: str, words: str
) -> None:
    fetch = hub.Hub.fetch

    def fail(hub: hub.Hub, listing: Listing, name: str, *more: t.Any) -> None:
        if name == SHARDS[1]:
            raise OSError(number, os.strerror(number))
        fetch(hub, listing, name, *more)

    monkeypatch.setattr(hub.Hub, "fetch", fail)
    answer = site.run()
    assert answer["failure"] == failure
    assert words in answer["msg"]


def test_root_that_cannot_be_made(site: Site) -> None:
    site.root.write_text("a file")
    answer = site.run()
    assert answer["failure"] == "disk-error"
    assert str(site.root) in answer["msg"]


def test_second_run_at_the_same_time(site: Site) -> None:
    folder = site.root / FOLDER
    folder.mkdir(parents=True)
    with (folder / ".busy").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        answer = site.run()
    assert answer["failure"] == "download-running"
    assert f"`tail -n 3 {folder}/download.log`" in answer["msg"]
    assert site.run()["changed"]


# A snapshot that was complete once.
def test_lost_file_is_fetched_alone(site: Site) -> None:
    commit = site.run()["commit"]
    (site.root / FOLDER / commit / SHARDS[0]).unlink()
    site.hub.requests.clear()
    assert site.run()["changed"]
    assert site.content(commit) == FILES
    assert site.hub.asked_for("/resolve/") == 1
    assert site.left_behind() == []


def test_flipped_byte_on_the_disk(site: Site) -> None:
    commit = site.run()["commit"]
    path = site.root / FOLDER / commit / SHARDS[1]
    damaged = bytearray(FILES[SHARDS[1]])
    damaged[5000] ^= 1
    path.write_bytes(damaged)

    assert not site.run()["changed"]
    assert site.run(verify="every_byte", check=True)["bytes_to_download"] == len(damaged)
    assert site.run(verify="every_byte")["changed"]
    assert site.content(commit) == FILES
    assert not site.run(verify="every_byte")["changed"]


def test_snapshot_that_was_put_there_by_hand(site: Site) -> None:
    commit = site.run()["commit"]
    (site.root / FOLDER / f"{commit}.json").unlink()
    site.hub.requests.clear()
    answer = site.run()
    assert answer["bytes_to_download"] == 0
    assert site.hub.asked_for("/resolve/") == 0
    site.hub.requests.clear()
    site.run()
    assert site.hub.requests == []


# Old revisions.
def test_prune_keeps_what_is_in_use(site: Site) -> None:
    commits = []
    for text in (b"1", b"2", b"3"):
        site.hub.add(NAME, {**FILES, "README.md": text})
        commits.append(site.run(update=True)["commit"])
    first, second, third = (site.root / FOLDER / commit for commit in commits)

    with (first / "config.json").open():
        told = site.run(prune=True, check=True)
        assert told["pruned"] == [str(second)]
        assert second.is_dir()
        answer = site.run(prune=True)
    assert answer["changed"]
    assert answer["pruned"] == [str(second)]
    assert answer["kept_in_use"] == [str(first)]
    assert answer["diff"]["after"] == {"snapshots": sorted([commits[0], commits[2]])}
    assert not second.exists()
    assert not second.with_suffix(".json").exists()

    assert site.run(prune=True)["pruned"] == [str(first)]
    assert not site.run(prune=True)["changed"]
    assert third.is_dir()


def test_prune_removes_downloads_that_were_given_up(site: Site) -> None:
    site.run()
    given_up = site.root / FOLDER / f".{'a' * 40}.partial"
    given_up.mkdir()
    assert site.run(prune=True)["pruned"] == [str(given_up)]
    assert not given_up.exists()


# From another host of the site.
def test_listing_of_another_host(site: Site) -> None:
    listing = site.run()["listing"]
    site.hub.requests.clear()
    answer = site.run(root=str(site.root / "second"), listing=listing)
    assert answer["changed"]
    assert answer["commit"] == listing["commit"]
    assert site.hub.asked_for("/api/") == 0
    again = site.run(root=str(site.root / "second"), listing=listing)
    assert not again["changed"]


def test_other_host_need_not_be_trusted(site: Site) -> None:
    listing = site.run()["listing"]
    repository = site.hub.repositories[NAME]
    content = bytearray(FILES[SHARDS[0]])
    content[-1] ^= 1
    repository.commits[listing["commit"]][SHARDS[0]] = bytes(content)
    answer = site.run(root=str(site.root / "second"), listing=listing)
    assert answer["failure"] == "checksum-mismatch"


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "main"},
        {"files": {}},
        {"files": {"../x": {"size": 1, "sha256": "0" * 64, "git_sha1": None}}},
        {"files": {"x": {"size": 1, "sha256": None, "git_sha1": None}}},
        {"repository": "example/other"},
    ],
)
def test_listing_that_cannot_be_used(site: Site, change: dict[str, t.Any]) -> None:
    listing = site.run()["listing"]
    answer = site.run(root=str(site.root / "second"), listing={**listing, **change})
    assert answer["failure"] == "listing-invalid"


@pytest.mark.parametrize("half_installed", [False, True])
def test_client_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, half_installed: bool
) -> None:
    site.run()
    monkeypatch.setattr(hf_snapshot, "HAS_HUGGINGFACE_HUB", False)
    monkeypatch.setattr(hf_snapshot, "has_respawned", lambda: half_installed)
    python = sys.executable if half_installed else "/nonexistent/python"
    assert not site.run(python=python)["changed"], "a complete snapshot needs no client"

    elsewhere = str(site.root / "second")
    told = site.run(root=elsewhere, python=python, check=True)
    assert told["changed"]
    assert "would be downloaded" in told["msg"]
    answer = site.run(root=elsewhere, python=python)
    assert answer["failure"] == "client-missing"
    assert "Run the role model first" in answer["msg"]


def test_client_of_another_python(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def respawn(python: str) -> None:
        asked.append(python)
        sys.exit(0)

    monkeypatch.setattr(hf_snapshot, "HAS_HUGGINGFACE_HUB", False)
    monkeypatch.setattr(hf_snapshot, "respawn_module", respawn)
    with pytest.raises(json.JSONDecodeError):  # this process answers nothing: the other one does
        site.run(python=sys.executable)
    assert asked == [sys.executable]
