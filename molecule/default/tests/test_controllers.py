# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest and the newest ansible-core run site.yml on a host, and find it as the one in daily use left it."""

from __future__ import annotations

import os
import re

import pytest
from cores.controllers import CORES, controller, interpreter, run


@pytest.mark.parametrize("core", CORES)
def test_another_ansible_core_finds_nothing_to_change(core: str) -> None:
    python = interpreter(CORES[core])
    if python is None:
        pytest.skip(f"ansible-core {core} wants one of Python {CORES[core]}")
    done = run(
        controller(core, python),
        "ansible-playbook",
        "-i",
        f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/inventory",
        "site.yml",
        ANSIBLE_SSH_COMMON_ARGS=os.environ["ANSIBLE_SSH_COMMON_ARGS"],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert re.search(r"changed=0 .*failed=0", done.stdout), done.stdout[-4000:]
    assert "signed in" in done.stdout
