# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the host under test, in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t

from conftest import PROJECT

if t.TYPE_CHECKING:
    from conftest import Rig


def test_a_person_chats_in_a_real_browser(rig: Rig) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", "tests/browser/test_engine.py"],
        cwd=PROJECT,
        env={
            **os.environ,
            "OPEN_WEBUI_URL": f"http://{rig.address}:8080",
            "OPEN_WEBUI_ADMIN_EMAIL": "admin@localhost.localdomain",
            "OPEN_WEBUI_ADMIN_PASSWORD": rig.secret("sparerig-open-webui", "WEBUI_ADMIN_PASSWORD"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (PROJECT / "tests/output/browser/first-answer.png").stat().st_size > 0
