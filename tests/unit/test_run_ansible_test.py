# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of ansible-test that tests nothing is a failure, whatever ansible-test itself makes of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "run_ansible_test.sh"


@pytest.mark.parametrize(
    ("said", "status", "expected"),
    [
        ('Running sanity test "compile" on Python 3.11', 0, 0),
        ('Running sanity test "compile" on Python 3.11', 7, 7),
        ("Running hf_snapshot integration test role", 0, 0),
        # What it says in a folder that git does not know, with status 0.
        ("WARNING: All targets skipped.", 0, 1),
        ("", 0, 1),
    ],
)
def test_what_counts_as_tested(tmp_path: Path, said: str, status: int, expected: int) -> None:
    checkout = tmp_path / "checkout"
    for name in ("tests/kept", "tests/un kept", "ignored", "bin/ansible-test", "deleted"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    shutil.copy(SCRIPT, checkout / "tests")
    (checkout / ".gitignore").write_text("ignored\nbin\n.cache\n")
    program = checkout / "bin" / "ansible-test"
    program.write_text(
        f"#!/bin/sh\nfind . -name .git -prune -o -type f -print >{tmp_path}/files\n"
        f"echo '{said}'\nexit {status}\n"
    )
    program.chmod(0o755)
    subprocess.run(["git", "init", "--quiet"], cwd=checkout, check=True)
    subprocess.run(["git", "add", "tests/kept", "deleted"], cwd=checkout, check=True)
    (checkout / "deleted").unlink()
    path = f"{checkout}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        [checkout / "tests" / SCRIPT.name, "sanity"],
        env=os.environ | {"HOME": str(tmp_path), "PATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    assert ("found nothing to test" in done.stderr) == (expected == 1)
    assert set((tmp_path / "files").read_text().splitlines()) == {
        *("./.gitignore", "./tests/kept", f"./tests/{SCRIPT.name}", "./tests/un kept"),
    }
