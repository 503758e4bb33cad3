# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments with the oldest and the newest ansible-core that the collection is tested with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import typing as t
from pathlib import Path

from testbed.inputs import fingerprint
from testbed.machine import only_one
from testbed.progress import step
from testbed.settings import CACHE, CHECKOUT

# Version: the Pythons that it runs on, the preferred one first.
CORES = {"2.17.14": ("3.11", "3.12", "3.10"), "2.21.5": ("3.13", "3.12", "3.14")}
# What the unit tests of modules and filters import, in the versions of requirements-dev.txt.
PACKAGES = ("pytest", "pytest-xdist", "huggingface_hub")


def interpreter(pythons: t.Sequence[str]) -> str | None:
    """Find the first of these Pythons that runs, on the path or among pyenv's."""
    for version in pythons:
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        found = shutil.which(f"python{version}")
        candidates = [found] if found else []
        candidates += map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))
        for candidate in candidates:
            # One of pyenv's shims is there, and runs only if its version is switched on.
            asked = subprocess.run([candidate, "-c", ""], check=False, capture_output=True)
            if asked.returncode == 0:
                return candidate
    return None


def pinned(names: t.Iterable[str]) -> list[str]:
    """Return the lines of requirements-dev.txt for some packages."""
    lock = (CHECKOUT / "requirements-dev.txt").read_text()
    return [
        re.search(rf"^{re.escape(name)}==\S+$", lock, re.MULTILINE | re.IGNORECASE)[0]  # type: ignore[index]
        for name in names
    ]


def controller(core: str, python: str) -> Path:
    """Give the folder of programs of a virtual environment; make it unless the cache has it."""
    packages = [f"ansible-core=={core}", *pinned(PACKAGES)]
    folder = CACHE / "cores" / f"{core}-{fingerprint(python, *packages)}"
    complete = folder / ".complete"
    with only_one(f"core-{core}"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            with step(f"Installing ansible-core {core} with {python}"):
                subprocess.run([python, "-m", "venv", folder], check=True)
                install: list[str | Path] = [
                    folder / "bin/python",
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    *packages,
                ]
                subprocess.run(install, check=True)
            complete.touch()
    return folder / "bin"


def run(
    programs: Path, name: str, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of a controller in the checkout, with the checkout's configuration."""
    environment = {
        key: value
        for key, value in os.environ.items()
        # Those of molecule and make are for another ansible-core.
        if not key.startswith("ANSIBLE_") and key not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }
    return subprocess.run(
        [programs / name, *arguments],
        cwd=CHECKOUT,
        env={
            **environment,
            "PATH": f"{programs}:{environment['PATH']}",
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            **more,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
