# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest and the newest ansible-core understand playbooks, modules and roles, and run the modules."""

from __future__ import annotations

import json
import re
import typing as t

import pytest
import yaml
from testbed.settings import CHECKOUT

from cores.controllers import CORES, pinned, run

if t.TYPE_CHECKING:
    from pathlib import Path

PLAYBOOKS = sorted(str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("playbooks/*.yml"))
MODULES = sorted(f"sparerig.llm.{path.stem}" for path in CHECKOUT.glob("plugins/modules/*.py"))
ROLES = sorted(f"sparerig.llm.{path.name}" for path in CHECKOUT.glob("roles/*"))


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def test_the_claim_is_what_is_tested() -> None:
    """The oldest is the one of meta/runtime.yml and of the roles; the one in daily use is in between."""
    oldest, newest = min(map(release, CORES)), max(map(release, CORES))
    claim = yaml.safe_load((CHECKOUT / "meta/runtime.yml").read_text())["requires_ansible"]
    assert claim == f">={oldest[0]}.{oldest[1]}.0"
    for role in CHECKOUT.glob("roles/*/meta/main.yml"):
        said = yaml.safe_load(role.read_text())["galaxy_info"]["min_ansible_version"]
        assert release(said) == oldest, role
    (daily,) = pinned(["ansible-core"])
    assert oldest < release(daily.partition("==")[2]) < newest


@pytest.mark.parametrize("inventory", ["home", "fleet"])
def test_it_understands_every_playbook(programs: Path, inventory: str) -> None:
    done = run(
        programs,
        "ansible-playbook", "--syntax-check", "-i", f"inventories/{inventory}", "site.yml", *PLAYBOOKS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^playbook: (\S+)", done.stdout, re.MULTILINE) == ["site.yml", *PLAYBOOKS]
    assert "DEPRECATION" not in done.stderr


def test_it_reads_the_documentation_of_every_module(programs: Path) -> None:
    done = run(programs, "ansible-doc", "--json", "--type", "module", *MODULES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == MODULES
    assert all(found[name]["doc"]["description"] and found[name]["examples"] for name in MODULES)


def test_it_reads_the_options_of_every_role(programs: Path) -> None:
    done = run(programs, "ansible-doc", "--json", "--type", "role", *ROLES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == ROLES
    assert all(found[name]["entry_points"]["main"]["options"] for name in ROLES)


def test_the_unit_tests_of_modules_and_filters_pass(programs: Path) -> None:
    done = run(
        programs,
        "python", "-m", "pytest", "--quiet", "--numprocesses", "4", "-p", "no:cacheprovider",
        "tests/unit/plugins/modules", "tests/unit/plugins/filter",
        PYTHONPATH=f"{CHECKOUT}/collections:{CHECKOUT}/tests",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
