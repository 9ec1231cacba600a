"""Exact quantiles of stored activations, unit by unit."""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def ordered_keys(bits: NDArray[np.uint16]) -> NDArray[np.int16]:
    """Integers in the order of the floats whose bits these are; float16 and bfloat16 alike.

    Args:
        bits: any shape, the 16 bits of finite floats.

    Returns:
        The same shape; a < b exactly where the floats are; -0 comes just below +0.
    """
    signed = bits.view(np.int16)
    keys: NDArray[np.int16] = signed ^ ((signed >> 15) & np.int16(0x7FFF))
    return keys


def bits_of_keys(keys: NDArray[np.int16]) -> NDArray[np.uint16]:
    """The inverse of `ordered_keys`, which is its own inverse."""
    return ordered_keys(keys.view(np.uint16)).view(np.uint16)


def quantile_rank(n: int, fraction: float) -> int:
    """Index, from 0, of the order statistic that is the quantile: the smallest with F >= fraction.

    At most `1 - fraction` of the values lie strictly above it. (`inverted_cdf` in numpy.)
    """
    return max(math.ceil(fraction * n - 1e-9) - 1, 0)


def column_quantile(values: NDArray[Number], fraction: float) -> NDArray[Number]:
    """The quantile of each row, one of its own values (no interpolation).

    Args:
        values: `[unit, token]`, at least one token; its order is lost.
        fraction: in (0, 1).

    Returns:
        `[unit]`.
    """
    rank = quantile_rank(values.shape[1], fraction)
    values.partition(rank, axis=1)
    return values[:, rank].copy()
