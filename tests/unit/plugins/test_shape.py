# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters."""

from __future__ import annotations

import base64
import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.sparerig.llm.plugins.filter import shape
from ansible_collections.sparerig.llm.plugins.module_utils._service.spec import Network


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, []),
        ({"seed": 0, "share": 0.9}, ["--seed", "0", "--share", "0.9"]),
        ({"eager": True, "tools": False, "parser": "", "dtype": None}, ["--eager"]),
        ({"b": "x y", "a": 1}, ["--a", "1", "--b", "x y"]),
        ({"a": 1, "b": "x y"}, ["--a", "1", "--b", "x y"]),
        ({"modules": ["a=1", "b=2"], "empty": []}, ["--empty", "--modules", "a=1", "b=2"]),
        ({"overrides": {"factor": 2.0}}, ["--overrides", '{"factor": 2.0}']),
    ],
)
def test_command_options(options: dict[str, t.Any], arguments: list[str]) -> None:
    assert shape.command_options(options) == arguments


@pytest.mark.parametrize("value", [["a"], "a", None])
def test_command_options_of_something_else(value: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="takes a dict of options, got "):
        shape.command_options(value)


def slurped(url: str, text: str) -> dict[str, t.Any]:
    return {"item": {"url": url}, "content": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("upstreams", "read", "keys"),
    [
        ([], [], ""),
        (
            [{"url": "http://a/v1", "host": "a"}, {"url": "http://b/v1", "api_key": "given"}],
            [slurped("http://a/v1", "# made\nOTHER=1\nVLLM_API_KEY=a=1\n")],
            "a=1;given",
        ),
        ([{"url": "http://a/v1", "host": "a"}], [slurped("http://a/v1", "OTHER=1\n")], "none"),
        # In check mode the file may not be there yet.
        ([{"url": "http://a/v1", "host": "a"}], [{"item": {"url": "http://a/v1"}}], "none"),
    ],
)
def test_upstream_keys(
    upstreams: list[dict[str, t.Any]], read: list[dict[str, t.Any]], keys: str
) -> None:
    assert shape.upstream_keys(upstreams, read) == keys


def test_a_private_network_is_one_to_container_service() -> None:
    network = Network(**shape.private_network("engine"))
    assert "--internal" in network.create_command()
    assert "com.docker.network.bridge.inhibit_ipv4=true" in network.create_command()
    assert network.create_command()[-1] == "engine"


def test_names() -> None:
    names = {"command_options", "private_network", "upstream_keys"}
    assert set(shape.FilterModule().filters()) == names
