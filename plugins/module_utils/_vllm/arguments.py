# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of a command, given by name, as the words of its command line."""

from __future__ import annotations

import json
import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping


def command_line(options: Mapping[str, t.Any]) -> list[str]:
    """Write each option as ``--name`` and its value, in the order of the mapping.

    True is the option alone; None, False and an empty string leave it out. A list follows its
    option word by word; a mapping is written as JSON, as vLLM takes it.
    """
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False or value == "":
            continue
        words.append(f"--{name}")
        if isinstance(value, dict):
            words.append(json.dumps(value))
        elif isinstance(value, (list, tuple)):
            words += map(str, value)
        elif value is not True:
            words.append(str(value))
    return words
