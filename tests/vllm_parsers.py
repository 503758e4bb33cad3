# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what each parser of a vLLM version asks of a tokenizer, by vLLM's own check at its start.

For developers: it runs in a Python that has what vLLM imports (torch, transformers), as the image
of the test bed does, with the package of the version in question. No GPU and no model is needed::

    docker run --rm -v $PWD/tests:/tests:ro -v DIR:/package:ro -e PYTHONPATH=/package \
        --entrypoint python3 IMAGE /tests/vllm_parsers.py > tests/fixtures/vllm_parsers/VERSION.json

DIR holds the folder ``vllm`` of an unpacked wheel; without it, the installed vLLM is recorded.
The table in plugins/module_utils/_vllm/parsers.py is held to these records by a unit test.

How: vLLM composes its parser and calls it with the tokenizer; what that raises ends the start. Here
it is called with a tokenizer that has nothing but letters, and told of each token that the
parser asked it for, until it is content; then each token is taken away again to see whether it
was needed.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import traceback
import typing as t
from contextlib import redirect_stdout
from pathlib import Path

import vllm
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.parser import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODEL = "example/model"
MOST_ROUNDS = 20


class Vocabulary(dict[str, int]):
    """A vocabulary that remembers what it was asked for."""

    def __init__(self, tokens: Iterable[str], asked: set[str]) -> None:
        super().__init__({token: number for number, token in enumerate(tokens)})
        self._asked = asked

    def get(self, token: str, default: t.Any = None) -> t.Any:
        """Look a token up, and remember that it was asked for."""
        self._asked.add(token)
        return super().get(token, default)

    def __getitem__(self, token: str) -> int:
        """Look a token up, and remember that it was asked for."""
        self._asked.add(token)
        return super().__getitem__(token)

    def __contains__(self, token: object) -> bool:
        """Look whether a token is there, and remember that it was asked for."""
        if isinstance(token, str):
            self._asked.add(token)
        return super().__contains__(token)


def tokenizer_with(tokens: Iterable[str], asked: set[str]) -> t.Any:
    """Make a genuine tokenizer of the Hugging Face kind that knows letters and these tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in tokens])

    class Recording(PreTrainedTokenizerFast):  # type: ignore[misc]
        def get_vocab(self) -> dict[str, int]:
            return Vocabulary(super().get_vocab(), asked)

        def convert_tokens_to_ids(self, tokens: t.Any) -> t.Any:
            asked.update([tokens] if isinstance(tokens, str) else tokens)
            return super().convert_tokens_to_ids(tokens)

    return Recording(tokenizer_object=inner)


class Refusal(t.NamedTuple):
    """How vLLM refused."""

    text: str
    where: str


def try_start(kind: str, name: str, tokens: Iterable[str], asked: set[str]) -> Refusal | None:
    """Ask vLLM's own check at the start whether a parser goes with a tokenizer."""
    tokenizer = tokenizer_with(tokens, asked)
    wanted = (
        {"tool_parser_name": name, "enable_auto_tools": True}
        if kind == "tool"
        else {"reasoning_parser_name": name}
    )
    try:
        ParserManager.get_parser(model_name=MODEL, tokenizer=tokenizer, **wanted)
    except Exception as error:  # noqa: BLE001  whatever it is, it ends the start
        cause = error.__cause__ or error
        return Refusal(str(cause), _raised_at(cause))
    return None


def _raised_at(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/vllm/" in frame.filename and not frame.filename.startswith("/tests/")
    ]
    return f"{_in_package(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _in_package(path: str) -> str:
    return "vllm/" + path.rpartition("/vllm/")[2]


def required_tokens(
    start: Callable[[tuple[str, ...], set[str]], Refusal | None],
) -> tuple[list[list[str]], Refusal | None]:
    """Find the smallest sets of tokens with which the start goes well, and how it is refused.

    An empty list of sets says that no token helps.
    """
    asked: set[str] = set()
    first = start((), asked)
    if first is None:
        return [[]], None
    known: set[str] = set()
    for _round in range(MOST_ROUNDS):
        known |= asked | set(re.findall(r"'([^']+)'", first.text))
        if start(tuple(sorted(known)), asked) is None:
            break
        if asked <= known:
            return [], first
    enough = _smallest(start, known)
    sets = [enough]
    # Perhaps something else than one of these would do as well.
    for token in enough:
        others = known - {token}
        if start(tuple(sorted(others)), set()) is None:
            other = _smallest(start, others)
            sets += [other] if other not in sets else []
    return sets, first


def _smallest(
    start: Callable[[tuple[str, ...], set[str]], Refusal | None], tokens: set[str]
) -> list[str]:
    needed = set(tokens)
    for token in sorted(tokens):
        if start(tuple(sorted(needed - {token})), set()) is None:
            needed.discard(token)
    return sorted(needed)


def record(kind: str, manager: t.Any, name: str) -> dict[str, t.Any]:
    """Describe one parser."""
    get = manager.get_tool_parser if kind == "tool" else manager.get_reasoning_parser
    cls = get(name)
    sets, refusal = required_tokens(lambda tokens, asked: try_start(kind, name, tokens, asked))
    found: dict[str, t.Any] = {
        "class": cls.__name__,
        "source": _in_package(sys.modules[cls.__module__].__file__ or ""),
        "tokens": sets,
    }
    if refusal:
        found |= {"refusal": refusal.text, "refused_at": refusal.where}
    return found


def main() -> None:
    """Write the record of one version as JSON."""
    logging.disable(logging.CRITICAL)
    with redirect_stdout(io.StringIO()):
        found = {
            kind + "_parsers": {
                name: record(kind, manager, name) for name in sorted(manager.list_registered())
            }
            for kind, manager in (
                ("tool", ToolParserManager),
                ("reasoning", ReasoningParserManager),
            )
        }
    version = re.search(r"__version__ = version = '(\d+\.\d+\.\d+)", _version_file(vllm.__file__))
    known = {"version": version[1] if version else vllm.__version__, **found}
    json.dump(known, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def _version_file(package: str | None) -> str:
    return (Path(package or "").parent / "_version.py").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
