# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""_prometheus: vLLM's metrics, of several versions and of several engines."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.sparerig.llm.plugins.module_utils._vllm.metrics import (
    EngineMetrics,
    Sample,
    engine_metrics,
    samples,
)

if t.TYPE_CHECKING:
    from pathlib import Path


def test_recorded(fixtures: Path) -> None:
    text = (fixtures / "vllm_api" / "metrics-0.26.0.txt").read_text()

    assert engine_metrics(text) == EngineMetrics(33376, 0.0, 0, 0)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0', 1600),
        ('vllm:cache_config_info{num_gpu_blocks="100",kv_cache_size_tokens="1555"} 1', 1555),
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0', None),
        ("vllm:cache_config_info 1.0", None),
        ("", None),
    ],
)
def test_kv_cache_tokens(text: str, tokens: int | None) -> None:
    assert engine_metrics(text).kv_cache_tokens == tokens


def test_several_engines() -> None:
    text = (
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.5\n'
        'vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n'
        "vllm:num_requests_waiting 4.0 1795335308000\n"
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="2"} 1.0\n'
        'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="3"} 1.0\n'
    )

    assert engine_metrics(text) == EngineMetrics(80, 50.0, 3, 4)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("up 1", [Sample("up", {}, 1.0)]),
        (r'a{b="x\"y\\z\n",c="}"} 2', [Sample("a", {"b": 'x"y\\z\n', "c": "}"}, 2.0)]),
        ("a +Inf", [Sample("a", {}, float("inf"))]),
        ("# TYPE a gauge", []),
        ("a one", []),
        ("<html>", []),
        ("", []),
    ],
)
def test_samples(line: str, expected: list[Sample]) -> None:
    assert list(samples(line)) == expected
