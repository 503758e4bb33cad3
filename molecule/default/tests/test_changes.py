# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed option restarts what it changes, and nothing else; wrong ones change nothing."""

from __future__ import annotations

import json
import typing as t

import pytest

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

ENGINE, PAGE = "sparerig-vllm", "sparerig-open-webui"


def started(rig: Rig) -> dict[str, str]:
    return {unit: rig.show(unit, "ExecMainStartTimestampMonotonic") for unit in (ENGINE, PAGE)}


@pytest.fixture
def restored(play: Play) -> t.Iterator[None]:
    """Bring the host back to what the inventory says, after the test."""
    yield
    assert play().returncode == 0


@pytest.mark.usefixtures("restored")
def test_an_option_of_the_page_restarts_the_page_alone(rig: Rig, play: Play) -> None:
    before = started(rig)
    done = play("-e", "open_webui_name=Family")
    assert done.returncode == 0, done.stdout[-4000:]
    after = started(rig)
    assert after[ENGINE] == before[ENGINE]
    assert after[PAGE] != before[PAGE]
    page = rig.host.check_output("curl --silent http://127.0.0.1:8080/api/config")
    assert json.loads(page)["name"].startswith("Family")


@pytest.mark.usefixtures("restored")
def test_a_changed_key_reaches_both(rig: Rig, play: Play) -> None:
    done = play("-e", "vllm_api_key=another-key-for-a-while")
    assert done.returncode == 0, done.stdout[-4000:]
    assert rig.secret(ENGINE, "VLLM_API_KEY") == "another-key-for-a-while"
    assert rig.secret(PAGE, "OPENAI_API_KEYS") == "another-key-for-a-while"
    assert "web_model" in done.stdout, (
        "verified: the model is seen through the page with the new key"
    )


def test_chats_outlive_the_container(rig: Rig) -> None:
    database = "/var/lib/sparerig/open-webui/webui.db"
    inode = rig.root(f"stat --format %i {database}")
    rig.root(f"systemctl restart {PAGE}")
    assert rig.root(f"stat --format %i {database}") == inode


BAD_INPUT = [
    ("a wrong type", ["model_context=long"], "model_context"),
    ("an unknown device", ["vllm_device=tpu"], "value of vllm_device must be one of: cuda, cpu"),
    (
        "a missing model directory",
        ["sparerig_model=/srv/models/gone"],
        "there is nothing at /srv/models/gone",
    ),
    ("a directory that is no model", ["sparerig_model=/etc"], "config.json"),
    ("a port in use", ["open_webui_port=22"], "port 22 is in use by another program"),
    ("a port that is none", ["open_webui_port=70000"], "ports from 1 to 65535"),
    (
        "an address that is not the host's",
        ["open_webui_listen_address=192.0.2.7"],
        "no such address",
    ),
    ("a key of two lines", ['{"vllm_api_key": "one\\ntwo"}'], "vllm_api_key has a line break"),
    ("too little disk", ["docker_engine_min_free_gib=100000"], "needs 100000 GiB"),
    (
        "an image that is not to be had",
        ["vllm_image=registry:5000/none:1"],
        "docker pull registry:5000/none:1",
    ),
    (
        "daemon.json keys that Docker refuses",
        ['{"docker_engine_daemon_config": {"nonsense": 1}}'],
        "Docker refuses",
    ),
]


@pytest.mark.parametrize(
    ("extra", "said"), [row[1:] for row in BAD_INPUT], ids=[row[0] for row in BAD_INPUT]
)
def test_bad_input_is_named_and_changes_nothing(
    rig: Rig, play: Play, extra: list[str], said: str
) -> None:
    files = (
        "sh -c 'sha256sum /etc/docker/daemon.json /etc/sparerig/* /etc/systemd/system/sparerig-*'"
    )
    before = started(rig), rig.root(files)
    done = play(*(word for value in extra for word in ("-e", value)))
    assert done.returncode != 0
    assert said in " ".join(done.stdout.split()), done.stdout[-4000:]
    assert "changed=0" in done.stdout
    assert (started(rig), rig.root(files)) == before
