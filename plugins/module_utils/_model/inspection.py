# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells whether a directory is a model that vLLM can serve.

Everything is read from the files themselves, cheaply: of the weights only the headers. The same
checks serve a directory that is complete and, before a download, one that holds the small files
only, with the list of what is still to come.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import typing as t
import zipfile

from ansible_collections.sparerig.llm.plugins.module_utils._checks.evidence import (
    Check,
    messages,
)
from ansible_collections.sparerig.llm.plugins.module_utils._checks.failures import (
    Explanation,
    describe,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import tokenizer
from ansible_collections.sparerig.llm.plugins.module_utils._model.files import (
    LFS_POINTER,
    DamagedFileError,
    JsonObject,
    read_object,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.quantization import (
    GPTQ_BITS,
    SEPARATE_FILES,
    SERVED_FORMATS,
    describe_quantization,
    quantization_settings,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.safetensors import (
    safetensors_header,
)
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import parsers

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

# What decides whether a model can be served, apart from the weights. Some KiB each, but for the
# tokenizer's vocabulary of some MiB.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    *tokenizer.FILES,
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
# One complete line of these makes a tokenizer.
TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("tekken.json",),
    ("vocab.json", "merges.txt"),
)
# Weights by suffix, the one that vLLM prefers first, and the index where there are several files.
WEIGHTS = (
    (".safetensors", "model.safetensors.index.json"),
    (".bin", "pytorch_model.bin.index.json"),
)
NOT_WEIGHTS = ("adapter_", "optimizer", "training_", "scheduler")
FOREIGN_WEIGHTS = (".gguf", ".h5", ".msgpack", ".onnx", ".pth")
# Formats, by the name that a config.json gives them, that are made for other programs.
FOREIGN_FORMATS = {
    "exl2": "ExLlamaV2",
    "exl3": "ExLlamaV3",
    "gguf": "llama.cpp",
    "mlx": "Apple's MLX",
}
# Tokens by which chat models end their turn. One that the template writes must also stop vLLM.
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class NotPassedError(Exception):
    """A check that failed: which failure it is, and what was seen."""

    def __init__(self, failure: str | Explanation, seen: str) -> None:
        super().__init__(seen)
        self.failure = failure
        self.seen = seen


class NotSureError(Exception):
    """A check that neither passed nor failed."""

    def __init__(self, seen: str, cause: str, remedy: str) -> None:
        super().__init__(seen)
        self.seen = seen
        self.cause = cause
        self.remedy = remedy


class NotMadeError(Exception):
    """A check that was not made; the text says why."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """The vLLM that is to serve a model, and the parsers that somebody named for it."""

    image: str = ""
    tool_call_parser: str = parsers.AUTO
    reasoning_parser: str = parsers.AUTO

    @property
    def asked(self) -> dict[str, str]:
        """Give the parsers by their kind."""
        return {parsers.TOOL: self.tool_call_parser, parsers.REASONING: self.reasoning_parser}


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The evidence, and the facts that came with it."""

    checks: list[Check]
    facts: JsonObject

    @property
    def reasons(self) -> str:
        """Say what speaks against the model; nothing if nothing does."""
        return messages(self.checks)

    @property
    def failure(self) -> str:
        """The identifier of the first failure; empty if there is none."""
        return next((check.failure for check in self.checks if check.status == "fail"), "")

    def result(self) -> JsonObject:
        """Give the evidence and the facts as a module returns them."""
        return {"checks": [dataclasses.asdict(check) for check in self.checks], **self.facts}


def inspect(
    directory: Path,
    *,
    to_come: Mapping[str, int] | None = None,
    reader: tuple[int, int] | None = None,
    need_chat_template: bool = True,
    engine: Engine | None = None,
) -> Inspection:
    """Check a model directory, as far as one check's answer lets the next one be asked.

    With ``to_come`` (names and sizes) the directory holds the small files of a download, and what
    needs the large ones is left out. ``reader`` is the user and the group of the container.
    ``engine`` is the vLLM that is to serve the model; without it the newest one that is known.
    """
    model = _Model(directory, to_come, reader, need_chat_template=need_chat_template)
    model.engine = engine or Engine()
    checks = []
    for name, expected, look, decisive in _STEPS:
        if to_come is not None and name in _NEED_WEIGHTS:
            continue
        check = _make(name, expected, look, model)
        checks.append(check)
        if decisive and check.status == "fail":
            break
    if to_come is None and not any(check.status == "fail" for check in checks):
        model.facts["fingerprint"] = model.take_fingerprint()
    return Inspection(checks, model.facts)


def _make(name: str, expected: str, look: Callable[[_Model], str], model: _Model) -> Check:
    """Make one check."""
    try:
        return Check.passed(name, expected=expected, seen=look(model))
    except NotMadeError as answer:
        return Check.skipped(name, str(answer))
    except NotSureError as answer:
        return Check.unknown(
            name, expected=expected, seen=answer.seen, cause=answer.cause, remedy=answer.remedy
        )
    except NotPassedError as answer:
        return Check.failed(name, answer.failure, expected=expected, seen=answer.seen)
    except DamagedFileError as error:
        failure = describe("model-file-damaged", {"path": str(error.path)})
        return Check.failed(name, failure, expected=expected, seen=str(error))
    except OSError as error:
        seen = f"{error.filename} cannot be read ({error.strerror})"
        failure = describe("model-unreadable", {"path": str(error.filename)})
        return Check.failed(name, failure, expected=expected, seen=seen)


def size_text(size: int) -> str:
    """Write a size as people read it."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"


def some(names: Iterable[str], limit: int = 5) -> str:
    """List a few names and count the rest."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def text_config(config: JsonObject) -> JsonObject:
    """Return what is about the language model; models that also see keep it one level down."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def context_length(config: JsonObject) -> int | None:
    """Return the context in tokens that the model was made for, if its config.json says so."""
    text = text_config(config)
    values = (text.get(key) for key in CONTEXT_KEYS)
    return next((value for value in values if isinstance(value, int) and value > 1), None)


def refuse_quantization(quantization: JsonObject) -> Explanation | None:
    """Return why vLLM refuses to load this quantisation, and what to do; None if it does not."""
    method = quantization["method"]
    if method in FOREIGN_FORMATS:
        cause = f"The format {method} is made for {FOREIGN_FORMATS[method]}."
        return describe("model-format-foreign", cause=cause)
    if method not in {"gptq", "gptq_marlin", "auto_gptq"}:
        return None
    if quantization["desc_act"] is True and quantization["group_size"] != -1:
        return describe("act-order-refused")
    if quantization["sym"] is False:
        return describe(
            "quantization-unsupported",
            cause="vLLM loads GPTQ only if it is symmetric (sym true).",
            advice="Choose a release that was quantised with sym true, or the model in AWQ.",
        )
    if quantization["bits"] not in GPTQ_BITS:
        return describe(
            "quantization-unsupported",
            cause=f"vLLM loads GPTQ with 4 or 8 bits, and this has {quantization['bits']}.",
            advice="Choose a release with 4 or 8 bits.",
        )
    return None


class _Model:
    """One directory under inspection. Each check returns what it saw, or raises."""

    def __init__(
        self,
        directory: Path,
        to_come: Mapping[str, int] | None,
        reader: tuple[int, int] | None,
        *,
        need_chat_template: bool,
    ) -> None:
        self.directory = directory
        self.sizes = dict(to_come or {})
        self.whole = to_come is None
        self.reader = reader
        self.need_chat_template = need_chat_template
        self.facts: JsonObject = {}
        self.config: JsonObject = {}
        self.weights: list[str] = []
        self.tokenizer: tokenizer.Tokenizer | None = None
        self.mistral_only = False
        self.engine = Engine()

    def _failure(self, failure: str, *, cause: str = "", advice: str = "") -> Explanation:
        """Describe a failure of this directory; before a download nothing is fixed by hand."""
        if not self.whole:
            advice = "Choose another release of the model."
        return describe(failure, {"path": str(self.directory)}, cause=cause, advice=advice)

    def list_files(self) -> str:
        """See what is there. Only the top level counts: vLLM reads nothing below it."""
        path = self.directory
        if not path.exists():
            nearest = next(parent for parent in path.absolute().parents if parent.exists())
            failure = describe(
                "model-directory-missing",
                {"path": str(nearest)},
                cause="The path is misspelt, a link leads nowhere, or a disk is not mounted.",
                advice=f"{nearest} is the nearest that exists: look what is there.",
            )
            raise NotPassedError(failure, f"there is nothing at {path}")
        if not path.is_dir():
            failure = describe(
                "model-directory-missing",
                {"path": str(path.parent)},
                cause="The path names one file of the model.",
                advice=f"Name the directory around it: {path.parent}.",
            )
            raise NotPassedError(failure, f"{path} is a file")
        # A link to nowhere is no file here, and so is missed by name where it is needed.
        self.sizes |= {
            entry.name: entry.stat().st_size for entry in os.scandir(path) if entry.is_file()
        }
        self.facts["size_bytes"] = sum(self.sizes.values())
        return f"{len(self.sizes)} files, {size_text(self.facts['size_bytes'])}"

    def read_config(self) -> str:
        """Take from config.json what the model is."""
        if "config.json" not in self.sizes:
            raise NotPassedError(self._why_no_config(), "there is no config.json")
        config = read_object(self.directory / "config.json")
        names = config.get("architectures")
        architecture = names[0] if isinstance(names, list) and names else None
        model_type = config.get("model_type")
        if not isinstance(architecture, str) and not isinstance(model_type, str):
            failure = self._failure(
                "model-config-missing",
                cause="It belongs to something else: an adapter, a tokenizer, another program.",
                advice="Name the directory of a whole model in the layout of Hugging Face.",
            )
            raise NotPassedError(failure, "config.json has neither architectures nor model_type")
        text = text_config(config)
        self.config = config
        self.facts.update(
            architecture=architecture,
            model_type=model_type,
            context_length=context_length(config),
            dtype=text.get("dtype") or text.get("torch_dtype"),
        )
        tokens = self.facts["context_length"] or "unknown"
        return f"{architecture or model_type}, context length {tokens}"

    def _why_no_config(self) -> Explanation:
        if any(name.endswith(".gguf") for name in self.sizes):
            cause = "GGUF files are made for llama.cpp and Ollama."
            return describe("model-format-foreign", cause=cause)
        if "adapter_config.json" in self.sizes:
            return self._failure(
                "model-config-missing",
                cause="This is a LoRA adapter, not a model.",
                advice="Name the base model's directory, or merge the adapter into it.",
            )
        snapshots = sorted(self.directory.glob("snapshots/*/config.json"))
        if snapshots:
            return describe(
                "model-links-out",
                {"path": str(snapshots[-1].parent)},
                cause="This is a folder of the Hugging Face cache, whose snapshots are only links.",
            )
        below = sorted(self.directory.glob("*/config.json"))
        if below:
            return self._failure(
                "model-config-missing",
                cause="The model is one level further down.",
                advice=f"Name {below[0].parent} instead.",
            )
        return self._failure(
            "model-config-missing",
            cause="The copy is incomplete, or this is not the directory of a model.",
        )

    def find_weights(self) -> str:
        """Find the weights, and see that no file of them is missing."""
        for suffix, index in WEIGHTS:
            names = sorted(
                name
                for name in self.sizes
                if name.endswith(suffix) and not name.startswith(NOT_WEIGHTS)
            )
            if index in self.sizes:
                names = self._indexed(index)
            if names:
                self.weights = names
                total = sum(self.sizes[name] for name in names)
                self.facts.update(weights_format=suffix[1:], weights_bytes=total)
                return f"{len(names)} {suffix[1:]} files, {size_text(total)}"
        foreign = [name for name in self.sizes if name.endswith(FOREIGN_WEIGHTS)]
        if foreign:
            seen = f"only weights made for other programs: {some(foreign)}"
            raise NotPassedError("model-format-foreign", seen)
        advice = f"Copy the *.safetensors files of the model into {self.directory}."
        failure = self._failure("model-weights-missing", advice=advice)
        raise NotPassedError(failure, "there are none")

    def _indexed(self, index: str) -> list[str]:
        weight_map = read_object(self.directory / index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise DamagedFileError(self.directory / index, "it has no weight_map")
        shards = sorted({str(name) for name in weight_map.values()})
        missing = [name for name in shards if name not in self.sizes]
        if missing:
            advice = f"Copy the missing files into {self.directory}."
            raise NotPassedError(
                self._failure("model-weights-missing", cause="The copy broke off.", advice=advice),
                f"{len(missing)} of {len(shards)} files that {index} names are missing: "
                f"{some(missing)}",
            )
        return shards

    def measure_weights(self) -> str:
        """See that no file of the weights is cut short: each says in its header how long it is."""
        if not self.weights:
            raise NotMadeError("no weights were found")
        damaged = {}
        for name in self.weights:
            path = self.directory / name
            try:
                if name.endswith(".safetensors"):
                    expected = safetensors_header(path)[1]
                    if self.sizes[name] != expected:
                        damaged[name] = f"{self.sizes[name]} bytes, {expected} by its header"
                elif not zipfile.is_zipfile(path):
                    # A zip's table of contents is at its end: a file cut short has none.
                    damaged[name] = "it is not a complete PyTorch file"
            except DamagedFileError as error:
                damaged[name] = str(error).partition(": ")[2]
        if damaged:
            advice = f"Fetch again, into {self.directory}: {some(damaged)}."
            raise NotPassedError(
                self._failure("model-file-damaged", advice=advice),
                "; ".join(f"{name}: {seen}" for name, seen in damaged.items()),
            )
        return f"{len(self.weights)} files, none cut short"

    def find_closed_files(self) -> str:
        """See that a container that mounts only this directory can read all of it."""
        home = self.directory.resolve()
        outside = [
            name
            for name in self.sizes
            if (home / name).is_symlink() and not (home / name).resolve().is_relative_to(home)
        ]
        if outside:
            seen = f"links that lead out of the directory: {some(outside)}"
            raise NotPassedError(self._failure("model-links-out"), seen)
        if self.reader is None:
            return "no link leads out of the directory"
        uid, gid = self.reader
        closed = [name for name in self.sizes if not _may(home / name, uid, gid, 4)]
        if not _may(home, uid, gid, 5):
            closed = [str(self.directory)]
        if closed:
            seen = f"user {uid}, group {gid} may not read {some(closed)}"
            cause = "The files were copied with private permissions."
            raise NotPassedError(self._failure("model-unreadable", cause=cause), seen)
        return f"user {uid}, group {gid} may read all of it"

    def check_quantization(self) -> str:
        """See that vLLM loads the number format of the weights."""
        source, settings = self._quantization_settings()
        if settings is None:
            self.facts["quantization"] = {"method": "none"}
            return "not quantised"
        quantization = describe_quantization(settings)
        self.facts["quantization"] = quantization
        told = (f"{key} {value}" for key, value in quantization.items() if value is not None)
        seen = f"{', '.join(told)} ({source})"
        if refusal := refuse_quantization(quantization):
            raise NotPassedError(refusal, seen)
        if quantization["method"] not in SERVED_FORMATS:
            raise NotSureError(
                seen,
                "This collection does not know the format; vLLM may load it or not.",
                "Try it, or choose GPTQ, AWQ, FP8 or compressed-tensors.",
            )
        return seen

    def _quantization_settings(self) -> tuple[str, JsonObject | None]:
        """Return the settings and the file that has them, in the order in which vLLM looks."""
        settings = quantization_settings(self.config)
        if isinstance(settings, dict):
            return "config.json", settings
        for name, method in SEPARATE_FILES.items():
            if name in self.sizes:
                return name, {"quant_method": method, **read_object(self.directory / name)}
        return "", None

    def find_tokenizer(self) -> str:
        """See that there is a tokenizer, and that it is not cut short."""
        names = next((names for names in TOKENIZERS if set(names) <= self.sizes.keys()), None)
        if names is None:
            advice = f"Copy the tokenizer of the original model into {self.directory}."
            failure = self._failure("tokenizer-missing", advice=advice)
            raise NotPassedError(failure, "there is none")
        # What is not JSON is looked at by its ends; before a download it is not here yet.
        for name in names:
            if self.whole and name not in tokenizer.FILES:
                _check_ends(self.directory / name)
        self.tokenizer = tokenizer.read(self.directory)
        self.mistral_only = names == ("tekken.json",)
        return ", ".join(names)

    def _read_tokenizer(self) -> tokenizer.Tokenizer:
        if self.tokenizer is None:
            raise NotMadeError("the tokenizer cannot be read")
        return self.tokenizer

    def find_chat_template(self) -> str:
        """See that a chat can be put into the words the model was trained on."""
        found = self._read_tokenizer()
        self.facts["has_chat_template"] = bool(found.template) or self.mistral_only
        if self.mistral_only and not found.template:
            return "tekken.json: Mistral's own library writes the chats"
        if not found.template:
            cause = "This is a base model, which continues a text and was not made for chat."
            if not self.need_chat_template:
                raise NotMadeError(f"none is needed. {cause}")
            advice = (
                "Choose the instruct or chat release of the model, or put the template of its "
                f"family into {self.directory / 'chat_template.jinja'}."
            )
            failure = self._failure("chat-template-missing", cause=cause, advice=advice)
            raise NotPassedError(failure, "there is none")
        return found.template_file

    def check_template_tokens(self) -> str:
        """See that the vocabulary has the tokens that the chat template writes."""
        found = self._read_tokenizer()
        if not found.template:
            raise NotMadeError("there is no chat template")
        turns, others = found.lacking()
        if turns:
            seen = f"{found.template_file} writes {some(turns)}, and the vocabulary has none"
            failure = self._failure(
                "chat-template-token-missing",
                advice="Copy tokenizer.json, tokenizer_config.json and chat_template.jinja of the"
                f" original model into {self.directory}; or serve another template with"
                " chat-template in vllm_arguments.",
            )
            if not self.need_chat_template:
                raise NotSureError(seen, failure.cause, failure.remedy)
            raise NotPassedError(failure, seen)
        if others:
            raise NotSureError(
                f"{found.template_file} writes {some(others)}, and the vocabulary has none",
                "They reach the model as plain letters. Chats without tools or pictures may well"
                " do without them.",
                "Ask the model something, and see that its answer makes sense.",
            )
        return "all of them"

    def check_parsers(self) -> str:
        """See that vLLM starts with the parsers that are wanted, and choose those that are not."""
        try:
            found = parsers.choose_both(
                self.engine.image,
                self._read_tokenizer(),
                str(self.config.get("model_type") or ""),
                asked=self.engine.asked,
            )
        except parsers.ParserError as error:
            raise NotPassedError(error.explanation, error.seen) from error
        self.facts.update(tool_call_parser=found.tool.name, reasoning_parser=found.reasoning.name)
        return found.report

    def find_stop_tokens(self) -> str:
        """Find what ends an answer. If the end of a turn does not, answers never end."""
        found = self._read_tokenizer()
        ids = found.added
        stops = self._declared_stops(ids)
        ends = {
            token: ids[token] for token in TURN_ENDS if token in found.template and token in ids
        }
        # A template may end a turn in one way and a tool call in another: one of them is enough.
        missing = {} if set(ends.values()) & set(stops) else ends
        self.facts.update(
            stop_token_ids=sorted({*stops, *missing.values()}),
            missing_stop_token_ids=sorted(missing.values()),
        )
        if missing:
            line = json.dumps({"eos_token_id": self.facts["stop_token_ids"]})
            raise NotSureError(
                f"turns end with {some(missing)}, answers stop at {stops or 'nothing'}",
                "generation_config.json lacks that token, so answers would run on without end.",
                f"Put {line} into generation_config.json, or into a copy of it in a directory that "
                "vLLM's option --generation-config names (--override-generation-config does not "
                "reach the stop tokens).",
            )
        if not stops:
            raise NotSureError(
                "no file names one",
                "generation_config.json, config.json and tokenizer_config.json have none.",
                "Ask the model something and see that its answer ends.",
            )
        return ", ".join(map(str, stops))

    def _declared_stops(self, ids: Mapping[str, int]) -> list[int]:
        """Return the stop tokens as vLLM collects them."""
        value = self._optional("generation_config.json").get("eos_token_id")
        if value is None:
            value = text_config(self.config).get("eos_token_id")
        numbers = value if isinstance(value, list) else [value]
        end = ids.get(self._read_tokenizer().named.get("eos_token", ""))
        return sorted({number for number in (*numbers, end) if isinstance(number, int)})

    def _optional(self, name: str) -> JsonObject:
        path = self.directory / name
        return read_object(path) if path.is_file() else {}

    def take_fingerprint(self) -> str:
        """Tell one state of the directory from another, without reading gigabytes.

        Names, sizes and small files count in full, weights by their time of change as well.
        """
        digest = hashlib.sha256()
        for name in sorted(self.sizes):
            digest.update(f"{name}\0{self.sizes[name]}\0".encode())
            if name in SMALL_FILES:
                digest.update((self.directory / name).read_bytes())
            elif name in self.weights:
                digest.update(f"{(self.directory / name).stat().st_mtime_ns}\0".encode())
        return digest.hexdigest()


def _may(path: Path, uid: int, gid: int, bits: int) -> bool:
    """Tell from the permission bits whether a user may read (4), or read and enter (5)."""
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return uid == 0 or (status.st_mode >> shift) & bits == bits


def _check_ends(path: Path) -> None:
    """See by its two ends that a tokenizer is whole: it can have many MiB."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
        file.seek(max(0, path.stat().st_size - 16))
        end = file.read().rstrip()
    if not start:
        raise DamagedFileError(path, "it is empty")
    if start == LFS_POINTER:
        raise DamagedFileError(path, "it is a Git LFS pointer, not the file itself")
    if path.suffix == ".json" and not end.endswith(b"}"):
        raise DamagedFileError(path, "it does not end as JSON does")


# Name, what is expected, how to look, and whether nothing further makes sense without it.
_STEPS: tuple[tuple[str, str, Callable[[_Model], str], bool], ...] = (
    ("directory", "a directory on the host", _Model.list_files, True),
    ("config", "a config.json that names the architecture", _Model.read_config, True),
    ("weights", "all files of the weights", _Model.find_weights, False),
    ("weights_whole", "weights as long as their headers say", _Model.measure_weights, False),
    ("readable", "files that the container can read", _Model.find_closed_files, False),
    ("quantization", "a weight format that vLLM loads", _Model.check_quantization, False),
    ("tokenizer", "tokenizer.json, or another tokenizer", _Model.find_tokenizer, False),
    ("chat_template", "a chat template", _Model.find_chat_template, False),
    (
        "template_tokens",
        "a vocabulary with the tokens that the chat template writes",
        _Model.check_template_tokens,
        False,
    ),
    ("parsers", "parsers that vLLM can use with the tokenizer", _Model.check_parsers, False),
    ("stop_tokens", "the token that ends a turn to stop answers", _Model.find_stop_tokens, False),
)
_NEED_WEIGHTS = ("weights_whole", "readable")
