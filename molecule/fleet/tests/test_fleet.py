# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each PC has the model that its card can run, with the arguments that make it fit."""

from __future__ import annotations

import json
import typing as t

import pytest

if t.TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from conftest import Rig

    Play = Callable[..., subprocess.CompletedProcess[str]]

# All the PCs are this one host.
testinfra_hosts = ["ansible://molecule-fleet"]


def chosen(rig: Rig, name: str) -> dict[str, t.Any]:
    found: dict[str, t.Any] = json.loads(rig.root(f"cat /var/tmp/chosen/{name}.json"))
    return found


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        ("fleet-8", "qwen2.5-7b-awq", "qwen3-8b-awq lacks"),
        ("fleet-11", "qwen3-8b-awq", "qwen3-8b-fp8 needs compute capability 8.9"),
        ("fleet-12", "qwen3-8b-awq", "qwen3-14b-awq lacks"),
        ("fleet-16", "qwen3-14b-awq", "qwen3-32b-awq lacks"),
        (
            "fleet-24",
            "qwen3-32b-awq",
            "qwen3-32b-awq is the best that fits NVIDIA GeForce RTX 3090.",
        ),
        ("fleet-two", "qwen3-8b-awq", "fits NVIDIA GeForce RTX 3060"),
        # An RTX 4060 Ti is sold with 8 and with 16 GiB: as long as nobody tells, it has 8.
        ("fleet-new", "qwen2.5-7b-awq", "confirmed once its driver is there"),
    ],
)
def test_each_card_gets_its_model(rig: Rig, name: str, model: str, reason: str) -> None:
    found = chosen(rig, name)
    plan = found["plan"]
    assert plan["catalogue"]["id"] == model
    assert reason in plan["reason"]
    assert (found["model"]["repository"], found["model"]["revision"]) == (
        plan["catalogue"]["repository"],
        plan["catalogue"]["revision"],
    )
    assert plan["vllm_arguments"]["kv-cache-memory-bytes"] == plan["terms"]["kv_cache"]
    assert plan["confirmed"] is (name != "fleet-new")


def test_a_named_model_wins(rig: Rig) -> None:
    plan = chosen(rig, "fleet-named")["plan"]
    assert plan["catalogue"]["id"] == "llama-3-8b-gptq"
    assert plan["catalogue"]["license_notice"] == "Built with Meta Llama 3"


def test_cards_differ_in_their_arguments(rig: Rig) -> None:
    plans = {name: chosen(rig, name)["plan"] for name in ("fleet-11", "fleet-two")}
    assert plans["fleet-11"]["vllm_arguments"]["dtype"] == "float16"
    assert plans["fleet-two"]["vllm_arguments"]["dtype"] == "bfloat16"
    assert plans["fleet-two"]["gpus"] == ["nvidia.com/gpu=1"]
    assert plans["fleet-11"]["gpus"] == ["nvidia.com/gpu=all"]


def test_a_card_that_is_too_old_ends_the_run_before_anything_is_done(rig: Rig, play: Play) -> None:
    done = play(playbook="molecule/fleet/too_old.yml")
    assert done.returncode != 0
    assert "GTX 1080 Ti has compute capability 6.1; vLLM needs 7.5" in done.stdout
    assert "changed=0" in done.stdout
    assert "--" not in rig.root("ls -A /srv/models"), "a model was downloaded"
    assert not rig.host.file("/opt/sparerig").exists
