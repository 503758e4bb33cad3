# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loaded into vLLM's worker by measure_plan.py: tells what was used.

The card is made small by PyTorch's own setting per_process_memory_fraction, as the product sets
it: beyond that, an allocation fails as it would on a card of that size.
"""

from __future__ import annotations

import typing as t

import torch
from vllm.v1.worker import gpu_worker

_load_model = gpu_worker.Worker.load_model
_make_kv_cache = gpu_worker.Worker.initialize_from_config
_at_start: dict[str, int] = {}


def _load_model_after_a_look(self: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
    free, total = torch.cuda.mem_get_info()
    _at_start.update(used=total - free, total=total)
    loaded = _load_model(self, *args, **kwargs)
    _at_start.update(allocated_by_load=torch.cuda.memory_allocated())
    return loaded


def _make_kv_cache_after_a_look(self: t.Any, *args: t.Any, **kwargs: t.Any) -> t.Any:
    _at_start.update(peak_before_kv_cache=torch.cuda.max_memory_allocated())
    return _make_kv_cache(self, *args, **kwargs)


gpu_worker.Worker.load_model = _load_model_after_a_look
gpu_worker.Worker.initialize_from_config = _make_kv_cache_after_a_look


class Measured:
    """Mixed into the worker by --worker-extension-cls."""

    def sparerig_memory(self) -> dict[str, t.Any]:
        """Tell this process's memory in bytes."""
        free, total = torch.cuda.mem_get_info()
        model = self.model_runner.model  # type: ignore[attr-defined]
        held = [*model.named_parameters(), *model.named_buffers()]
        tensors = {name: tensor.nbytes for name, tensor in held}
        return {
            "allocated_by_load": _at_start["allocated_by_load"],
            "peak_before_kv_cache": _at_start["peak_before_kv_cache"],
            "tensors": sum(tensors.values()),
            "first_layer": {name: size for name, size in tensors.items() if ".layers.0." in name},
            "outside_layers": {
                name: size for name, size in tensors.items() if ".layers." not in name
            },
            "card_total": total,
            "card_used": total - free,
            "card_used_at_start": _at_start["used"],
            "torch_cap": int(torch.cuda.get_per_process_memory_fraction() * total),
            "torch_reserved": torch.cuda.memory_reserved(),
            "torch_reserved_peak": torch.cuda.max_memory_reserved(),
            "torch_allocated_peak": torch.cuda.max_memory_allocated(),
        }
