# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a model's tokenizer as vLLM finds it: its tokens and its chat template.

The same facts stand in several files, of which a release has some: tokenizer.json has the whole
vocabulary, tokenizer_config.json (up to transformers 4) the added tokens and the template,
special_tokens_map.json names; a template of its own file wins. Mistral's tekken.json has all.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.sparerig.llm.plugins.module_utils._model.files import (
    DamagedFileError,
    JsonObject,
    read_object,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# What is read here. Each is some KiB, but for the two with the vocabulary: 1 to 40 MiB.
FILES: t.Final = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
NAMED_TOKENS: t.Final = ("bos_token", "eos_token", "pad_token", "unk_token")
# The template that transformers takes for a request with tools, where there are several.
WITH_TOOLS: t.Final = "tool_use"
PLAIN: t.Final = "default"

# What a template writes to begin or end a turn. Without such a token a model is not spoken to as it
# was trained. (Any other token may be for tools or pictures, which nobody may ever use.)
TURN_TOKENS: t.Final = frozenset(
    (
        *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>"),
        *("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|user|>", "<|assistant|>"),
        *("<|start_of_role|>", "<|end_of_role|>", "<｜User｜>", "<｜Assistant｜>"),  # noqa: RUF001
        *("[INST]", "[/INST]"),
    )
)
_LIKE_A_TOKEN: t.Final = re.compile(
    r"<\|[^|<>\s]+\|>|<\|?[a-z_]+\|?>|<｜[^｜<>]+｜>|\[/?[A-Z_]+\]"  # noqa: RUF001
)
_COMMENT: t.Final = re.compile(r"\{#.*?#\}", re.DOTALL)


@dataclass(frozen=True)
class Tokenizer:
    """What the files of a tokenizer say."""

    files: tuple[str, ...] = ()
    class_name: str = ""
    # Tokens that were added to the vocabulary, with their numbers; special ones are among them.
    added: Mapping[str, int] = field(default_factory=dict)
    special: frozenset[str] = frozenset()
    # All tokens; None where no file has them all.
    vocabulary: frozenset[str] | None = None
    # bos_token and so on, as their files name them.
    named: Mapping[str, str] = field(default_factory=dict)
    # By name; a template that is alone is named "default".
    templates: Mapping[str, str] = field(default_factory=dict)
    template_file: str = ""
    # How the model writes an answer, for vLLM's parsers hf and beam.
    has_response_template: bool = False

    @property
    def template(self) -> str:
        """The template for plain chats; empty if there is none."""
        return self.templates.get(PLAIN) or next(iter(self.templates.values()), "")

    @property
    def template_with_tools(self) -> str:
        """The template for a request that offers tools; empty if there is none."""
        return self.templates.get(WITH_TOOLS) or self.template

    @property
    def mistral_only(self) -> bool:
        """Whether only Mistral's own library reads it: it then writes the chats as well."""
        return self.files == ("tekken.json",)

    def has(self, token: str) -> bool | None:
        """Whether the vocabulary has a token; None where the files do not tell."""
        if token in self.added or token in self.special or token in self.named.values():
            return True
        return None if self.vocabulary is None else token in self.vocabulary

    def lacking(self) -> tuple[list[str], list[str]]:
        """Find what the template writes and the vocabulary does not have.

        First what begins or ends a turn, without which answers are wrong; then the rest.
        """
        if self.vocabulary is None or not self.template:
            return [], []
        text = _COMMENT.sub("", self.template)
        written = dict.fromkeys(_LIKE_A_TOKEN.findall(text))
        missing = [token for token in written if self.has(token) is False]
        turns = [token for token in missing if token in TURN_TOKENS]
        others = [token for token in missing if token not in TURN_TOKENS and token.startswith("<|")]
        return turns, others


def read(directory: Path) -> Tokenizer:
    """Read the tokenizer of a directory, as much of it as is there.

    Raises DamagedFileError for a file that is there and is not what its name says.
    """
    objects = {
        name: read_object(directory / name)
        for name in FILES
        if name.endswith(".json") and (directory / name).is_file()
    }
    files = tuple(name for name in ("tokenizer.json", "tekken.json") if name in objects)
    config = objects.get("tokenizer_config.json", {})
    added, special = _added(directory, objects)
    named = {
        name: _text(source.get(name))
        for source in (objects.get("special_tokens_map.json", {}), config)
        for name in NAMED_TOKENS
        if _text(source.get(name))
    }
    templates, template_file = _templates(directory, objects)
    class_name = config.get("tokenizer_class")
    return Tokenizer(
        files=files,
        class_name=class_name if isinstance(class_name, str) else "",
        added=added,
        special=frozenset(special),
        vocabulary=_vocabulary(directory, objects, added, special),
        named=named,
        templates=templates,
        template_file=template_file,
        has_response_template=isinstance(config.get("response_template"), dict),
    )


# --- tokens -----------------------------------------------------------------------------------


def _added(directory: Path, objects: Mapping[str, JsonObject]) -> tuple[dict[str, int], set[str]]:
    """Collect the added tokens of all files, and which of them are special."""
    added: dict[str, int] = {}
    special: set[str] = set()
    for text, number, is_special in _entries(directory, objects):
        added[text] = number
        if is_special:
            special.add(text)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        source = objects.get(name, {})
        more = source.get("additional_special_tokens", source.get("extra_special_tokens"))
        entries = more.values() if isinstance(more, dict) else more or ()
        if not isinstance(more, (dict, list, type(None))):
            raise DamagedFileError(
                directory / name, "its additional special tokens are neither a list nor an object"
            )
        special.update(text for text in map(_text, entries) if text)
    return added, special


def _entries(directory: Path, objects: Mapping[str, JsonObject]) -> Iterator[tuple[str, int, bool]]:
    decoder = objects.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise DamagedFileError(
            directory / "tokenizer_config.json", "its added_tokens_decoder is not an object"
        )
    lists = {
        "tokenizer.json": (objects.get("tokenizer.json", {}).get("added_tokens"), "id", "content"),
        "tekken.json": (objects.get("tekken.json", {}).get("special_tokens"), "rank", "token_str"),
    }
    yield from (
        (_text(entry), int(number), isinstance(entry, dict) and bool(entry.get("special")))
        for number, entry in decoder.items()
        if _text(entry) and str(number).isdigit()
    )
    yield from (
        (text, number, False)
        for text, number in objects.get("added_tokens.json", {}).items()
        if isinstance(number, int)
    )
    for name, (entries, number_key, text_key) in lists.items():
        if not isinstance(entries, (list, type(None))):
            raise DamagedFileError(directory / name, "its list of added tokens is not a list")
        for entry in entries or ():
            if not isinstance(entry, dict):
                raise DamagedFileError(directory / name, "an added token is not an object")
            text, number = entry.get(text_key), entry.get(number_key)
            if isinstance(text, str) and isinstance(number, int):
                yield text, number, bool(entry.get("special", entry.get("is_control", False)))


def _vocabulary(
    directory: Path, objects: Mapping[str, JsonObject], added: Mapping[str, int], special: set[str]
) -> frozenset[str] | None:
    """Collect all tokens, where a file has them all."""
    if "tokenizer.json" in objects:
        model = objects["tokenizer.json"].get("model")
        words = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(words, list):  # Unigram: pairs of a token and its weight
            words = [pair[0] for pair in words if isinstance(pair, list) and pair]
        if not isinstance(words, (dict, list)):
            raise DamagedFileError(directory / "tokenizer.json", "it has no vocabulary")
        return frozenset(map(str, words)) | added.keys() | special
    # The first tekken files name no special tokens: Mistral's library knows them.
    if objects.get("tekken.json", {}).get("special_tokens"):
        return frozenset(added)
    return None


def _text(entry: object) -> str:
    """Return a token's text: it is written plainly or with its properties."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""


# --- chat templates ---------------------------------------------------------------------------


def _templates(directory: Path, objects: Mapping[str, JsonObject]) -> tuple[dict[str, str], str]:
    """Return the chat templates by name, and the file that has them."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedFileError(path, f"it cannot be read as text ({error})") from error
        if text.startswith("version https://git-lfs"):
            raise DamagedFileError(path, "it is a Git LFS pointer, not the file itself")
        if text.strip():
            return {PLAIN: text}, path.name
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = objects.get(name, {}).get("chat_template")
        found = _named_templates(directory / name, value)
        if found:
            return found, name
    return {}, ""


def _named_templates(path: Path, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {PLAIN: value} if value.strip() else {}
    if isinstance(value, dict):  # by name, as transformers' processors write several
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [
            (entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)
        ]
    else:
        raise DamagedFileError(path, "its chat_template is neither a text nor a list of texts")
    return {
        name: text
        for name, text in pairs
        if isinstance(name, str) and isinstance(text, str) and text.strip()
    }
