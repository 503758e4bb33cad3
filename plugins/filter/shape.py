# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that shape the roles' options into what programs take."""

from __future__ import annotations

import base64
import typing as t

from ansible.errors import AnsibleFilterError


def command_options(options: dict[str, t.Any]) -> list[str]:
    """Turn a dict into command-line options, leaving out what is not set."""
    if not isinstance(options, dict):
        raise AnsibleFilterError(f"command_options takes a dict of options, got {options!r}")
    arguments: list[str] = []
    for name, value in options.items():
        if value is None or value is False or value == "":
            continue
        arguments.append(f"--{name}")
        if value is not True:
            arguments.append(str(value))
    return arguments


def env_value(content: str, name: str) -> str:
    """Return one variable of an env file that was read with slurp (base64)."""
    for line in base64.b64decode(content).decode().splitlines():
        key, _, value = line.partition("=")
        if key == name:
            return value
    raise AnsibleFilterError(f"the env file has no line {name}=...; was the service deployed?")


class FilterModule:
    """Names the filters for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return them by name."""
        return {"command_options": command_options, "env_value": env_value}
