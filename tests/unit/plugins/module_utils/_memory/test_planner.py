# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is to serve: by its driver, by its PCI id, on its processor; and reused."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._memory import planner
from ansible_collections.sparerig.llm.plugins.module_utils._memory.planner import PlanRequest
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import PlanError, Use
from ansible_collections.sparerig.llm.plugins.module_utils._memory.target_gpu import GpuChoiceError
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import ModelConfigError
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import Store
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.parsers import ParserError
from stand_ins import FakeHost

RTX_3060 = ("RTX 3060", 12288, 0, "8.6")
LLAMA = catalogue.find("llama-3-8b-gptq").config
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


def answer(host: FakeHost, **asked: t.Any) -> dict[str, t.Any]:
    """Ask for the best model, or for what else is given; fields of a Use among it."""
    use = {name: asked.pop(name) for name in list(asked) if hasattr(Use, name)}
    return planner.answer(PlanRequest(**{"model": "auto", "use": Use(**use), **asked}), host)


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
    assert found["gpus"] == ["nvidia.com/gpu=all"]
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
    assert found["gpus"] == ["nvidia.com/gpu=2"]
    # the old one has more memory free, and is of no use
    found = answer(with_driver(old, small))
    assert found["gpus"] == ["nvidia.com/gpu=1"]


def test_two_equal_cards_can_share_a_model() -> None:
    twins = with_driver(("RTX 3060", 12288, 600, "8.6"), ("RTX 3060", 12288, 0, "8.6"))
    found = answer(twins, model="qwen3-14b-awq", tensor_parallel_size=2)
    assert found["gpus"] == ["nvidia.com/gpu=1", "nvidia.com/gpu=0"]
    assert found["vllm_arguments"]["tensor-parallel-size"] == 2


def snapshot_of(root: Path, repository: str, commit: str, config: dict[str, t.Any]) -> Path:
    """Leave what a download leaves of a model, as far as a plan looks at it."""
    folder = root / repository.replace("/", "--") / commit
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_repository_that_is_not_in_the_catalogue_waits_for_its_files(tmp_path: Path) -> None:
    host, commit = with_driver(RTX_3060), "5" * 40
    found = answer(host, model="me/Mine-8B", root=tmp_path)
    assert found["fits"] is None
    assert (found["repository"], found["revision"]) == ("me/Mine-8B", "main")
    assert found["path"] == str(tmp_path / "me--Mine-8B/main")
    assert found["report"] == [
        "me/Mine-8B is not in the catalogue: it is planned once its files are here."
    ]
    folder = snapshot_of(tmp_path, "me/Mine-8B", commit, LLAMA)
    Store(tmp_path, "me/Mine-8B").pin("main", commit)
    found = answer(host, model="me/Mine-8B", root=tmp_path)
    assert found["fits"]
    assert found["path"] == str(folder)
    assert found["served_name"] == "Mine-8B"
    assert "catalogue" not in found


def test_a_directory_as_the_model(tmp_path: Path) -> None:
    host = with_driver(RTX_3060)
    with pytest.raises(ModelConfigError, match=r"config\.json does not exist"):
        answer(host, model=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = answer(host, model=str(tmp_path))
    assert found["served_name"] == found["model"] == tmp_path.name
    assert (found["repository"], found["revision"], found["path"]) == ("", "", str(tmp_path))
    assert answer(host, model=str(tmp_path), served_name="mine")["served_name"] == "mine"


def test_a_model_of_the_catalogue_is_planned_by_its_own_files(tmp_path: Path) -> None:
    host = with_driver(RTX_3060)
    model = catalogue.find("qwen3-8b-awq")
    before = answer(host, root=tmp_path)
    folder = snapshot_of(
        tmp_path, model.repository, model.commit, {**model.config, "num_hidden_layers": 30}
    )
    own = answer(host, root=tmp_path)
    assert own["terms"]["weights"] < before["terms"]["weights"]
    assert own["path"] == before["path"] == str(folder)
    assert (own["repository"], own["revision"]) == (model.repository, model.commit)


def test_another_revision_of_a_model_of_the_catalogue(tmp_path: Path) -> None:
    found = answer(with_driver(RTX_3060), model="qwen3-8b-awq", revision="v2", root=tmp_path)
    assert found["revision"] == "v2"
    assert found["path"] == str(tmp_path / "Qwen--Qwen3-8B-AWQ/v2")


@pytest.mark.parametrize("model", ["qwen3-9b", "qwen3-8b-awq ", "a/b/c", "../etc"])
def test_a_name_that_is_none_of_these_is_refused(model: str) -> None:
    with pytest.raises(catalogue.CatalogueError, match=r"is not in the catalogue\. It holds"):
        answer(with_driver(RTX_3060), model=model)


def test_a_model_that_is_named_is_known_before_its_card_is() -> None:
    found = answer(on_the_bus("0x2231"), model="qwen3-8b-awq")
    assert found["fits"] is None
    assert found["repository"] == "Qwen/Qwen3-8B-AWQ"
    unnamed = answer(on_the_bus("0x2231"))
    assert (unnamed["repository"], unnamed["path"], unnamed["served_name"]) == ("", "", "")


def test_on_a_processor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = answer(FakeHost(), model=str(tmp_path), cpu_kv_cache_gib=1, max_num_seqs=4)
    assert found["fits"]
    assert found["terms"] == {"kv_cache": 1 << 30}
    assert found["kv_cache_tokens"] == 8192
    assert found["vllm_arguments"] == {
        "dtype": "auto",
        "max-model-len": 8192,
        "max-num-seqs": 4,
        "max-num-batched-tokens": 2048,
    }
    assert found["vllm_environment"] == {"VLLM_CPU_KVCACHE_SPACE": "1"}
    assert found["gpus"] == []
    assert answer(FakeHost(), cpu_kv_cache_gib=1)["catalogue"]["id"] == "qwen3-1.7b"


def test_without_a_plan_of_the_memory_the_model_is_known_all_the_same() -> None:
    found = answer(FakeHost(), model="qwen3-8b-awq", plan_memory=False)
    assert found["fits"] is None
    assert found["repository"] == "Qwen/Qwen3-8B-AWQ"
    assert found["vllm_arguments"] == {
        "enable-auto-tool-choice": True,
        "tool-call-parser": "hermes",
        "reasoning-parser": "qwen3",
    }
    assert found["vllm_environment"] == {}
    assert found["gpus"] == ["nvidia.com/gpu=all"]
    assert not found["reused"]


# --- tools and reasoning ----------------------------------------------------------------------

CPU: dict[str, t.Any] = {"cpu_kv_cache_gib": 1}
PARSERS = {"enable-auto-tool-choice", "tool-call-parser", "reasoning-parser"}


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
    host = with_driver(RTX_3060)
    llama = answer(host, model="llama-3-8b-gptq")
    assert not PARSERS & set(llama["vllm_arguments"])
    assert llama["tool_call_parser"] == llama["reasoning_parser"] == ""
    assert llama["report"][-1] == llama["tools"]
    assert "Tools: none" in llama["tools"]
    qwen = answer(host, model="qwen3-8b-awq")
    assert qwen["vllm_arguments"]["tool-call-parser"] == qwen["tool_call_parser"] == "hermes"
    assert qwen["vllm_arguments"]["enable-auto-tool-choice"] is True
    assert qwen["vllm_arguments"]["reasoning-parser"] == qwen["reasoning_parser"] == "qwen3"


def test_the_parser_of_a_directory_is_by_its_tokenizer(tmp_path: Path) -> None:
    with_tag = with_tokenizer(tmp_path / "a", LLAMA_3_1, "<|start_header_id|>", "<|python_tag|>")
    without = with_tokenizer(tmp_path / "b", LLAMA_3_1, "<|start_header_id|>")
    found = answer(FakeHost(), model=with_tag, **CPU)
    assert found["vllm_arguments"]["tool-call-parser"] == "llama3_json"
    found = answer(FakeHost(), model=without, **CPU)
    assert not PARSERS & set(found["vllm_arguments"])
    assert "<|python_tag|>" in found["report"][-1]


def test_the_parser_is_chosen_also_where_the_memory_is_not_planned(tmp_path: Path) -> None:
    asked: dict[str, t.Any] = {
        "model": with_tokenizer(tmp_path / "a", LLAMA_3_1, "<|start_header_id|>", "<|python_tag|>"),
        "plan_memory": False,
    }
    found = answer(FakeHost(), **asked)
    assert found["vllm_arguments"]["tool-call-parser"] == "llama3_json"
    assert found["tools"] in found["report"]
    assert answer(FakeHost(), **asked, tool_call_parser="")["vllm_arguments"] == {}
    with pytest.raises(ParserError, match="Perhaps hermes or"):
        answer(FakeHost(), **asked, tool_call_parser="herms")


def test_a_named_parser_is_refused_before_the_download() -> None:
    host = with_driver(RTX_3060)
    with pytest.raises(ParserError, match="Perhaps hermes or"):
        answer(host, model="somebody/else", tool_call_parser="herms")
    with pytest.raises(ParserError, match=r"needs <\|python_tag\|>"):
        answer(host, model="llama-3-8b-gptq", tool_call_parser="llama3_json")
    with pytest.raises(ParserError, match=r"vLLM 0\.32 knows no .*step5"):
        answer(host, tool_call_parser="step5", vllm_image="vllm/vllm-openai-cpu:v0.32.0")
    found = answer(host, model="qwen3-8b-awq", tool_call_parser="", reasoning_parser="")
    assert not PARSERS & set(found["vllm_arguments"])
    assert found["tool_call_parser"] == found["reasoning_parser"] == ""


def test_a_tokenizer_of_mistrals_own_is_told_to_vllm(tmp_path: Path) -> None:
    path = with_tokenizer(tmp_path / "a", "", model_type="mistral")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "a" / name).unlink()
    tekken = {"special_tokens": [{"rank": 9, "token_str": "[TOOL_CALLS]"}]}
    (tmp_path / "a" / "tekken.json").write_text(json.dumps(tekken))
    found = answer(FakeHost(), model=path, **CPU)
    assert found["vllm_arguments"]["tokenizer-mode"] == "mistral"
    assert found["tool_call_parser"] == "mistral"


# --- an earlier plan --------------------------------------------------------------------------


class Host:
    """A host on which the role wrote the plan down."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "plan.json"
        self.root = folder / "models"
        first = answer(with_driver(RTX_3060), root=self.root)
        assert not first["reused"]
        self.file.write_text(json.dumps({**first, "changed": False, "failed": False}))
        self.first = first

    def again(self, host: FakeHost | None = None, **asked: t.Any) -> dict[str, t.Any]:
        """Plan once more; by default a desktop has started meanwhile."""
        desktop = with_driver(("RTX 3060", 12288, 900, "8.6"))
        return answer(host or desktop, **{"plan_file": self.file, "root": self.root, **asked})


@pytest.fixture
def planned(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_desktop_does_not_change_an_earlier_plan(planned: Host) -> None:
    again = planned.again()
    assert again["reused"]
    assert {**again, "reused": False} == json.loads(json.dumps(planned.first))


def test_the_arguments_of_an_earlier_plan_stand_where_the_store_has_moved(planned: Host) -> None:
    again = planned.again(root=Path("/elsewhere"))
    assert again["vllm_arguments"] == planned.first["vllm_arguments"]
    assert again["path"].startswith("/elsewhere/Qwen--Qwen3-8B-AWQ/")
    assert not again["reused"], "what is written on the host has the old path"


@pytest.mark.parametrize(
    "asked",
    [
        {"context": 4096},
        {"model": "llama-3-8b-gptq"},
        {"max_num_seqs": 8},
        {"reserve_mib": 256},
        {"tool_call_parser": ""},
        {"reasoning_parser": ""},
        {"vllm_image": "vllm/vllm-openai:v0.32.0"},
        {"revision": "v2"},
        {"served_name": "other"},
        {"replan": True},
        {"host": with_driver(("RTX 3090", 24576, 0, "8.6"))},
    ],
    ids=[
        *("context", "model", "seqs", "reserve", "tools", "reasoning", "version", "revision"),
        *("name", "asked for", "another card"),
    ],
)
def test_other_requirements_are_planned_anew(planned: Host, asked: dict[str, t.Any]) -> None:
    assert not planned.again(**asked)["reused"]


@pytest.mark.parametrize("image", ["registry.example:5000/vllm:mine", "vllm/vllm-openai@sha256:0"])
def test_an_image_that_does_not_tell_its_version_changes_no_plan(planned: Host, image: str) -> None:
    assert planned.again(vllm_image=image)["reused"]


def test_the_commit_of_an_earlier_plan_stands(planned: Host) -> None:
    written = json.loads(planned.file.read_text())
    earlier = "a" * 40
    path = written["path"].replace(written["revision"], earlier)
    planned.file.write_text(json.dumps({**written, "revision": earlier, "path": path}))
    assert planned.again()["revision"] == earlier
    assert planned.again()["reused"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fits": true}', "null"])
def test_a_file_that_is_no_plan_is_planned_anew(planned: Host, content: str) -> None:
    planned.file.write_text(content)
    assert not planned.again()["reused"]


def test_other_files_in_ones_own_directory_are_planned_anew(tmp_path: Path) -> None:
    host, file = with_driver(RTX_3060), tmp_path / "plan.json"
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    asked = {"model": str(model), "plan_file": file}
    file.write_text(json.dumps(answer(host, **asked)))
    assert answer(host, **asked)["reused"]
    (model / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 16}))
    assert not answer(host, **asked)["reused"]
    file.write_text(json.dumps(answer(host, **asked)))
    (model / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert not answer(host, **asked)["reused"]
