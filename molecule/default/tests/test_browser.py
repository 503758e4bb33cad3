# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the host under test, in a real browser: tests/browser says what people do there.

What has to be certain to the word is answered by a stand-in on the engines' network; the rest
by the engine itself.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import typing as t

import pytest
from conftest import PATIENCE, PROJECT

if t.TYPE_CHECKING:
    from conftest import Rig

ENGINE, PAGE = "sparerig-vllm", "sparerig-open-webui"
STAND_IN = "browser-stand-in"


def ssh(*words: str) -> list[str]:
    """Return a command that reaches hosts of the test bed."""
    # A connection of its own: what is forwarded over a shared one would outlive the test.
    return [
        "ssh",
        "-o",
        "ControlPath=none",
        *shlex.split(os.environ["ANSIBLE_SSH_COMMON_ARGS"]),
        *words,
    ]


@pytest.fixture
def tunnel(rig: Rig) -> t.Iterator[str]:
    """Reach the page as the docs tell people to: through SSH, at an address of one's own machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forward = ["-N", "-L", f"127.0.0.1:{port}:127.0.0.1:8080"]
    with subprocess.Popen(ssh(*forward, rig.name)) as process:
        deadline = time.monotonic() + PATIENCE
        with socket.socket() as sock:
            while sock.connect_ex(("127.0.0.1", port)) != 0:
                assert time.monotonic() < deadline, "ssh does not listen"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
def stand_in(rig: Rig) -> t.Iterator[str]:
    """Put tests/browser/upstream.py beside the engine; return where the page finds it."""
    image = rig.root(f"docker inspect --format '{{{{.Image}}}}' {PAGE}").strip()
    rig.root(f"docker rm --force {STAND_IN}")
    script = (PROJECT / "tests/browser/upstream.py").read_bytes()
    place = f"/srv/{STAND_IN}.py"
    copy = ssh(rig.name, f"sudo tee {place}")
    subprocess.run(copy, input=script, stdout=subprocess.DEVNULL, check=True)
    rig.root(
        f"docker run --detach --name {STAND_IN} --network sparerig --volume {place}:{place}:ro"
        f" --entrypoint python3 {image} {place} --host 0.0.0.0"
    )
    yield f"http://{STAND_IN}:8000/v1"
    rig.root(f"docker rm --force {STAND_IN}")
    rig.root(f"rm {place}")


def test_people_use_the_page_in_a_real_browser(rig: Rig, tunnel: str, stand_in: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--verbose",
            "--durations=0",
            "--tb=short",
            "tests/browser",
        ],
        cwd=PROJECT,
        env={
            **os.environ,
            "OPEN_WEBUI_URL": tunnel,
            "OPEN_WEBUI_ADMIN_EMAIL": "admin@localhost.localdomain",
            "OPEN_WEBUI_ADMIN_PASSWORD": rig.secret(PAGE, "WEBUI_ADMIN_PASSWORD"),
            "OPEN_WEBUI_STAND_IN_URL": stand_in,
            "OPEN_WEBUI_ENGINE_SYSTEMCTL": shlex.join(ssh(rig.name, "sudo", "systemctl")),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
