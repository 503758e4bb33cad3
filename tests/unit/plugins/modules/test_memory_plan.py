# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module memory_plan, through its main()."""

from __future__ import annotations

import json
import typing as t

import pytest
import yaml
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.modules import memory_plan

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunModule = Callable[..., dict[str, t.Any]]

CARD = "RTX 3060 12GB"
LLAMA = catalogue.find("llama-3-8b-gptq").config
# gpu_info's answer for a card with a desktop on it and a vLLM that is about to be restarted
FOUND = {
    "index": 0,
    "name": "NVIDIA GeForce RTX 3060",
    "memory_total_mib": 12288,
    "memory_used_mib": 10600,
    "memory_free_mib": 1400,
    "compute_capability": "8.6",
    "processes": [
        {"pid": 1000, "name": "/usr/lib/xorg/Xorg", "kind": "G", "used_mib": 300},
        {"pid": 2000, "name": "VLLM::EngineCore", "kind": "C", "used_mib": 10200},
        {"pid": 3000, "name": "game", "kind": "C", "used_mib": None},
    ],
}


def test_a_table_of_what_fits(run_module: RunModule) -> None:
    answer = run_module(memory_plan, gpu=CARD)
    assert answer["fits"]
    assert not answer["changed"]
    fits = {row["model"]: row["fits"] for row in answer["models"]}
    assert fits["llama-3-8b-gptq"]
    assert not fits["llama-3-8b"]
    rows = [line for line in answer["report"] if line.startswith("llama-3-8b-gptq")]
    assert rows[0].split() == [
        "llama-3-8b-gptq",
        "GPTQ",
        "INT4",
        "5.3",
        "GiB",
        "8192",
        "4.3",
        "69",
        "yes",
    ]
    assert any("no: 5.97 GiB too much; fits with a copy" in line for line in answer["report"])
    assert any("with a token (Gemma" in line for line in answer["report"])
    assert any("no: needs compute capability 8.9" in line for line in answer["report"])


def test_a_table_without_a_known_bandwidth(run_module: RunModule) -> None:
    answer = run_module(memory_plan, gpu_memory_mib=4096, gpu_capability="7.5")
    assert not any(row.get("decode_ceiling") for row in answer["models"])
    assert "a card of 4096 MiB" in answer["report"][0]
    assert "GB/s" not in answer["report"][0]


@pytest.mark.parametrize("check", [False, True])
def test_one_model(run_module: RunModule, check: bool) -> None:  # noqa: FBT001
    answer = run_module(memory_plan, check=check, model="llama-3-8b-gptq", gpu=CARD, chats=4)
    assert answer["fits"]
    assert answer["catalogue"]["license_notice"] == "Built with Meta Llama 3"
    assert answer["license_notice"] == "Built with Meta Llama 3"
    arguments = answer["vllm_arguments"]
    assert arguments["max-model-len"] == 8192
    assert "enforce-eager" not in arguments
    assert arguments["kv-cache-memory-bytes"] == answer["terms"]["kv_cache"]
    assert not {"tool-call-parser", "enable-auto-tool-choice", "reasoning-parser"} & set(arguments)
    assert answer["tool_call_parser"] == answer["reasoning_parser"] == ""
    assert answer["tools"].startswith("Tools: none: the model was not trained to call tools")
    assert answer["tools"] in answer["report"]
    assert answer["gpus"] == ["nvidia.com/gpu=all"]
    assert answer["served_name"] == "Meta-Llama-3-8B-Instruct-GPTQ"
    assert sum(answer["terms"].values()) <= answer["free_bytes"]
    assert answer["report"][0] == "llama-3-8b-gptq on RTX 3060 12GB, 4 chats of 8192 tokens: fits"


def test_switches_among_the_arguments(run_module: RunModule) -> None:
    answer = run_module(memory_plan, model="gemma-3-4b", gpu=CARD, enforce_eager=True)
    assert answer["vllm_arguments"]["enforce-eager"] is True
    assert answer["vllm_arguments"]["language-model-only"] is True


def test_the_best_that_fits(run_module: RunModule) -> None:
    answer = run_module(memory_plan, model="auto", gpu=CARD)
    assert answer["catalogue"]["id"] == answer["model"] == "qwen3-8b-awq"
    assert "qwen3-14b-awq lacks" in answer["reason"]


def test_a_misfit_is_an_answer_or_a_failure(run_module: RunModule) -> None:
    asked = {"model": "llama-3-8b", "gpu": CARD}
    answer = run_module(memory_plan, **asked)
    assert not answer["fits"]
    assert answer["vllm_arguments"] == {}
    assert answer["choices"][0]["what"] == "a copy of the model in INT4 (5.3 GiB)"
    failed = run_module(memory_plan, fail_on_misfit=True, **asked)
    assert failed["failed"]
    assert failed["missing_bytes"] == answer["missing_bytes"] > 0
    assert "does not fit: 5.97 GiB too much" in failed["msg"]
    assert "It would fit with a copy of the model in INT4" in failed["msg"]


def test_the_settings_of_a_choice_are_options_of_the_module(run_module: RunModule) -> None:
    asked = {"model": "qwen3-8b-awq", "gpu_memory_mib": 12288, "gpu_capability": "8.9", "chats": 6}
    answer = run_module(memory_plan, **asked)
    settings = next(
        choice["settings"] for choice in answer["choices"] if choice["what"] == "an FP8 KV cache"
    )
    assert settings == {"kv_cache_dtype": "fp8"}
    assert run_module(memory_plan, **asked, **settings)["fits"]


def test_no_single_change_helps(run_module: RunModule) -> None:
    answer = run_module(memory_plan, model="qwen3-32b-awq", gpu="RTX 4060")
    assert answer["report"][-1] == "No single change makes it fit: take a smaller model."


def test_as_the_driver_reports_it(run_module: RunModule) -> None:
    answer = run_module(memory_plan, model="llama-3-8b-gptq", gpus=[FOUND])
    # 1400 MiB are free, and 10200 more once the running engine has ended
    assert answer["gpu"]["free_mib"] == 11600
    assert answer["gpu"]["bandwidth_gb_s"] == 360
    assert answer["fits"]


def test_a_running_engine_counts_as_free_where_the_driver_gives_only_what_is_used(
    run_module: RunModule,
) -> None:
    answer = run_module(memory_plan, model="auto", gpus=[{**FOUND, "memory_free_mib": None}])
    # of 10600 MiB in use, 10200 are the engine's
    assert answer["gpu"]["visible_mib"] - answer["gpu"]["free_mib"] == 400


def test_the_emptiest_of_several_cards(run_module: RunModule) -> None:
    empty = {**FOUND, "index": 1, "memory_used_mib": 0, "memory_free_mib": 11900, "processes": None}
    answer = run_module(memory_plan, model="llama-3-8b", gpus=[FOUND, empty])
    assert answer["gpu"]["free_mib"] == 11900
    assert "2 cards together" in [choice["what"] for choice in answer["choices"]]


def test_only_the_cards_that_may_be_used(run_module: RunModule) -> None:
    empty = {**FOUND, "index": 1, "memory_used_mib": 0, "memory_free_mib": 11900, "processes": None}
    best = run_module(memory_plan, model="llama-3-8b-gptq", gpus=[FOUND, empty])
    assert best["gpus"] == ["nvidia.com/gpu=1"]
    asked_for = run_module(
        memory_plan, model="llama-3-8b-gptq", gpus=[FOUND, empty], gpu_indexes=[0]
    )
    assert asked_for["gpus"] == ["nvidia.com/gpu=0"]
    assert asked_for["gpu"]["free_mib"] == 11600


def test_an_older_driver_and_an_unknown_card(run_module: RunModule) -> None:
    silent = {**FOUND, "compute_capability": "", "memory_free_mib": None, "processes": []}
    answer = run_module(memory_plan, model="llama-3-8b-gptq", gpus=[silent])
    assert answer["gpu"]["compute_capability"] == "8.6"
    assert not answer["fits"]
    unknown = {**FOUND, "name": "NVIDIA Something"}
    answer = run_module(memory_plan, model="llama-3-8b-gptq", gpus=[unknown])
    assert answer["decode_ceiling"] is None


def test_a_config_and_a_directory(run_module: RunModule, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    from_directory = run_module(memory_plan, model=str(tmp_path), gpu=CARD)
    from_config = run_module(memory_plan, config=LLAMA, gpu=CARD)
    from_catalogue = run_module(memory_plan, model="llama-3-8b-gptq", gpu=CARD)
    assert from_directory["terms"] == from_config["terms"] == from_catalogue["terms"]
    assert from_directory["model"] == tmp_path.name
    assert from_config["report"][0].startswith("The model on RTX 3060 12GB")
    assert not from_directory["estimate"]


def test_an_unknown_architecture_is_an_estimate(run_module: RunModule, tmp_path: Path) -> None:
    config = {**LLAMA, "architectures": ["NovelForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"data_offsets": [0, 2_000_000_000]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    answer = run_module(memory_plan, model=str(tmp_path), gpu=CARD)
    assert answer["estimate"]
    assert answer["terms"]["weights"] == 2_200_000_000  # a tenth more, for what vLLM pads
    assert answer["report"][0].endswith("fits (an estimate: the architecture is not known)")


def test_an_extended_context(run_module: RunModule) -> None:
    asked = {"model": "llama-3-8b-gptq", "gpu": CARD, "context": 16384}
    refused = run_module(memory_plan, **asked)["msg"]
    assert "context 16384 is more than the 8192" in refused
    assert "extend_context" in refused
    answer = run_module(memory_plan, extend_context=True, **asked)
    assert answer["vllm_arguments"]["hf-overrides"]["rope_parameters"]["factor"] == 2.0
    assert any("unproven" in line for line in answer["report"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu": CARD, "model": "auto", "cpu_kv_cache_gib": 1}, "mutually exclusive"),
        (
            {"gpu_memory_mib": 12288},
            "missing parameter(s) required by 'gpu_memory_mib': gpu_capability",
        ),
        ({"gpu": CARD, "gpu_memory_mib": 1}, "mutually exclusive"),
        ({"gpu": CARD, "model": "/m", "config": {}}, "mutually exclusive"),
        ({"gpu": CARD, "model": "gpt-5"}, "'gpt-5' is not in the catalogue"),
        ({"gpu": "RTX 3060"}, "sold as 'RTX 3060 8GB' or 'RTX 3060 12GB'"),
        ({"gpu": "GTX 1080 Ti"}, "compute capability 6.1"),
        ({"gpu": CARD, "context": -1}, "context is -1"),
        ({"gpu": CARD, "context": "long"}, "context"),
        ({"gpu": CARD, "config": {"a": 1}}, "no list 'architectures'"),
        (
            {"gpu": CARD, "model": "/nonexistent"},
            "there is nothing at /nonexistent: put the model there",
        ),
        ({"gpu": CARD, "model": "/etc"}, "/etc/config.json does not exist"),
        ({"gpu_memory_mib": 12288, "gpu_capability": "86"}, "gpu_capability is '86'"),
        ({"gpu_memory_mib": 12, "gpu_capability": "8.6"}, "nvidia-smi"),
        ({"gpus": []}, "no NVIDIA GPU that its driver offers"),
        (
            {"gpus": [FOUND], "gpu_indexes": [0, 7]},
            "gpu_indexes names 7, and the host's GPUs are 0",
        ),
        (
            {"gpu": CARD, "model": "auto", "plan_memory": False},
            "model auto is chosen by its memory",
        ),
        ({"gpus": [{"name": "x"}]}, "an entry has no memory_total_mib, memory_used_mib"),
        (
            {"gpus": [{**FOUND, "name": "NVIDIA Something", "compute_capability": ""}]},
            "The driver does not tell the compute capability of NVIDIA Something",
        ),
    ],
)
def test_bad_input(run_module: RunModule, options: dict[str, t.Any], says: str) -> None:
    answer = run_module(memory_plan, **options)
    assert answer["failed"]
    assert says in answer["msg"]


def test_the_allocator_is_held_to_the_plan(run_module: RunModule) -> None:
    asked = {"model": "llama-3-8b-gptq", "gpu": CARD}
    setting = run_module(memory_plan, **asked)["vllm_environment"]
    less = run_module(memory_plan, reserve_mib=768, **asked)
    assert set(setting) == {"PYTORCH_CUDA_ALLOC_CONF"}
    assert less["terms"]["slack"] > run_module(memory_plan, **asked)["terms"]["slack"]
    shares = [
        float(found["PYTORCH_CUDA_ALLOC_CONF"].rpartition(":")[2])
        for found in (less["vllm_environment"], setting)
    ]
    assert 0 < shares[0] < shares[1] <= 1
    misfit = run_module(memory_plan, model="llama-3-8b", gpu=CARD)
    unplanned = run_module(memory_plan, model="llama-3-8b", gpu=CARD, plan_memory=False)
    assert misfit["vllm_environment"] == unplanned["vllm_environment"] == {}


def test_the_answers_at_once_are_chosen_for_the_card(run_module: RunModule) -> None:
    asked = {"model": "llama-3-8b-gptq", "gpu": CARD}
    assert run_module(memory_plan, **asked)["vllm_arguments"]["max-num-seqs"] == 64
    given = run_module(memory_plan, max_num_seqs=8, **asked)
    assert given["vllm_arguments"]["max-num-seqs"] == 8


def test_a_damaged_tokenizer_is_named(run_module: RunModule, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(catalogue.find("llama-3-8b").config))
    (tmp_path / "tokenizer.json").write_text("{")
    answer = run_module(memory_plan, model=str(tmp_path), cpu_kv_cache_gib=1.0)
    assert "tokenizer.json: it is not valid JSON" in answer["msg"]
    assert f"fetch {tmp_path}/tokenizer.json again" in answer["msg"]


def test_the_documentation_names_what_is_returned(run_module: RunModule) -> None:
    documented = yaml.safe_load(memory_plan.RETURN)
    table = run_module(memory_plan, gpu=CARD)
    chosen = run_module(memory_plan, model="auto", gpu=CARD)
    internal = {"changed", "invocation"}
    chosen = {name: value for name, value in chosen.items() if name not in internal}
    failed = run_module(memory_plan, model="auto", gpu=CARD, tool_call_parser="lama3_json")
    assert failed["failure"] == "parser-unknown"
    assert {"failure", *table, *chosen} - internal == set(documented)
    assert set(chosen["terms"]) == set(documented["terms"]["contains"])
    assert set(chosen["catalogue"]) == set(documented["catalogue"]["contains"])
    assert {key for row in table["models"] for key in row} == set(documented["models"]["contains"])


MEASURED = "docker.io/vllm/vllm-openai:v0.33.0"
UNMEASURED = "docker.io/vllm/vllm-openai:v0.99.0"


@pytest.mark.parametrize("asked", [{}, {"model": "llama-3-8b-gptq"}])
def test_an_image_of_another_version_is_warned_of(
    run_module: RunModule, asked: dict[str, str]
) -> None:
    plain = run_module(memory_plan, gpu=CARD, **asked)
    measured = run_module(memory_plan, gpu=CARD, vllm_image=MEASURED, **asked)
    answer = run_module(memory_plan, gpu=CARD, vllm_image=UNMEASURED, **asked)
    assert plain["image_warnings"] == measured["image_warnings"] == []
    assert "warnings" not in measured
    assert measured["report"] == plain["report"]
    (warning,) = answer["image_warnings"]
    assert answer["warnings"] == [warning]
    assert warning.startswith(f"{UNMEASURED} is vLLM 0.99.0: ")
    assert answer["report"] == [*plain["report"], warning]


def test_a_plan_is_made_again_for_another_version(run_module: RunModule, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    asked = {"model": "llama-3-8b-gptq", "gpu": CARD, "plan_file": str(file)}
    first = run_module(memory_plan, vllm_image=UNMEASURED, **asked)
    del first["warnings"]  # Ansible's own, which it shows
    file.write_text(json.dumps(first))
    same = run_module(memory_plan, vllm_image=UNMEASURED, **asked)
    moved = run_module(memory_plan, vllm_image=MEASURED, **asked)
    assert same["reused"]
    assert not moved["reused"]  # the parsers follow from the version
    assert same["report"] == first["report"]
    assert same["warnings"] == first["image_warnings"]
    assert moved["image_warnings"] == []
    assert first["image_warnings"][0] not in moved["report"]
