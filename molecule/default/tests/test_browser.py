# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the host under test, in a real browser."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import typing as t

import pytest
from conftest import PROJECT

if t.TYPE_CHECKING:
    from conftest import Rig


@pytest.fixture
def tunnel(rig: Rig) -> t.Iterator[str]:
    """Reach the page as the docs tell people to: through SSH, at an address of one's own machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = shlex.split(os.environ["ANSIBLE_SSH_COMMON_ARGS"])
    forward = ["-N", "-L", f"127.0.0.1:{port}:127.0.0.1:8080"]
    with subprocess.Popen(["ssh", *options, *forward, rig.name]) as ssh:
        for _unused in range(100):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        ssh.terminate()


def test_a_person_chats_in_a_real_browser(rig: Rig, tunnel: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "tests/browser/test_engine.py"],
        cwd=PROJECT,
        env={
            **os.environ,
            "OPEN_WEBUI_URL": tunnel,
            "OPEN_WEBUI_ADMIN_EMAIL": "admin@localhost.localdomain",
            "OPEN_WEBUI_ADMIN_PASSWORD": rig.secret("sparerig-open-webui", "WEBUI_ADMIN_PASSWORD"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (PROJECT / "tests/output/browser/first-answer.png").stat().st_size > 0
