# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is to serve, and with which arguments of vLLM: decided here, once.

A plan must not change from run to run, or the engine would restart whenever a desktop on the same
card takes a little more or less memory. The role writes the answer to a file on the host; the
next run reuses it, and plans anew only for other requirements, another card or another model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.sparerig.llm.plugins.module_utils._host.files import (
    JsonError,
    read_json_object,
)
from ansible_collections.sparerig.llm.plugins.module_utils._memory import report as plan_report
from ansible_collections.sparerig.llm.plugins.module_utils._memory import (
    selection,
    sizing,
    target_gpu,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model import config as model_config
from ansible_collections.sparerig.llm.plugins.module_utils._model import tokenizer as tokenizers
from ansible_collections.sparerig.llm.plugins.module_utils._model.files import read_object
from ansible_collections.sparerig.llm.plugins.module_utils._model.store import REPOSITORY, Store
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import parsers, versions

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ansible_collections.sparerig.llm.plugins.module_utils._host.command import Host
    from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import Card
    from ansible_collections.sparerig.llm.plugins.module_utils._model.config import Architecture
    from ansible_collections.sparerig.llm.plugins.module_utils._model.tokenizer import Tokenizer

_AUTO: t.Final = "auto"
_BRANCH: t.Final = "main"  # what a repository is asked for where nobody says more


@dataclass(frozen=True)
class PlanRequest:
    """What the planner is asked for.

    ``model`` is ``auto``, an id of the catalogue, a repository of the hub as ORGANISATION/NAME, or
    an absolute path; empty if there is only a ``config``. ``root`` is the directory of downloaded
    models. ``revision`` and ``served_name`` follow from the model where they are empty. With
    ``cpu_kv_cache_gib`` there is no card. ``vllm_image`` is what serves it; empty for the newest
    vLLM that is known. The parsers are names of vLLM's, ``auto``, or empty for none. ``plan_file``
    holds an earlier answer.
    """

    use: sizing.Use = field(default_factory=sizing.Use)
    gpu: target_gpu.GpuRequest = field(default_factory=target_gpu.GpuRequest)
    model: str = ""
    config: Mapping[str, t.Any] | None = None
    root: Path | None = None
    revision: str = ""
    served_name: str = ""
    gated: bool = False
    cpu_kv_cache_gib: float | None = None
    plan_memory: bool = True
    vllm_image: str = ""
    tool_call_parser: str = _AUTO
    reasoning_parser: str = _AUTO
    plan_file: Path | None = None
    replan: bool = False

    @classmethod
    def of(cls, params: Mapping[str, t.Any]) -> PlanRequest:
        """Read the options of the module memory_plan."""
        plain = {name: params[name] for name in _OPTIONS_OF_USE if params[name] is not None}
        return cls(
            use=sizing.Use(**plain, fp8_kv_cache=params["kv_cache_dtype"] == "fp8"),
            gpu=target_gpu.GpuRequest(
                name=params["gpu"],
                gpus=params["gpus"],
                memory_mib=params["gpu_memory_mib"],
                capability=params["gpu_capability"],
                bandwidth_gb_s=params["gpu_bandwidth_gb_s"],
                used_mib=params["gpu_used_mib"],
                count=params["gpu_count"],
                indexes=tuple(params["gpu_indexes"] or ()),
            ),
            model=params["model"] or "",
            config=params["config"],
            root=Path(params["root"]) if params["root"] else None,
            revision=params["revision"] or "",
            served_name=params["served_name"] or "",
            gated=params["gated"],
            cpu_kv_cache_gib=params["cpu_kv_cache_gib"],
            plan_memory=params["plan_memory"],
            vllm_image=params["vllm_image"],
            tool_call_parser=params["tool_call_parser"],
            reasoning_parser=params["reasoning_parser"],
            plan_file=Path(params["plan_file"]) if params["plan_file"] else None,
            replan=params["replan"],
        )

    def requirements(self, card: Card | None) -> dict[str, t.Any]:
        """Name all that an earlier plan must have been made for, to be reused."""
        use = dataclasses.asdict(self.use)
        use["kv_cache_dtype"] = "fp8" if use.pop("fp8_kv_cache") else "auto"
        names = (
            *("model", "revision", "served_name", "gated", "cpu_kv_cache_gib"),
            *("tool_call_parser", "reasoning_parser"),
        )
        return {
            **use,
            **{name: getattr(self, name) for name in names},
            # None where the image does not tell: then an earlier plan stands.
            "vllm_version": versions.vllm_version(self.vllm_image),
            "gpu_indexes": list(self.gpu.indexes),
            "card": _identity(card),
        }


# What of the module's options describes the use, by the same names.
_OPTIONS_OF_USE: t.Final = (
    "context",
    "chats",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
    "tensor_parallel_size",
    "cpu_offload_gib",
    "extend_context",
    "image_inputs",
    "reserve_mib",
)


@dataclass(frozen=True)
class Source:
    """Where a model comes from. A directory of the host's own has no repository."""

    repository: str = ""
    revision: str = ""
    path: Path | None = None  # where its files are, or will be
    entry: catalogue.Model | None = None

    @property
    def files(self) -> Path | None:
        """The directory, once the model's configuration is there."""
        return self.path if self.path and (self.path / "config.json").is_file() else None

    @property
    def name(self) -> str:
        """The name to serve it by."""
        return (self.repository or str(self.path or "")).rstrip("/").rpartition("/")[2]


def answer(request: PlanRequest, host: Host) -> dict[str, t.Any]:
    """Give the plan that an earlier run left on the host, or make one."""
    if not request.plan_memory:
        source = Source() if request.model == _AUTO else _source(request, request.model)
        return _complete(_unplanned(request, source), request, source)
    try:
        card = None if _on_cpu(request) else target_gpu.card(request.gpu, host)
    except target_gpu.NotYetKnownError as error:
        known = Source() if request.model == _AUTO else _source(request, request.model)
        return _complete(_not_yet(str(error)), request, known)
    requirements = request.requirements(card)
    if card is None or card.confirmed:
        reused = _reused(request, requirements)
        if reused:
            return reused
    made, source = _made(request, card)
    return _complete(made, request, source) | {
        "requirements": requirements,
        "config_sha256": _config_digest(source),
    }


def table(request: PlanRequest, host: Host) -> dict[str, t.Any]:
    """Plan every model of the catalogue."""
    card = target_gpu.card(request.gpu, host)
    rows = [plan_report.row(model, plan) for model, plan in selection.plans(card, request.use)]
    report = plan_report.table(card, rows, request.use.context, request.use.chats)
    return {"fits": any(row["fits"] for row in rows), "models": rows, "report": report}


# --- which model --------------------------------------------------------------------------------


def _source(request: PlanRequest, wanted: str) -> Source:
    """Tell an id of the catalogue, a repository and a directory apart."""
    if wanted.startswith("/"):
        return Source(path=Path(wanted))
    if not wanted:
        return Source()
    entry = _entry(wanted)
    if entry is None and not REPOSITORY.fullmatch(wanted):
        catalogue.find(wanted)  # raises, with the ids that there are
    repository = entry.repository if entry else wanted
    revision = request.revision or (entry.revision if entry else _BRANCH)
    return Source(repository, revision, _snapshot(request.root, repository, revision), entry)


def _snapshot(root: Path | None, repository: str, revision: str) -> Path | None:
    """Find where the store has a revision; a branch that it never resolved stands for itself."""
    if root is None:
        return None
    store = Store(root, repository)
    return store.snapshot(store.pinned(revision) or revision)


def _entry(wanted: str) -> catalogue.Model | None:
    try:
        return catalogue.find(wanted)
    except catalogue.CatalogueError:
        return None


# --- what it takes ------------------------------------------------------------------------------


def _made(request: PlanRequest, card: Card | None) -> tuple[dict[str, t.Any], Source]:
    if request.model == _AUTO:
        entry, reason = _chosen(request, card)
        source = _source(request, entry.id)
        return {**_planned(request, card, source), "reason": reason}, source
    source = _source(request, request.model)
    if source.entry is None and source.repository and not source.files:
        _parsers(request, source, None)  # refuses a name that this vLLM does not know
        return _not_yet(
            f"{source.repository} is not in the catalogue: it is planned once its files are here."
        ), source
    return _planned(request, card, source), source


def _chosen(request: PlanRequest, card: Card | None) -> tuple[catalogue.Model, str]:
    if card is None:
        entry = catalogue.smallest()
        return (
            entry,
            f"{entry.id} is the smallest of the catalogue; a processor is slow with any.",
        )
    chosen = selection.choose(card, request.use, gated=request.gated)
    if card.confirmed:
        return chosen.model, chosen.reason
    unsure = " The card is known by its PCI id only: confirmed once its driver is there."
    return chosen.model, chosen.reason + unsure


def _planned(request: PlanRequest, card: Card | None, source: Source) -> dict[str, t.Any]:
    """Plan a model by its own config.json; the catalogue's is used until that is here."""
    architecture, estimate = _architecture(request, source)
    if card is None:
        return _with_parsers(_on_processor(request, architecture), request, source)
    name = source.entry.id if source.entry else source.path.name if source.path else ""
    plan = sizing.plan(architecture, card, request.use, model=name, estimate=estimate)
    found = plan_report.result(plan) | {"report": plan_report.lines(plan)}
    return _with_parsers(found, request, source) if plan.fits else found


def _architecture(request: PlanRequest, source: Source) -> tuple[Architecture, bool]:
    if request.config is not None:
        return model_config.parse(request.config), False
    if source.path and (source.files or not source.entry):
        if not source.path.exists():
            raise model_config.ModelConfigError(
                f"there is nothing at {source.path}: put the model there, or name another with"
                " sparerig_model. A model of the hub is named ORGANISATION/NAME, or by its id in"
                " the catalogue (`ansible-playbook sparerig.llm.fit`)."
            )
        return model_config.read_directory(source.path)
    if source.entry:
        return source.entry.architecture, False
    raise catalogue.CatalogueError("Nothing says which model is meant: set model.")


def _on_processor(request: PlanRequest, architecture: Architecture) -> dict[str, t.Any]:
    use, cache = request.use, request.cpu_kv_cache_gib or 0
    plan = on_cpu(architecture, cache, use.context)
    report = f"On the processor, {cache:g} GiB of KV cache: {plan['kv_cache_tokens']} tokens."
    arguments = {
        "dtype": "auto",
        "max-model-len": use.context,
        "max-num-seqs": use.sequences,
        "max-num-batched-tokens": use.max_num_batched_tokens,
    }
    return {
        **plan,
        "fits": True,
        "confirmed": True,
        "estimate": False,
        "report": [report],
        "vllm_arguments": arguments,
        "vllm_environment": {"VLLM_CPU_KVCACHE_SPACE": f"{cache:g}"},
        "gpus": [],
    }


def on_cpu(architecture: Architecture, kv_cache_gib: float, context: int) -> dict[str, t.Any]:
    """Plan for vLLM's CPU backend, where only the KV cache is given (VLLM_CPU_KVCACHE_SPACE)."""
    layout = sizing.KvLayout.of(architecture, sizing.Use(context=context))
    size = int(kv_cache_gib * sizing.GIB)
    return {
        "context": context,
        "kv_block_bytes": layout.block_bytes,
        "kv_cache_tokens": layout.tokens(size // layout.block_bytes, context),
        "terms": {"kv_cache": size},
    }


# --- tools and reasoning ------------------------------------------------------------------------


def _with_parsers(
    found: dict[str, t.Any], request: PlanRequest, source: Source
) -> dict[str, t.Any]:
    """Add the parsers to a plan, and what people should know of them to its report."""
    tokenizer = _tokenizer(source)
    chosen = _parsers(request, source, tokenizer)
    arguments = dict(found["vllm_arguments"])
    if chosen.tool.name:
        arguments |= {"enable-auto-tool-choice": True, "tool-call-parser": chosen.tool.name}
    if chosen.reasoning.name:
        arguments["reasoning-parser"] = chosen.reasoning.name
    if tokenizer and tokenizer.mistral_only:
        # vLLM takes Mistral's own library by itself only where it sees consolidated*.safetensors.
        arguments["tokenizer-mode"] = "mistral"
    return {
        **found,
        "vllm_arguments": arguments,
        "tool_call_parser": chosen.tool.name,
        "reasoning_parser": chosen.reasoning.name,
        "tools": chosen.report,
        "report": [*found["report"], chosen.report],
    }


def _parsers(request: PlanRequest, source: Source, tokenizer: Tokenizer | None) -> parsers.Parsers:
    """Choose the parsers: what was named, else the catalogue's, else what the files tell."""
    model, entry = source.entry, None
    if model:
        entry = {parsers.TOOL: model.tool_parser, parsers.REASONING: model.reasoning_parser}
    return parsers.choose_both(
        request.vllm_image,
        tokenizer,
        _model_type(request, source),
        asked={
            parsers.TOOL: request.tool_call_parser,
            parsers.REASONING: request.reasoning_parser,
        },
        entry=entry,
    )


def _tokenizer(source: Source) -> Tokenizer | None:
    """Read the tokenizer of the files once they are here; until then the catalogue tells."""
    if source.files:
        return tokenizers.read(source.files)
    return source.entry.tokenizer if source.entry else None


def _model_type(request: PlanRequest, source: Source) -> str:
    config = request.config or (read_object(source.files / "config.json") if source.files else {})
    return str(config.get("model_type") or "")


# --- the whole answer ---------------------------------------------------------------------------


def _unplanned(request: PlanRequest, source: Source) -> dict[str, t.Any]:
    if request.model == _AUTO:
        raise catalogue.CatalogueError(
            "model auto is chosen by its memory: name a model, or leave plan_memory on."
        )
    found: dict[str, t.Any] = {
        "fits": None,
        "confirmed": True,
        "report": ["The memory is not planned: vLLM measures what is left for chats."],
        "vllm_arguments": {},
        "gpus": [] if _on_cpu(request) else target_gpu.cdi_names(request.gpu.indexes),
    }
    return _with_parsers(found, request, source)


def _not_yet(why: str) -> dict[str, t.Any]:
    return {"fits": None, "confirmed": False, "report": [why], "vllm_arguments": {}, "gpus": []}


def _complete(made: dict[str, t.Any], request: PlanRequest, source: Source) -> dict[str, t.Any]:
    """Add which model it is, and where."""
    entry = source.entry
    return {
        "vllm_environment": {},
        **made,
        **({"catalogue": _catalogue_facts(entry)} if entry else {}),
        "repository": source.repository,
        "revision": source.revision,
        "path": str(source.path or ""),
        "served_name": request.served_name or source.name,
        "license_notice": entry.license_notice if entry else "",
        "requirements": request.requirements(None),
        "config_sha256": "",
        "reused": False,
    }


def _catalogue_facts(model: catalogue.Model) -> dict[str, t.Any]:
    names = (
        *("id", "repository", "revision", "commit", "title", "format", "license"),
        *("license_notice", "gated", "context", "stop_tokens", "tool_parser"),
        *("reasoning_parser", "chat_template", "known_from"),
    )
    return {name: getattr(model, name) for name in names}


def _on_cpu(request: PlanRequest) -> bool:
    return request.cpu_kv_cache_gib is not None


# --- an earlier plan ----------------------------------------------------------------------------


def _identity(card: Card | None) -> dict[str, t.Any] | None:
    """Tell cards apart by what does not change from minute to minute."""
    if card is None:
        return None
    return {"name": card.name, "memory_mib": card.total_mib, "count": card.count}


def _reused(request: PlanRequest, requirements: dict[str, t.Any]) -> dict[str, t.Any] | None:
    """Read the plan of an earlier run, if it is for the same requirements and the same files.

    Its repository and revision stand, also when the catalogue of today has others. Where they are
    on the disk is looked up: the store may have been moved since.
    """
    if not request.plan_file or request.replan:
        return None
    try:
        found = read_json_object(request.plan_file)
    except (OSError, JsonError):
        return None
    if not found.get("fits"):
        return None
    # What JSON has no word for, such as a tuple, compares as it was written.
    today = json.loads(json.dumps(requirements))
    earlier = found.get("requirements")
    if isinstance(earlier, dict) and today["vllm_version"] is None:
        earlier = {**earlier, "vllm_version": None}
    if earlier != today:
        return None
    repository, revision = found.get("repository", ""), found.get("revision", "")
    if repository:
        path = _snapshot(request.root, repository, revision)
    else:
        path = _source(request, request.model).path
    digest = _config_digest(Source(path=path))
    if digest and found.get("config_sha256") != digest:
        return None
    plan = {name: value for name, value in found.items() if name not in {"changed", "failed"}}
    # The sums stand either way; only what is as it was written is not written again.
    return {**plan, "path": str(path or ""), "reused": plan.get("path") == str(path or "")}


def _config_digest(source: Source) -> str:
    """Tell the files apart that a plan is made from; empty where they are not here yet."""
    files = source.files
    if files is None:
        return ""
    digest = hashlib.sha256()
    for name in ("config.json", *tokenizers.FILES):
        try:
            content = (files / name).read_bytes()
        except OSError:
            continue
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
