# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection, built and installed as ansible-galaxy does it, without the internet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(path.parent.name for path in (ROOT / "roles").glob("*/tasks"))


def ansible(program: str, *arguments: str, cwd: Path) -> str:
    """Run one of Ansible's programs as a user with no settings; return what it says."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ANSIBLE_") and name != "PYTHONPATH"
    }
    said = subprocess.run(
        [BIN / program, *arguments],
        cwd=cwd,
        env=environment | {"ANSIBLE_COLLECTIONS_PATH": str(cwd), "ANSIBLE_LOCALHOST_WARNING": "0"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tarball, made from the files that git knows or would know."""
    checkout = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    # What working in a checkout leaves behind must not be packed.
    for leftover in (
        ".venv/bin/python",
        ".cache/x",
        ".ansible/x",
        ".ruff_cache/x",
        "tests/output/x",
    ):
        (checkout / leftover).parent.mkdir(parents=True, exist_ok=True)
        (checkout / leftover).touch()
    for folder in ("plugins/modules", "tests/unit"):
        (checkout / folder / "__pycache__").mkdir(exist_ok=True)
        (checkout / folder / "__pycache__" / "x.cpython-311.pyc").touch()
    (checkout / "sparerig-llm-0.0.1.tar.gz").touch()
    built = tmp_path_factory.mktemp("built")
    ansible("ansible-galaxy", "collection", "build", "--output-path", str(built), cwd=checkout)
    (made,) = built.glob("sparerig-llm-*.tar.gz")
    return made


@pytest.fixture(scope="module")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of collections that the tarball was installed into."""
    folder = tmp_path_factory.mktemp("collections")
    command = ("collection", "install", "--offline", str(tarball), "-p", str(folder))
    ansible("ansible-galaxy", *command, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def names(tarball: Path) -> list[str]:
    with tarfile.open(tarball) as archive:
        return archive.getnames()


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "LICENSE", "changelogs/changelog.yaml", "MANIFEST.json", "meta/runtime.yml"),
        *("playbooks/site.yml", "playbooks/verify.yml", "site.yml", "inventories/home/hosts.yml"),
        *("docs/getting-started.md", "docs/reference.md", "docs/failures.md"),
        *("plugins/modules/inference_health.py", "plugins/module_utils/_service/supervisor.py"),
        *(f"roles/{role}/meta/argument_specs.yml" for role in ROLES),
    ],
)
def test_what_is_in_it(names: list[str], name: str) -> None:
    assert name in names


def test_what_is_not_in_it(names: list[str]) -> None:
    strange = [
        name
        for name in names
        if name.split("/")[0].startswith(".")
        or name.startswith(("collections", "molecule", "tests/unit", "tests/output"))
        or name.endswith((".pyc", ".tar.gz"))
    ]
    assert strange == []


def test_modules_have_their_documents(installed: Path) -> None:
    said = ansible("ansible-doc", "sparerig.llm.inference_health", cwd=installed)
    assert "INFERENCE_HEALTH" in said.upper()


def test_the_playbook_runs_from_the_installed_copy(installed: Path) -> None:
    inventory = installed / "ansible_collections/sparerig/llm/inventories/home"
    command = ("sparerig.llm.site", "--syntax-check", "-i", str(inventory))
    said = ansible("ansible-playbook", *command, cwd=installed)
    assert "sparerig/llm/playbooks/site.yml" in said or "playbook: sparerig.llm.site" in said


def test_the_playbook_runs_from_a_checkout() -> None:
    command = ("site.yml", "--syntax-check", "-i", "inventories/home")
    environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_CONFIG"}
    said = subprocess.run(
        [BIN / "ansible-playbook", *command],
        cwd=ROOT, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert "playbook: site.yml" in said.stdout
