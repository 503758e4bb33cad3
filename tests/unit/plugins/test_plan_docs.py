# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables in docs/ are what the code says."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._gpu import cards
from ansible_collections.sparerig.llm.plugins.module_utils._memory import selection
from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    GIB,
    Card,
    Plan,
    plan,
    weight_bytes,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model import catalogue
from ansible_collections.sparerig.llm.plugins.module_utils._model.config import parse
from ansible_collections.sparerig.llm.plugins.module_utils._vllm import log as vllm_log

DOCS = Path(__file__).parents[3] / "docs"
LLAMA = catalogue.find("llama-3-8b").config
GPTQ = {"quant_method": "gptq", "group_size": 128, "desc_act": False, "sym": True}


def cell(made: Plan) -> str:
    return f"{made.full_chats:.1f} chats" if made.fits else f"{made.missing / GIB:.1f} GiB too much"


@pytest.mark.parametrize(
    ("name", "quantization"),
    [("FP16", None), ("GPTQ INT8", {**GPTQ, "bits": 8}), ("GPTQ INT4", {**GPTQ, "bits": 4})],
)
def test_the_articles_table(name: str, quantization: dict[str, t.Any] | None) -> None:
    model = parse({**LLAMA, "quantization_config": quantization})
    cells = [cell(plan(model, Card("x", gib * 1024, (8, 6)))) for gib in (8, 12, 16, 24)]
    row = f"| {name} | {weight_bytes(model) / GIB:.2f} GiB | {' | '.join(cells)} |"
    assert row in (DOCS / "what-fits.md").read_text()


@pytest.mark.parametrize(
    "name", ["RTX 4060", "RTX 2080 Ti", "RTX 3060 12GB", "RTX 4060 Ti 16GB", "RTX 3090"]
)
def test_the_best_model_for_each_card(name: str) -> None:
    known = cards.find(name)
    card = Card(
        known.title, known.memory_gib * 1024, known.capability, bandwidth_gb_s=known.bandwidth_gb_s
    )
    chosen = selection.choose(card)
    made = chosen.plan
    row = (
        f"| {known.title} | `{chosen.model.id}` | {chosen.model.format}"
        f" | {made.weights / GIB:.1f} GiB | {made.longest_context} | {made.full_chats:.1f}"
        f" | {made.decode_ceiling:.0f} |"
    )
    assert row in (DOCS / "what-fits.md").read_text()


def test_every_failure_has_its_line() -> None:
    page = (DOCS / "when-vllm-does-not-start.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    for identifier in vllm_log.IDENTIFIERS:
        assert any(identifier in row for row in rows)
