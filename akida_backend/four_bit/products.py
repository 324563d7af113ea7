# SPDX-License-Identifier: Apache-2.0
"""Linear algebra whose results are the same for every BLAS, number of threads and SIMD width.

Those order sums differently, and roundings decide between weights. So factors of matrix products
are rounded until all sums are exact, and the rest is elementwise or numpy's own sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.four_bit.layers import Reals

EXACT_BITS: Final = 53  # integers up to 2**53 are exact in float64
BLOCK: Final = 64  # columns done one by one between matrix products


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One side of a matrix product: ``codes * unit``, integers and powers of two."""

    codes: Reals
    unit: Reals


def factor(values: NDArray[np.floating], depth: int, axis: int | None) -> Factor:
    """Values rounded to as many bits as keep sums of `depth` products exact.

    Args:
        values: Integers of few bits stay as they are.
        depth: Products per sum.
        axis: Along which values have one unit; None: all.
    """
    bits = (EXACT_BITS - (depth - 1).bit_length()) // 2
    largest = np.maximum(
        values.max(axis=axis, keepdims=True), -values.min(axis=axis, keepdims=True)
    ).astype(np.float64)
    _, exponent = np.frexp(largest)
    shift = bits - exponent
    return Factor(np.rint(values * np.ldexp(1.0, shift)), np.ldexp(1.0, -shift))


def product(left: Factor, right: Factor) -> Reals:
    """Matrix product of factors of the same depth."""
    sums: Reals = left.codes @ right.codes
    sums *= left.unit
    sums *= right.unit
    return sums


def rounded_product(left: Reals, right: Reals) -> Reals:
    """Product of stacks of matrices, rounded row by row and column by column."""
    depth = left.shape[-1]
    return product(factor(left, depth, -1), factor(right, depth, -2))


def turned(matrices: Reals) -> Reals:
    """Transposed, each of a stack."""
    return matrices.transpose(0, 2, 1)


def triangle(matrices: Reals) -> Reals:
    """Lower triangular F with ``F.T @ F`` = the matrix: the Cholesky factor from the last row up.

    Args:
        matrices: Symmetric and positive definite, (stack, size, the same).
    """
    left = matrices.copy()
    result = np.zeros_like(left)
    _, size, _ = left.shape
    for end in range(size, 0, -BLOCK):
        begin = max(0, end - BLOCK)
        for k in range(end - 1, begin - 1, -1):
            row = left[:, k, : k + 1] / np.sqrt(left[:, k, k, None])
            result[:, k, : k + 1] = row
            left[:, begin:k, :k] -= row[:, begin:k, None] * row[:, None, :k]
        left[:, :begin, :begin] -= _squared(turned(result[:, begin:end, :begin]))
    return result


def _squared(matrices: Reals) -> Reals:
    """``m @ m.T`` in two slices of bits, as precise as float64 for this purpose."""
    _, _, depth = matrices.shape
    high = factor(matrices, depth, -1)
    low = factor(matrices - high.codes * high.unit, depth, -1)
    across = Factor(turned(high.codes), turned(high.unit))
    mixed = product(low, across)
    return mixed + turned(mixed) + product(high, across)


def solved(lower: Reals, right: Reals) -> Reals:
    """``x`` with ``F.T @ F @ x = right`` for F of `triangle`; right is (stack, size, any)."""
    x = right.copy()
    _, size, _ = x.shape
    for end in range(size, 0, -BLOCK):
        begin = max(0, end - BLOCK)
        for k in range(end - 1, begin - 1, -1):
            x[:, k] /= lower[:, k, k, None]
            x[:, begin:k] -= lower[:, k, begin:k, None] * x[:, None, k]
        x[:, :begin] -= rounded_product(turned(lower[:, begin:end, :begin]), x[:, begin:end])
    for begin in range(0, size, BLOCK):
        end = min(size, begin + BLOCK)
        for k in range(begin, end):
            x[:, k] /= lower[:, k, k, None]
            x[:, k + 1 : end] -= lower[:, k + 1 : end, k, None] * x[:, None, k]
        x[:, end:] -= rounded_product(lower[:, end:, begin:end], x[:, begin:end])
    return x
