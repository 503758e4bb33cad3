# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that shape the roles' options into what programs take."""

from __future__ import annotations

import base64
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.sparerig.llm.plugins.module_utils._host.files import parse_env
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.arguments import command_line


def command_options(options: dict[str, t.Any]) -> list[str]:
    """Turn a dict into command-line options, leaving out what is not set."""
    if not isinstance(options, dict):
        raise AnsibleFilterError(f"command_options takes a dict of options, got {options!r}")
    # In one order, whoever wrote them: a plan that was read back from a file restarts nothing.
    return command_line(dict(sorted(options.items())))


def private_network(name: str) -> dict[str, t.Any]:
    """Describe a network that leads nowhere, not even to its host, as container_service takes it.

    Docker refuses a second definition of a network: the engine, which makes it, and the page,
    which joins it, must describe it alike.
    """
    return {
        "name": name,
        "internal": True,
        "driver_opts": {"com.docker.network.bridge.inhibit_ipv4": "true"},
    }


def upstream_keys(upstreams: list[dict[str, t.Any]], slurped: list[dict[str, t.Any]]) -> str:
    """Return the key of each upstream, in their order, as Open WebUI takes them."""
    read = {result["item"]["url"]: result.get("content", "") for result in slurped}
    keys = []
    for upstream in upstreams:
        variables = parse_env(base64.b64decode(read.get(upstream["url"], "")).decode())
        # Open WebUI wants something in every place, also for an upstream that asks for no key.
        keys.append(upstream.get("api_key") or variables.get("VLLM_API_KEY") or "none")
    return ";".join(keys)


class FilterModule:
    """Names the filters for Ansible."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return them by name."""
        return {
            "command_options": command_options,
            "private_network": private_network,
            "upstream_keys": upstream_keys,
        }
