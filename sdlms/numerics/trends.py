"""How a quantity moves with the size of a model, from few models: rank order, and slope."""

import math
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT_POINTS = 8  # all 40,320 orders are gone through; above, a seeded sample of orders
SAMPLED_ORDERS = 9_999
FEWEST_SIZES = 3
LEVEL = 0.95
# How often `slope_interval` covers the truth where all orders of the noise are as likely: with
# three models unless all slopes between two of them err to one side, which 2 of their 6 orders do;
# with four, 2 of 24.
COVERAGE_OF_FEW = {3: 2 / 3, 4: 11 / 12}


class RankCorrelation(NamedTuple):
    """Spearman's rho, and how often chance gives one as far from 0 (two-sided)."""

    rho: float
    p_value: float


def spearman(
    sizes: NDArray[np.int64], values: NDArray[np.float64], seed: int = 0
) -> RankCorrelation:
    """Rank correlation with its permutation p-value; ties share their mean rank.

    The p-value is exact up to 8 points: the share of all orders of the values whose |rho| is no
    smaller, the order at hand among them. It is never below 1/3 with 3 points and 1/12 with 4.
    Beyond, (1 + hits) / (1 + 9,999) over orders that are drawn.

    Args:
        sizes: `[model]`, any real type, finite.
        values: `[model]`, finite.
        seed: of the orders that are drawn.

    Returns:
        rho in [-1, 1] and p in (0, 1]; NaN and NaN where all sizes or all values are equal, or
        there are fewer than two.

    Raises:
        ValueError: other shapes, or a number that is not finite.

    Source: Spearman (1904), "The proof and measurement of association between two things"; Fisher
    (1935), The Design of Experiments, section 21 (the permutation test).
    """
    _check(sizes, values)
    first, second = _doubled_ranks(sizes), _doubled_ranks(values)
    spread = int(_covariance(first, first)) * int(_covariance(second, second))
    if spread == 0:
        return RankCorrelation(float("nan"), float("nan"))
    observed = int(_covariance(first, second))
    shuffled = _covariance(first, second[_orders(len(second), seed)])
    hits = int(np.count_nonzero(np.abs(shuffled) >= abs(observed)))
    exact = len(second) <= EXACT_POINTS
    p_value = hits / len(shuffled) if exact else (1 + hits) / (1 + len(shuffled))
    return RankCorrelation(observed / math.sqrt(spread), p_value)


def slope_per_decade(sizes: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """Change of the value per tenfold size: the least-squares slope over log10(size).

    Args:
        sizes: `[model]`, > 0.
        values: `[model]`, finite.

    Returns:
        In the unit of the values; NaN with fewer than two distinct sizes.

    Raises:
        ValueError: other shapes, a number that is not finite, or a size that is not positive.
    """
    _check(sizes, values, positive=True)
    return float(_slopes(np.log10(sizes)[None], values[None])[0])


def slope_interval(
    sizes: NDArray[np.int64],
    values: NDArray[np.float64],
    n_resamples: int = 10_000,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `slope_per_decade` that draws models with replacement.

    Resamples that hold one size only have no slope and are left out. With three models the
    interval rests on three points: its ends are slopes between two of them. It covers the truth
    less often than `level` says, with three and four models as `COVERAGE_OF_FEW` has it, with five
    to eight in 89 to 92 % of cases. The order of the models changes nothing.

    Args:
        sizes: `[model]`, > 0.
        values: `[model]`, finite.
        n_resamples: how often to draw, > 0.
        level: coverage aimed at, in (0, 1).
        seed: of the draws.

    Returns:
        Lower and upper end; NaN and NaN with fewer than three distinct sizes.

    Raises:
        ValueError: as `slope_per_decade`, or settings out of range.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 9.5 (drawing
    pairs in regression) and ch. 13 (percentile intervals).
    """
    if n_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need n_resamples > 0 and 0 < level < 1, got {n_resamples}, {level}")
    _check(sizes, values, positive=True)
    if len(np.unique(sizes)) < FEWEST_SIZES:
        return float("nan"), float("nan")
    order = np.lexsort((values, sizes))
    draws = np.random.default_rng(seed).integers(len(sizes), size=(n_resamples, len(sizes)))
    slopes = _slopes(np.log10(sizes)[order][draws], values[order][draws])
    slopes = slopes[np.isfinite(slopes)]
    if not len(slopes):
        return float("nan"), float("nan")
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _slopes(decades: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[resample]` slopes of `[resample, model]`; NaN where a row holds one size only."""
    found = np.full(len(decades), np.nan)
    if not decades.shape[1]:
        return found
    across = decades - decades.mean(axis=1, keepdims=True)
    # From the first value on, not from the mean: of equal values the slope is 0 without rounding.
    above = (across * (values - values[:, :1])).sum(axis=1)
    several = decades.max(axis=1) > decades.min(axis=1)
    np.divide(above, (across * across).sum(axis=1), out=found, where=several)
    return found


def _doubled_ranks(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Twice the mean rank of each value: whole numbers, so that equal ones compare as equal."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    doubled: NDArray[np.int64] = (2 * np.cumsum(counts) - counts + 1)[places]
    return doubled


def _covariance(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """n^2 times the covariance over the last axis, without rounding."""
    found: NDArray[np.int64] = len(first) * (second @ first) - second.sum(axis=-1) * first.sum()
    return found


def _orders(n_points: int, seed: int) -> NDArray[np.int64]:
    """`[order, point]`: every order of the points, or a sample of them."""
    if n_points <= EXACT_POINTS:
        return _all_orders(n_points)
    indices = np.tile(np.arange(n_points), (SAMPLED_ORDERS, 1))
    return np.random.default_rng(seed).permuted(indices, axis=1)


@lru_cache(maxsize=EXACT_POINTS)
def _all_orders(n_points: int) -> NDArray[np.int64]:
    """`[order, point]`."""
    return np.array(list(permutations(range(n_points))), dtype=np.int64)


def _check(
    sizes: NDArray[np.int64], values: NDArray[np.float64], *, positive: bool = False
) -> None:
    """Refuse what no caller should pass."""
    if sizes.shape != values.shape or sizes.ndim != 1:
        raise ValueError(f"sizes {sizes.shape} and values {values.shape} must be [model]")
    if not (np.isfinite(sizes).all() and np.isfinite(values).all()):
        raise ValueError("sizes and values must be finite")
    if positive and (sizes <= 0).any():
        raise ValueError("sizes must be > 0")
