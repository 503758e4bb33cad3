# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is to serve: by its driver, by its PCI id, on its processor; and kept."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._memory import planner
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import PlanError
from ansible_collections.sparerig.llm.plugins.module_utils._memory.target_gpu import GpuChoiceError
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import ModelConfigError
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.parsers import ParserError
from stand_ins import FakeHost

if t.TYPE_CHECKING:
    from pathlib import Path

WISH: dict[str, t.Any] = {
    "model": "auto",
    "model_path": None,
    "config": None,
    "gpu": None,
    "gpus": None,
    "gpu_memory_mib": None,
    "context": 8192,
    "chats": 1,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 2048,
    "fp8_kv_cache": False,
    "enforce_eager": False,
    "tensor_parallel_size": 1,
    "cpu_offload_gib": 0,
    "stretch_context": False,
    "pictures": False,
    "gated": False,
    "cpu_kv_cache_gib": None,
    "kept": None,
    "replan": False,
    "vllm_image": "docker.io/vllm/vllm-openai:v0.33.0",
    "tool_call_parser": "auto",
    "reasoning_parser": "auto",
}
PCI_IDS = (
    "\n10de  NVIDIA Corporation\n\t1b06  GP102 [GeForce GTX 1080 Ti]\n\t1eb8  TU104GL [Tesla T4]\n"
)
CARD = "NVIDIA GeForce {}, GPU-{}, 00000000:0{}:00.0, 0x250310DE, {}, {}, {}, {}, 170, 12, Enabled"


def with_driver(*cards: tuple[str, int, int, str]) -> FakeHost:
    """Make a host whose driver tells name, MiB in all, MiB used and compute capability."""
    lines = [
        f"{number}, "
        + CARD.format(name, number, number + 1, total, used, total - used - 250, capability)
        for number, (name, total, used, capability) in enumerate(cards)
    ]
    return FakeHost(commands={"nvidia-smi --query-gpu=": "\n".join(lines) + "\n"})


def on_the_bus(*devices: str) -> FakeHost:
    """Make a host with cards and no driver."""
    files: dict[str, str | bytes] = {"/usr/share/misc/pci.ids": PCI_IDS}
    for number, device in enumerate(devices, start=1):
        at = f"/sys/bus/pci/devices/0000:0{number}:00.0"
        files |= {f"{at}/vendor": "0x10de\n", f"{at}/device": device, f"{at}/class": "0x030000\n"}
    return FakeHost(files=files)


def answer(host: FakeHost, **wish: t.Any) -> dict[str, t.Any]:
    return planner.answer({**WISH, **wish}, host)


@pytest.mark.parametrize(
    ("card", "model"),
    [
        (("RTX 4060", 8188, 0, "8.9"), "qwen2.5-7b-awq"),
        (("RTX 2080 Ti", 11264, 0, "7.5"), "qwen3-8b-awq"),
        (("RTX 3060", 12288, 0, "8.6"), "qwen3-8b-awq"),
        (("RTX 4060 Ti", 16380, 0, "8.9"), "qwen3-14b-awq"),
        (("RTX 3090", 24576, 0, "8.6"), "qwen3-32b-awq"),
    ],
)
def test_each_card_by_its_driver(card: tuple[str, int, int, str], model: str) -> None:
    found = answer(with_driver(card))
    assert found["catalogue"]["id"] == model
    assert found["confirmed"]
    assert "vllm_gpus" not in found["vllm_vars"]
    assert found["reason"].startswith(f"{model} is the best that fits NVIDIA GeForce {card[0]}")


@pytest.mark.parametrize(
    ("device", "card", "model"),
    [
        # an RTX 3060 is sold with 8 and with 12 GiB: before the driver tells, it is 8
        ("0x2503", "RTX 3060 8GB", "qwen2.5-7b-awq"),
        ("0x2204", "RTX 3090 24GB", "qwen3-32b-awq"),
        ("0x1eb8", "Tesla T4 16GB", "qwen3-14b-awq"),
    ],
)
def test_a_card_without_a_driver_is_known_by_its_id(device: str, card: str, model: str) -> None:
    found = answer(on_the_bus(device))
    assert found["gpu"]["name"] == card
    assert found["catalogue"]["id"] == model
    assert not found["confirmed"]
    assert "confirmed once its driver is there" in found["reason"]


def test_of_two_cards_without_a_driver_the_usable_one() -> None:
    assert answer(on_the_bus("0x1b06", "0x2203"))["gpu"]["name"] == "RTX 3090 Ti 24GB"


def test_a_card_that_is_too_old_is_refused_before_its_driver_comes() -> None:
    with pytest.raises(PlanError, match=r"GTX 1080 Ti has compute capability 6\.1; vLLM needs"):
        answer(on_the_bus("0x1b06"))


def test_a_card_that_no_list_knows_is_chosen_for_later() -> None:
    found = answer(on_the_bus("0x2231"))
    assert found["fits"] is None
    assert not found["confirmed"]
    assert "is not in the list of known cards" in found["report"][0]


def test_no_card_at_all() -> None:
    with pytest.raises(GpuChoiceError, match="none is on its PCI bus"):
        answer(FakeHost())


def test_of_two_different_cards_the_better_is_used_and_named() -> None:
    old, small, large = (
        ("GTX 1080 Ti", 11264, 0, "6.1"),
        ("RTX 3060", 12288, 4000, "8.6"),
        ("RTX 4060 Ti", 16380, 0, "8.9"),
    )
    found = answer(with_driver(old, small, large))
    assert found["gpu"]["name"] == "NVIDIA GeForce RTX 4060 Ti"
    assert found["vllm_vars"]["vllm_gpus"] == ["nvidia.com/gpu=2"]
    # the old one has more memory free, and is of no use
    found = answer(with_driver(old, small))
    assert found["vllm_vars"]["vllm_gpus"] == ["nvidia.com/gpu=1"]


def test_two_equal_cards_can_share_a_model() -> None:
    twins = with_driver(("RTX 3060", 12288, 600, "8.6"), ("RTX 3060", 12288, 0, "8.6"))
    found = answer(twins, model="qwen3-14b-awq", tensor_parallel_size=2)
    assert found["vllm_vars"]["vllm_gpus"] == ["nvidia.com/gpu=1", "nvidia.com/gpu=0"]
    assert found["vllm_vars"]["vllm_tensor_parallel_size"] == 2


def test_a_repository_that_is_not_in_the_catalogue_waits_for_its_files(tmp_path: Path) -> None:
    host = with_driver(("RTX 3060", 12288, 0, "8.6"))
    found = answer(host, model="me/Mine-8B", model_path=str(tmp_path))
    assert found["fits"] is None
    assert found["report"] == [
        "me/Mine-8B is not in the catalogue: it is planned once its files are here."
    ]
    (tmp_path / "config.json").write_text(json.dumps(catalogue.find("llama-3-8b-gptq").config))
    found = answer(host, model="me/Mine-8B", model_path=str(tmp_path))
    assert found["fits"]
    assert found["served_name"] == "Mine-8B"
    assert "catalogue" not in found


def test_a_directory_as_the_model(tmp_path: Path) -> None:
    host = with_driver(("RTX 3060", 12288, 0, "8.6"))
    with pytest.raises(ModelConfigError, match=r"config\.json does not exist"):
        answer(host, model=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(catalogue.find("llama-3-8b-gptq").config))
    found = answer(host, model=str(tmp_path))
    assert found["served_name"] == found["model"] == tmp_path.name


def test_a_model_of_the_catalogue_is_planned_by_its_own_files(tmp_path: Path) -> None:
    host = with_driver(("RTX 3060", 12288, 0, "8.6"))
    model = catalogue.find("qwen3-8b-awq")
    folder = tmp_path / "Qwen--Qwen3-8B-AWQ" / model.commit
    folder.mkdir(parents=True)
    config = {**model.config, "num_hidden_layers": 30}
    (folder / "config.json").write_text(json.dumps(config))
    own = answer(host, model_path=str(folder))
    assert own["terms"]["weights"] < answer(host)["terms"]["weights"]
    # another model's directory is none of this one
    other = answer(host, model_path=str(folder), model="llama-3-8b-gptq")
    assert other["terms"] == answer(host, model="llama-3-8b-gptq")["terms"]


def test_on_a_processor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(catalogue.find("llama-3-8b").config))
    found = answer(FakeHost(), model=None, model_path=str(tmp_path), cpu_kv_cache_gib=1)
    assert found["fits"]
    assert found["terms"] == {"kv_cache": 1 << 30}
    assert found["kv_cache_tokens"] == 8192
    assert found["vllm_vars"] == {"vllm_tool_call_parser": "", "vllm_reasoning_parser": ""}
    assert answer(FakeHost(), cpu_kv_cache_gib=1)["catalogue"]["id"] == "qwen3-1.7b"


# --- tools and reasoning ----------------------------------------------------------------------

CPU: dict[str, t.Any] = {"cpu_kv_cache_gib": 1}


def with_tokenizer(folder: Path, template: str, *tokens: str, **config: t.Any) -> str:
    """Write a model's directory; give its path."""
    folder.mkdir()
    config = {**catalogue.find("llama-3-8b").config, "model_type": "llama", **config}
    added = [{"id": number, "content": token} for number, token in enumerate(tokens)]
    files = {
        "config.json": config,
        "tokenizer.json": {"added_tokens": added, "model": {"vocab": {}}},
        "tokenizer_config.json": {"chat_template": template},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


LLAMA_3_1 = '<|start_header_id|> {"name": , "parameters": }'


def test_the_parser_of_a_catalogues_model() -> None:
    host = with_driver(("RTX 3060", 12288, 0, "8.6"))
    llama = answer(host, model="llama-3-8b-gptq")
    assert llama["vllm_vars"]["vllm_tool_call_parser"] == ""
    assert llama["report"][-1] == llama["tools"]
    assert "Tools: none" in llama["tools"]
    qwen = answer(host, model="qwen3-8b-awq")
    assert qwen["vllm_vars"]["vllm_tool_call_parser"] == "hermes"
    assert qwen["vllm_vars"]["vllm_reasoning_parser"] == "qwen3"


def test_the_parser_of_a_directory_is_by_its_tokenizer(tmp_path: Path) -> None:
    with_tag = with_tokenizer(tmp_path / "a", LLAMA_3_1, "<|start_header_id|>", "<|python_tag|>")
    without = with_tokenizer(tmp_path / "b", LLAMA_3_1, "<|start_header_id|>")
    assert answer(FakeHost(), model=with_tag, **CPU)["vllm_vars"]["vllm_tool_call_parser"] == (
        "llama3_json"
    )
    found = answer(FakeHost(), model=without, **CPU)
    assert found["vllm_vars"]["vllm_tool_call_parser"] == ""
    assert "<|python_tag|>" in found["report"][-1]


def test_a_named_parser_is_refused_before_the_download() -> None:
    host = with_driver(("RTX 3060", 12288, 0, "8.6"))
    with pytest.raises(ParserError, match="Perhaps hermes or"):
        answer(host, model="somebody/else", tool_call_parser="herms")
    with pytest.raises(ParserError, match=r"needs <\|python_tag\|>"):
        answer(host, model="llama-3-8b-gptq", tool_call_parser="llama3_json")
    with pytest.raises(ParserError, match=r"vLLM 0\.32 knows no .*step5"):
        answer(host, tool_call_parser="step5", vllm_image="vllm/vllm-openai-cpu:v0.32.0")
    found = answer(host, model="qwen3-8b-awq", tool_call_parser="", reasoning_parser="")
    assert found["vllm_vars"]["vllm_tool_call_parser"] == ""
    assert found["vllm_vars"]["vllm_reasoning_parser"] == ""


def test_a_tokenizer_of_mistrals_own_is_told_to_vllm(tmp_path: Path) -> None:
    path = with_tokenizer(tmp_path / "a", "", model_type="mistral")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "a" / name).unlink()
    tekken = {"special_tokens": [{"rank": 9, "token_str": "[TOOL_CALLS]"}]}
    (tmp_path / "a" / "tekken.json").write_text(json.dumps(tekken))
    found = answer(FakeHost(), model=path, **CPU)
    assert found["vllm_vars"]["vllm_extra_args"] == ["--tokenizer-mode", "mistral"]
    assert found["tool_call_parser"] == "mistral"


# --- kept -------------------------------------------------------------------------------------


class Kept:
    """A host whose role wrote the plan down."""

    def __init__(self, tmp_path: Path) -> None:
        self.file = tmp_path / "plan.json"
        first = answer(with_driver(("RTX 3060", 12288, 0, "8.6")))
        assert not first["kept"]
        self.file.write_text(json.dumps({**first, "changed": False, "failed": False}))
        self.first = first

    def again(self, host: FakeHost | None = None, **wish: t.Any) -> dict[str, t.Any]:
        """Plan once more; by default a desktop has started meanwhile."""
        desktop = with_driver(("RTX 3060", 12288, 900, "8.6"))
        return answer(host or desktop, kept=str(self.file), **wish)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_a_desktop_does_not_change_a_plan_that_is_kept(kept: Kept) -> None:
    again = kept.again()
    assert again["kept"]
    assert again["settled"]
    assert again["vllm_vars"] == kept.first["vllm_vars"]
    assert not {"changed", "failed"} & set(again)


@pytest.mark.parametrize(
    "wish",
    [
        {"context": 4096},
        {"model": "llama-3-8b-gptq"},
        {"max_num_seqs": 8},
        {"tool_call_parser": ""},
        {"vllm_image": "vllm/vllm-openai:v0.32.0"},
        {"replan": True},
        {"host": with_driver(("RTX 3090", 24576, 0, "8.6"))},
    ],
    ids=["context", "model", "seqs", "parser", "version", "asked for", "another card"],
)
def test_another_wish_is_planned_anew(kept: Kept, wish: dict[str, t.Any]) -> None:
    assert not kept.again(**wish)["kept"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fits": true}', "null"])
def test_a_file_that_is_no_plan_is_planned_anew(kept: Kept, content: str) -> None:
    kept.file.write_text(content)
    assert not kept.again()["kept"]


def test_other_files_in_ones_own_directory_are_planned_anew(tmp_path: Path) -> None:
    host, file = with_driver(("RTX 3060", 12288, 0, "8.6")), tmp_path / "plan.json"
    model = tmp_path / "model"
    model.mkdir()
    config = catalogue.find("llama-3-8b-gptq").config
    (model / "config.json").write_text(json.dumps(config))
    wish = {"model": str(model), "kept": str(file)}
    file.write_text(json.dumps(answer(host, **wish)))
    assert answer(host, **wish)["settled"]
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 16}))
    assert not answer(host, **wish)["kept"]
    file.write_text(json.dumps(answer(host, **wish)))
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert not answer(host, **wish)["kept"]
