# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice among the models of the catalogue for a card."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.sparerig.llm.plugins.module_utils._memory.sizing import (
    Card,
    Plan,
    PlanError,
    Use,
    check_card,
    plan,
)
from ansible_collections.sparerig.llm.plugins.module_utils._model.catalogue import (
    MODELS,
    CatalogueError,
    Model,
)


@dataclass(frozen=True)
class Selection:
    """The chosen model, and why not a better one."""

    model: Model
    plan: Plan
    reason: str


def plans(card: Card, use: Use | None = None) -> t.Iterator[tuple[Model, Plan | str]]:
    """Plan every model of the catalogue, best first; a text says why one cannot be planned."""
    check_card(card)
    for model in sorted(MODELS, key=lambda model: -model.rank):
        if card.capability < model.least_capability:
            least = ".".join(map(str, model.least_capability))
            yield model, f"needs compute capability {least}"
            continue
        try:
            yield model, plan(model.architecture, card, use, model=model.id)
        except PlanError as error:
            yield model, str(error)


def choose(card: Card, use: Use | None = None, *, gated: bool = False) -> Selection:
    """Choose the best model that fits the card and the use.

    Gated ones only if a token is there to download them with.
    """
    passed_over: list[str] = []
    for model, made in plans(card, use):
        if isinstance(made, Plan) and made.fits and (gated or not model.gated):
            best = f"{model.id} is the best that fits {card.name}"
            why = f"; better ones do not: {'; '.join(passed_over)}" if passed_over else ""
            return Selection(model, made, f"{best}{why}.")
        passed_over.append(f"{model.id} {_why_not(model, made)}")
    raise CatalogueError(
        f"No model of the catalogue fits {card.name}: {'; '.join(passed_over)}."
        " Ask for a shorter context or fewer chats, or use another card."
    )


def _why_not(model: Model, made: Plan | str) -> str:
    if isinstance(made, str):
        return made
    if not made.fits:
        return f"lacks {made.missing / (1 << 30):.1f} GiB"
    return f"is gated ({model.license}: accept it and give a token)"
