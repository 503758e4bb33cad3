# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers of GPTQ INT4."""

from __future__ import annotations

import numpy as np
import pytest
from testbed import gptq


def layer(outputs: int = 16, inputs: int = 256) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((outputs, inputs), dtype=np.float32)


def test_pack_puts_the_first_value_in_the_lowest_bits() -> None:
    values = np.arange(8, dtype=np.uint32).reshape(8, 1)
    assert gptq.pack(values).view(np.uint32).tolist() == [[0x76543210]]


def test_unpack_undoes_pack() -> None:
    values = np.random.default_rng(2).integers(0, 16, (256, 24), dtype=np.uint32)
    assert np.array_equal(gptq.unpack(gptq.pack(values)), values)


def test_shapes_and_types_are_those_of_the_format() -> None:
    tensors = gptq.quantise(layer())
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        "qweight": ((32, 16), "int32"),
        "qzeros": ((2, 2), "int32"),
        "scales": ((2, 16), "float16"),
        "g_idx": ((256,), "int32"),
    }
    assert set(tensors["qzeros"].view(np.uint32).flat) == {0x77777777}
    assert tensors["g_idx"].tolist() == [0] * 128 + [1] * 128


def test_dequantised_is_within_half_a_step() -> None:
    weight = layer()
    tensors = gptq.quantise(weight)
    step = tensors["scales"].astype(np.float32)[tensors["g_idx"]].T
    error = np.abs(gptq.dequantise(tensors).astype(np.float32) - weight)
    assert (error <= step * 0.51).all()


def test_quantising_twice_changes_nothing() -> None:
    once = gptq.dequantise(gptq.quantise(layer()))
    twice = gptq.dequantise(gptq.quantise(once.astype(np.float32)))
    assert np.allclose(once, twice, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_weight_is_kept(sign: int) -> None:
    weight = np.zeros((8, 128), dtype=np.float32)
    weight[:, 5] = sign * 0.7
    kept = gptq.dequantise(gptq.quantise(weight))
    assert np.allclose(kept, weight, atol=1e-3)
