# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by all unit tests: run a module through its main(), as Ansible does."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from module_arguments import patch_module_args

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


@pytest.fixture
def run_module(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, t.Any]]:
    """Call ``run_module(module, check=False, diff=False, **options)``; get the JSON it answers."""

    def run(
        module: ModuleType, *, check: bool = False, diff: bool = False, **options: t.Any
    ) -> dict[str, t.Any]:
        options |= {
            "_ansible_check_mode": check,
            "_ansible_diff": diff,
            "_ansible_remote_tmp": str(tmp_path),
        }
        # Where controller code is loaded too, as in these tests, Ansible shows warnings by itself.
        warnings: list[str] = []
        monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: warnings.append(text))
        with patch_module_args(options), pytest.raises(SystemExit):
            module.main()
        answer = json.loads(capsys.readouterr().out)
        assert isinstance(answer, dict)
        return answer | ({"warnings": warnings} if warnings else {})

    return run


@pytest.fixture
def fixtures() -> Path:
    """The folder of recorded answers; its README says where each is from."""
    return Path(__file__).parents[1] / "fixtures"
