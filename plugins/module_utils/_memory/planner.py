# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is to serve, and with which flags: chosen once, then kept until the wish changes.

A plan must not change from run to run, or the engine would restart whenever a desktop on the same
card takes a little more or less memory. The role writes the answer to a file on the host; the
next run finds it there, and plans anew only for another wish, another card or another model.
"""

from __future__ import annotations

import hashlib
import typing as t
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    JsonError,
    read_json_object,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory import (
    comparison,
    sizing,
    target_gpu,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory import report as plan_report
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model import config as model_config
from ansible_collections.sparerig.llm.plugins.module_utils._model import tokenizer as tokenizers
from ansible_collections.sparerig.llm.plugins.module_utils._model.files import read_object
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import parsers, versions

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host
    from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import Card
    from ansible_collections.sparerig.llm.plugins.module_utils._model.config import Architecture
    from ansible_collections.sparerig.llm.plugins.module_utils._model.tokenizer import Tokenizer

USE: t.Final = (
    "context",
    "chats",
    "max_num_seqs",
    "max_num_batched_tokens",
    "fp8_kv_cache",
    "enforce_eager",
    "tensor_parallel_size",
    "cpu_offload_gib",
    "stretch_context",
    "pictures",
)
_WISH: t.Final = (
    *USE,
    *("model", "gated", "cpu_kv_cache_gib", "tool_call_parser", "reasoning_parser"),
)
_AUTO: t.Final = "auto"


def answer(params: Mapping[str, t.Any], host: Host) -> dict[str, t.Any]:
    """Give the plan that is kept on the host, or make one."""
    try:
        card = None if _on_cpu(params) else target_gpu.card(params, host)
    except target_gpu.NotYetKnownError as error:
        return _not_yet(str(error))
    wish = {name: params[name] for name in _WISH} | {
        "card": _identity(card),
        "vllm_version": versions.vllm_version(params["vllm_image"]),
    }
    digest = _config_digest(params)
    kept = _kept(params, wish, digest) if card is None or card.confirmed else None
    if kept:
        # A catalogue's model is what it is; others may have come with other files since.
        return {**kept, "kept": True, "settled": bool(digest or "catalogue" in kept)}
    made = _made(params, card)
    return {**made, "wish": wish, "config_sha256": digest, "kept": False, "settled": False}


def _made(params: Mapping[str, t.Any], card: Card | None) -> dict[str, t.Any]:
    wanted, folder = params["model"] or "", _folder(params)
    if wanted == _AUTO and card:
        use = _use(params)
        chosen = catalogue.choose(card, use, gated=params["gated"])
        found = _planned(params, chosen.model, card, folder)
        return {**found, "reason": _why(chosen.reason, card)}
    if wanted == _AUTO:
        entry = catalogue.smallest()
        reason = f"{entry.id} is the smallest of the catalogue; a processor is slow with any."
        return {**_on_processor(params, entry.architecture, entry), "reason": reason}
    entry_or_none = _entry(wanted)
    if entry_or_none is None and folder is None and params["config"] is None:
        # Not ours to know before it is downloaded, unless the name is a typing error.
        if "/" not in wanted:
            catalogue.find(wanted)
        _parsers(params, None, None, None)
        return _not_yet(f"{wanted} is not in the catalogue: it is planned once its files are here.")
    if card is None:
        architecture, _unused = _architecture(params, entry_or_none, folder)
        return _on_processor(params, architecture, entry_or_none)
    if entry_or_none:
        return _planned(params, entry_or_none, card, folder)
    architecture, estimate = _architecture(params, None, folder)
    name = folder.name if folder else ""
    plan = sizing.plan(architecture, card, _use(params), model=name, estimate=estimate)
    found = {**plan_report.result(plan), "report": plan_report.lines(plan), **_named(params)}
    return _with_parsers(found, params, None, folder)


def _planned(
    params: Mapping[str, t.Any], model: catalogue.Model, card: Card, folder: Path | None
) -> dict[str, t.Any]:
    """Plan a model of the catalogue, by its own config.json once that is here."""
    architecture = model.architecture
    if folder and _holds(folder, model):
        architecture, _unused = model_config.read_directory(folder)
    plan = sizing.plan(architecture, card, _use(params), model=model.id)
    found = {
        **plan_report.result(plan),
        "report": plan_report.lines(plan),
        **_catalogue_facts(model),
    }
    return _with_parsers(found, params, model, folder)


def _on_processor(
    params: Mapping[str, t.Any], architecture: Architecture, model: catalogue.Model | None
) -> dict[str, t.Any]:
    plan = comparison.on_cpu(architecture, params["cpu_kv_cache_gib"], params["context"])
    cache = params["cpu_kv_cache_gib"]
    report = f"On the processor, {cache} GiB of KV cache: {plan['kv_cache_tokens']} tokens."
    found = {
        **plan,
        "fits": True,
        "confirmed": True,
        "estimate": False,
        "report": [report],
        "flags": [],
        "vllm_vars": {},
        **(_catalogue_facts(model) if model else _named(params)),
    }
    return _with_parsers(found, params, model, _folder(params))


def _not_yet(why: str) -> dict[str, t.Any]:
    return {
        "fits": None,
        "confirmed": False,
        "kept": False,
        "settled": False,
        "report": [why],
        "vllm_vars": {},
    }


# --- what is meant ----------------------------------------------------------------------------


def _on_cpu(params: Mapping[str, t.Any]) -> bool:
    return params["cpu_kv_cache_gib"] is not None


def _use(params: Mapping[str, t.Any]) -> sizing.Use:
    return sizing.Use(**{name: params[name] for name in USE})


def _folder(params: Mapping[str, t.Any]) -> Path | None:
    """Find the directory of the model; that of a download may not be there yet."""
    wanted = params["model"] or ""
    if wanted.startswith("/"):
        return Path(wanted)
    folder = Path(params["model_path"]) if params["model_path"] else None
    if wanted and folder and not (folder / "config.json").exists():
        return None
    return folder


def _entry(wanted: str) -> catalogue.Model | None:
    try:
        return catalogue.find(wanted)
    except catalogue.CatalogueError:
        return None


def _architecture(
    params: Mapping[str, t.Any], model: catalogue.Model | None, folder: Path | None
) -> tuple[Architecture, bool]:
    if params["config"] is not None:
        return model_config.parse(params["config"]), False
    if folder:
        return model_config.read_directory(folder)
    if model:
        return model.architecture, False
    raise catalogue.CatalogueError("Nothing says which model is meant: give model or model_path.")


def _holds(folder: Path, model: catalogue.Model) -> bool:
    """Whether the directory is a download of this model."""
    return model.repository.replace("/", "--") in folder.parts


def _named(params: Mapping[str, t.Any]) -> dict[str, str]:
    """Give the name that the model is served by: its repository's or its directory's."""
    name = (params["model"] or params["model_path"] or "").rstrip("/").rpartition("/")[2]
    return {"served_name": name} if name else {}


# --- tools and reasoning ----------------------------------------------------------------------


def _with_parsers(
    found: dict[str, t.Any],
    params: Mapping[str, t.Any],
    model: catalogue.Model | None,
    folder: Path | None,
) -> dict[str, t.Any]:
    """Add the parsers to a plan, and what people should know of them to its report."""
    if not found["fits"]:
        return found
    known = _tokenizer(model, folder)
    chosen = _parsers(params, model, folder, known)
    variables = {
        **found["vllm_vars"],
        "vllm_tool_call_parser": chosen.tool.name,
        "vllm_reasoning_parser": chosen.reasoning.name,
    }
    if known and known.mistral_only:
        # vLLM takes Mistral's own library by itself only where it sees consolidated*.safetensors.
        arguments = variables.get("vllm_extra_args", [])
        variables["vllm_extra_args"] = [*arguments, "--tokenizer-mode", "mistral"]
    return {
        **found,
        "vllm_vars": variables,
        "tool_call_parser": chosen.tool.name,
        "reasoning_parser": chosen.reasoning.name,
        "tools": chosen.report,
        "report": [*found["report"], chosen.report],
    }


def _parsers(
    params: Mapping[str, t.Any],
    model: catalogue.Model | None,
    folder: Path | None,
    tokenizer: Tokenizer | None,
) -> parsers.Parsers:
    """Choose the parsers: what was named, else the catalogue's, else what the files tell."""
    entry = None
    if model:
        entry = {parsers.TOOL: model.tool_parser, parsers.REASONING: model.reasoning_parser}
    return parsers.choose_both(
        params["vllm_image"],
        tokenizer,
        _model_type(params, folder),
        asked={
            parsers.TOOL: params["tool_call_parser"],
            parsers.REASONING: params["reasoning_parser"],
        },
        entry=entry,
    )


def _tokenizer(model: catalogue.Model | None, folder: Path | None) -> Tokenizer | None:
    """Read the tokenizer of the files once they are here; until then the catalogue tells."""
    if folder and (model is None or _holds(folder, model)):
        return tokenizers.read(folder)
    return model.tokenizer if model else None


def _model_type(params: Mapping[str, t.Any], folder: Path | None) -> str:
    config = params["config"] or (read_object(folder / "config.json") if folder else {})
    return str(config.get("model_type") or "")


# --- the entry --------------------------------------------------------------------------------


def _catalogue_facts(model: catalogue.Model) -> dict[str, t.Any]:
    names = (
        *("id", "repository", "revision", "commit", "title", "format", "license"),
        *("license_notice", "gated", "context", "stop_tokens", "tool_parser"),
        *("reasoning_parser", "chat_template", "known_from"),
    )
    entry = {name: getattr(model, name) for name in names}
    return {"catalogue": entry, "served_name": model.repository.rpartition("/")[2]}


def _why(reason: str, card: Card) -> str:
    if card.confirmed:
        return reason
    return f"{reason} The card is known by its PCI id only: confirmed once its driver is there."


# --- what is kept -----------------------------------------------------------------------------


def _identity(card: Card | None) -> dict[str, t.Any] | None:
    """Tell cards apart by what does not change from minute to minute."""
    if card is None:
        return None
    return {"name": card.name, "memory_mib": card.total_mib, "count": card.count}


def _kept(
    params: Mapping[str, t.Any], wish: dict[str, t.Any], digest: str
) -> dict[str, t.Any] | None:
    """Read the plan of an earlier run, if it is for the same wish and the same files."""
    if not params["kept"] or params["replan"]:
        return None
    try:
        found = read_json_object(params["kept"])
    except (OSError, JsonError):
        return None
    if found.get("wish") != wish or not found.get("fits"):
        return None
    if digest and found.get("config_sha256") != digest:
        return None
    return {name: value for name, value in found.items() if name not in {"changed", "failed"}}


def _config_digest(params: Mapping[str, t.Any]) -> str:
    """Tell the files apart that a plan is made from; empty where they are not here yet."""
    folder = _folder(params)
    if folder is None or not (folder / "config.json").is_file():
        return ""
    digest = hashlib.sha256()
    for name in ("config.json", *tokenizers.FILES):
        try:
            content = (folder / name).read_bytes()
        except OSError:
            continue
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
