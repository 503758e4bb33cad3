# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vLLM tells of itself at /metrics, as far as this collection uses it."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {r"\n": "\n", r"\"": '"', r"\\": "\\"}


@dataclass(frozen=True)
class Sample:
    """One line of an exposition."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class EngineMetrics:
    """The engine's state. None: this server does not tell."""

    kv_cache_tokens: int | None
    kv_cache_usage_percent: float | None
    requests_running: int | None
    requests_waiting: int | None


def samples(text: str) -> Iterator[Sample]:
    """Parse Prometheus text; skip comments and what is no sample."""
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.fullmatch(line)
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        labels = {key: _unescaped(raw) for key, raw in _LABEL.findall(match[2] or "")}
        yield Sample(match[1], labels, value)


def _unescaped(raw: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPED.get(match[0], match[0]), raw)


def engine_metrics(text: str) -> EngineMetrics:
    """Add up what all engines (data-parallel ranks) of one server tell."""
    found: dict[str, list[Sample]] = {}
    for sample in samples(text):
        found.setdefault(sample.name, []).append(sample)
    usage = [sample.value for sample in found.get("vllm:kv_cache_usage_perc", [])]
    return EngineMetrics(
        kv_cache_tokens=_kv_cache_tokens(found.get("vllm:cache_config_info", [])),
        kv_cache_usage_percent=round(100 * max(usage), 1) if usage else None,  # 1 means full
        requests_running=_total(found.get("vllm:num_requests_running")),
        requests_waiting=_total(found.get("vllm:num_requests_waiting")),
    )


def cache_config(text: str) -> dict[str, str]:
    """Return the labels of vllm:cache_config_info, which hold the engine's settings."""
    found = (sample for sample in samples(text) if sample.name == "vllm:cache_config_info")
    return next((dict(sample.labels) for sample in found), {})


def _kv_cache_tokens(configs: list[Sample]) -> int | None:
    """Add up the room for tokens: told outright by newer versions, blocks times size by older."""
    rooms = []
    for config in configs:
        tokens, blocks, size = (
            config.labels.get(key, "")
            for key in ("kv_cache_size_tokens", "num_gpu_blocks", "block_size")
        )
        if tokens.isdigit():
            rooms.append(int(tokens))
        elif blocks.isdigit() and size.isdigit():
            rooms.append(int(blocks) * int(size))
    return sum(rooms) if rooms else None


def _total(found: list[Sample] | None) -> int | None:
    return int(sum(sample.value for sample in found)) if found else None
