# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan is written down, and the engine that runs is held to it."""

from __future__ import annotations

import json
import typing as t

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]


def test_the_plan_is_written_on_the_host(rig: Rig) -> None:
    plan = json.loads(rig.root("cat /etc/sparerig/model-plan.json"))
    assert plan["terms"] == {"kv_cache": 1 << 30}


def test_an_engine_with_less_cache_than_planned_is_found_out(play: Play) -> None:
    as_planned = play(playbook="playbooks/verify.yml")
    assert as_planned.returncode == 0, as_planned.stdout[-3000:]
    assert "pass     plan_kv_cache   1.00 GiB" in as_planned.stdout
    done = play("-e", "model_cpu_kv_cache_gib=2", playbook="playbooks/verify.yml")
    assert done.returncode != 0
    assert "(plan-kv-cache-differs)" in done.stdout
    assert "VLLM_CPU_KVCACHE_SPACE" in done.stdout
