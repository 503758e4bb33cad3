# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a model's files say that it is quantised: where, in which spelling, in which formats."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Mapping

# Formats that vLLM loads, by the name that a config.json gives them.
SERVED_FORMATS = (
    *("auto-round", "auto_gptq", "awq", "awq_marlin", "bitsandbytes", "compressed-tensors"),
    *("experts_int8", "fbgemm_fp8", "fp8", "gptq", "gptq_marlin", "inc", "modelopt"),
    *("modelopt_fp4", "moe_wna16", "mxfp4", "quark", "rtn", "torchao"),
)
# The files of older tools that say so beside config.json, and the format that each is of.
SEPARATE_FILES: t.Final = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
# vLLM: auto_gptq.py, TYPE_MAP. It loads no others, and only symmetric ones.
GPTQ_BITS: t.Final = frozenset({4, 8})


def quantization_settings(config: Mapping[str, t.Any]) -> object:
    """Return what config.json says of its quantisation, in the order in which vLLM looks.

    An object, as a rule; whatever stands there otherwise. None where nothing is said.
    """
    text = config.get("text_config")
    places = [config, text] if isinstance(text, dict) else [config]
    keys = ("quantization_config", "compression_config")
    return next((place[key] for key in keys for place in places if place.get(key)), None)


def describe_quantization(settings: Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Bring the many spellings of a quantisation to one."""
    method = str(settings.get("quant_method") or "").lower()
    known = {name.replace("_", "-"): name for name in SERVED_FORMATS}
    bits = settings.get("bits", settings.get("w_bit"))
    group = settings.get("group_size", settings.get("q_group_size"))
    groups = settings.get("config_groups")
    if isinstance(groups, dict) and groups:
        scheme = next(iter(groups.values()))
        weights = scheme.get("weights") if isinstance(scheme, dict) else None
        if isinstance(weights, dict):
            bits, group = weights.get("num_bits"), weights.get("group_size")
    return {
        "method": known.get(method.replace("_", "-"), method),
        "format": settings.get("checkpoint_format") or settings.get("format"),
        "bits": bits,
        "group_size": group,
        "desc_act": settings.get("desc_act"),
        "sym": settings.get("sym"),
    }
