"""How far a ratio of sums would move with other documents: a percentile bootstrap."""

import numpy as np
from numpy.typing import NDArray

# Draws held at once for a block of resamples, with the two gathers 24 bytes each.
BLOCK_NUMBERS = 2**21


def ratio_interval(
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators) over documents.

    Documents are drawn with replacement, each with its numerator and its denominator. Their order
    changes nothing, and one seed draws the same documents for every numerator over the same
    distinct denominators. A ratio is read only where its denominator is positive: resamples
    without are left out, and where they are more than 1 - level of all there is no interval.

    Args:
        numerators: `[document]`, finite.
        denominators: `[document]`, finite; single ones may be 0 or negative.
        n_resamples: how often to draw, > 0.
        level: coverage aimed at, in (0, 1).
        seed: of the draws; the same seed gives the same interval.

    Returns:
        Lower and upper end; NaN and NaN for fewer than two documents, or where too many resamples
        have no positive denominator.

    Raises:
        ValueError: other shapes, a number that is not finite, or settings out of range.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13 (percentile
    intervals) and section 25.2 (a ratio of means, drawn in pairs).
    """
    if n_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need n_resamples > 0 and 0 < level < 1, got {n_resamples}, {level}")
    if numerators.shape != denominators.shape or numerators.ndim != 1:
        raise ValueError(f"{numerators.shape} and {denominators.shape} must be [document]")
    if not (np.isfinite(numerators).all() and np.isfinite(denominators).all()):
        raise ValueError("numerators and denominators must be finite")
    if len(numerators) < 2:
        return float("nan"), float("nan")
    order = np.lexsort((numerators, denominators))
    ratios = _resampled(numerators[order], denominators[order], n_resamples, seed)
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < level * n_resamples:
        return float("nan"), float("nan")
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """`[resample]`, the ratio of each; NaN where its denominator is not positive."""
    generator = np.random.default_rng(seed)
    n_documents = len(numerators)
    at_once = max(1, BLOCK_NUMBERS // n_documents)
    ratios = np.full(n_resamples, np.nan)
    for first in range(0, n_resamples, at_once):
        block = ratios[first : first + at_once]
        draws = generator.integers(n_documents, size=(len(block), n_documents))
        above, below = numerators[draws].sum(axis=1), denominators[draws].sum(axis=1)
        np.divide(above, below, out=block, where=below > 0)
    return ratios
