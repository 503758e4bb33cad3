# Copyright: the sparerig maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""4-bit GPTQ numbers: symmetric, groups of 128 along the input, no activation order.

A linear layer of shape (outputs, inputs) is stored transposed: eight 4-bit values of consecutive
inputs share one 32-bit word, the first in the lowest bits.
"""

from __future__ import annotations

import typing as t

import numpy as np

if t.TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = 4
GROUP = 128
PER_WORD = 32 // BITS
ZERO = 1 << (BITS - 1)  # symmetric: the middle of 0..15 stands for nought
# The format stores the zero point less one.
STORED_ZEROS = sum((ZERO - 1) << (BITS * place) for place in range(PER_WORD))


def pack(values: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Pack 4-bit values of shape (inputs, outputs) into words of shape (inputs / 8, outputs)."""
    words = np.zeros((values.shape[0] // PER_WORD, values.shape[1]), dtype=np.uint32)
    for place in range(PER_WORD):
        words |= values[place::PER_WORD].astype(np.uint32) << np.uint32(BITS * place)
    return words.view(np.int32)


def unpack(words: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Undo ``pack``."""
    shifts = (np.arange(PER_WORD, dtype=np.uint32) * BITS)[None, :, None]
    values = (words.view(np.uint32)[:, None, :] >> shifts) & np.uint32(2**BITS - 1)
    return np.ascontiguousarray(values.reshape(-1, words.shape[1]))


def quantise(weight: NDArray[np.float32]) -> dict[str, NDArray[t.Any]]:
    """Turn a layer of shape (outputs, inputs) into the four tensors of the format."""
    outputs, inputs = weight.shape
    grouped = weight.T.reshape(inputs // GROUP, GROUP, outputs)
    scales = (np.abs(grouped).max(axis=1) / (ZERO - 1)).astype(np.float16)
    steps = np.rint(grouped / scales[:, None, :].astype(np.float32)) + ZERO
    values = np.clip(steps, 0, 2**BITS - 1).astype(np.uint32).reshape(inputs, outputs)
    return {
        "qweight": pack(values),
        "qzeros": np.full((inputs // GROUP, outputs // PER_WORD), STORED_ZEROS, dtype=np.int32),
        "scales": scales,
        "g_idx": np.arange(inputs, dtype=np.int32) // GROUP,
    }


def dequantise(tensors: dict[str, NDArray[t.Any]]) -> NDArray[np.float16]:
    """Give the layer of shape (outputs, inputs) that the four tensors stand for."""
    steps = unpack(tensors["qweight"]).astype(np.float32) - ZERO
    scales = tensors["scales"].astype(np.float32)[tensors["g_idx"]]
    return np.ascontiguousarray((steps * scales).T.astype(np.float16))
