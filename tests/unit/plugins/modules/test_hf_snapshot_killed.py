# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""hf_snapshot killed with signal 9 at random moments: half a model is never seen."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model import snapshot
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import Store
from ansible_collections.sparerig.llm.plugins.modules import hf_snapshot
from hub_server import HubServer, running
from huggingface_hub import constants
from model_files import model_files
from module_arguments import patch_module_args

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess
    from pathlib import Path

NAME = "example/model"
FILES = model_files(1 << 18)
# Seconds that a download takes at this pace; it is killed within them.
PAUSE = 0.004
LENGTH = 0.5


def run_module(endpoint: str, root: str) -> None:
    """Run the module in a process of its own."""
    snapshot.RESERVE = 0
    constants.DOWNLOAD_CHUNK_SIZE = 4096
    options = {"repository": NAME, "endpoint": endpoint, "root": root}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with patch_module_args(options):
        hf_snapshot.main()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with running(FILES) as server:
        server.pause = PAUSE
        yield server


@pytest.mark.parametrize("seed", range(20))
def test_killed_then_complete(hub: HubServer, tmp_path: Path, seed: int) -> None:
    # A fork server: each process starts clean, and none has to import everything again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, hf_snapshot.__name__])
    store = Store(tmp_path, NAME)
    commit = hub.repositories[NAME].refs["main"]

    def start() -> BaseProcess:
        process = context.Process(target=run_module, args=(hub.url, str(tmp_path)))
        process.start()
        return process

    moments = random.Random(seed)  # noqa: S311  the moments need not be secret
    for _attempt in range(2):
        process = start()
        process.join(moments.uniform(0, LENGTH))
        process.kill()
        process.join()
        if store.snapshots():
            assert content(store, commit) == FILES

    process = start()
    process.join()
    assert process.exitcode == 0
    assert content(store, commit) == FILES
    assert not list(tmp_path.rglob("*.part*"))
    lock = json.loads((store.folder / "lock.json").read_text())
    assert lock["revisions"] == {"main": commit}


def content(store: Store, commit: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.snapshot(commit).iterdir()}
