# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server by which one host of a site offers a model to another."""

from __future__ import annotations

import importlib.util
import threading
import typing as t
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._model import snapshot
from ansible_collections.sparerig.llm.plugins.modules import hf_snapshot
from hub_server import running
from model_files import model_files

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = Path(__file__).parents[3] / "roles/model/files/share.py"
FILES = model_files(1 << 16)
Offer = tuple[str, str, dict[str, t.Any]]


@pytest.fixture
def offer(
    run_module: Callable[..., dict[str, t.Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Offer]:
    """Offer a snapshot: the address, the token and the listing."""
    monkeypatch.setattr(snapshot, "RESERVE", 0)
    with running(FILES) as hub:
        there = run_module(
            hf_snapshot, repository="example/model", endpoint=hub.url, root=str(tmp_path / "there")
        )
    spec = importlib.util.spec_from_file_location("share", SCRIPT)
    assert spec
    assert spec.loader
    share = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(share)
    server = share.Share(Path(there["path"]))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", server.token, there["listing"]
    server.shutdown()
    server.server_close()


def ask(url: str, token: str, span: str = "") -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} | ({"Range": span} if span else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  loopback
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_another_host_fetches_all(
    run_module: Callable[..., dict[str, t.Any]], offer: Offer, tmp_path: Path
) -> None:
    url, token, listing = offer
    answer = run_module(
        hf_snapshot,
        repository="example/model",
        endpoint=url,
        token=token,
        listing=listing,
        root=str(tmp_path / "here"),
    )
    assert answer["changed"]
    assert {path.name: path.read_bytes() for path in Path(answer["path"]).iterdir()} == FILES


def test_ranges(offer: Offer) -> None:
    url, token, listing = offer
    address = f"{url}/example/model/resolve/{listing['commit']}/config.json"
    content = FILES["config.json"]
    assert ask(address, token) == (200, content)
    assert ask(address, token, "bytes=100-") == (206, content[100:])
    assert ask(address, token, f"bytes={len(content) + 1}-") == (416, b"")


def test_nothing_without_the_token(offer: Offer) -> None:
    url, _token, listing = offer
    address = f"{url}/example/model/resolve/{listing['commit']}/config.json"
    assert ask(address, "another") == (401, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/etc/passwd",
        "/a/b/resolve/{commit}/none.json",
        "/a/b/resolve/{commit}/../{commit}.json",
        "/a/b/resolve/{commit}/..%2f{commit}.json",
        "/a/b/resolve/{commit}/.hidden",
        "/a/b/resolve/0000000000000000000000000000000000000000/config.json",
    ],
)
def test_nothing_but_the_snapshot(offer: Offer, path: str) -> None:
    url, token, listing = offer
    assert ask(url + path.format(commit=listing["commit"]), token) == (404, b"")
