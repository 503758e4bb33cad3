# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a running Open WebUI: what has to change to make them as wanted, read back after.

PRIVATE to this collection: names and behaviour may change in any release.
"""

from __future__ import annotations

import difflib
import re
import typing as t

from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.changes import Step
from ansible_collections.sparerig.llm.plugins.module_utils._open_webui.client import (
    OpenWebUI,
    OpenWebUIError,
)

if t.TYPE_CHECKING:
    from collections.abc import Mapping

Settings = dict[str, t.Any]

KEYS = {
    "signup": "ui.enable_signup",
    "default_role": "ui.default_user_role",
    "session_length": "auth.jwt_expiry",
    "language": "ui.default_locale",
    "pending_title": "ui.pending_user_overlay_title",
    "pending_message": "ui.pending_user_overlay_content",
    "banners": "ui.banners",
    "default_models": "ui.default_models",
}
"""Options of the module, and the names that Open WebUI keeps them under."""

_DURATION = re.compile(r"-1|\d+(\.\d+)?(ms|s|m|h|d|w)")
_SECRET = re.compile(r"(key|keys|secret|password|token)s?$", re.IGNORECASE)
HIDDEN = "(hidden)"


def wanted_settings(options: Mapping[str, t.Any]) -> Settings:
    """Turn the options that are given into Open WebUI's own names and forms."""
    wanted: Settings = {KEYS[name]: options[name] for name in KEYS if options[name] is not None}
    length = options["session_length"]
    if length is not None and not _DURATION.fullmatch(length):
        message = (
            f"session_length {length!r} is not a duration: "
            "write 12h, 30d or 4w, or -1 for a session that never ends."
        )
        raise OpenWebUIError(message)
    if options["default_models"] is not None:
        wanted[KEYS["default_models"]] = ",".join(options["default_models"])
    if options["banners"] is not None:
        banners = enumerate(options["banners"], start=1)
        wanted[KEYS["banners"]] = [
            {**banner, "id": f"banner-{number}", "timestamp": 0} for number, banner in banners
        ]
    twice = sorted(set(wanted) & set(options["settings"]))
    if twice:
        raise OpenWebUIError(
            f"Given as an option and in settings as well: {', '.join(twice)}. Keep one."
        )
    return {**wanted, **options["settings"]}


def plan_settings(client: OpenWebUI, wanted: Settings) -> list[Step]:
    """Compare the wanted settings with those in effect."""
    current: Settings = client.get("/api/v1/configs/export")
    for name, value in wanted.items():
        _check(name, value, current)
    changes = {name: value for name, value in wanted.items() if not _same(current[name], value)}
    if not changes:
        return []

    def make() -> None:
        client.post("/api/v1/configs/import", {"config": changes})
        effective = client.get("/api/v1/configs/export")
        wrong = [name for name, value in changes.items() if not _same(effective.get(name), value)]
        if wrong:
            shown = shown_settings({name: effective.get(name) for name in wrong})
            raise OpenWebUIError(f"Open WebUI took the settings but does not use them: {shown}.")

    before = {name: current[name] for name in changes}
    return [Step("settings", shown_settings(before), shown_settings(changes), make)]


def shown_settings(settings: Mapping[str, t.Any]) -> Settings:
    """Hide what could be a secret."""
    return {
        name: HIDDEN if _SECRET.search(name) and value else value
        for name, value in settings.items()
    }


def _check(name: str, value: object, current: Settings) -> None:
    if name not in current:
        close = difflib.get_close_matches(name, current, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise OpenWebUIError(f"Open WebUI has no setting {name!r}.{hint} Nothing was changed.")
    known = current[name]
    if isinstance(known, bool) != isinstance(value, bool) and known is not None:
        kind = "true or false" if isinstance(known, bool) else f"a {type(known).__name__}"
        raise OpenWebUIError(
            f"The setting {name} takes {kind}, not {value!r}. Nothing was changed."
        )


def _same(current: object, wanted: object) -> bool:
    """Compare; of a list of records only the fields that are wanted count."""
    if isinstance(wanted, list) and isinstance(current, list):
        return len(wanted) == len(current) and all(map(_same, current, wanted))
    if isinstance(wanted, dict) and isinstance(current, dict):
        return all(_same(current.get(name), value) for name, value in wanted.items())
    return current == wanted
