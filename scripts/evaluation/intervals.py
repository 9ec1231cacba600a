"""Intervals of what is measured on documents, facts or replies, and bins of probabilities."""

from typing import NamedTuple

import numpy as np
from corpus.tasks import SEED
from numpy.typing import NDArray

N_RESAMPLES = 1_000
BIN_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BIN_NAMES = ("[0, .2)", "[.2, .4)", "[.4, .6)", "[.6, .8)", "[.8, 1]")

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"


def ratio_interval(numerators: Floats, denominators: Floats, seed: int = SEED) -> Interval:
    """Sum over sum, with a bootstrap interval over the pairs.

    Args:
        numerators: `[unit]`, such as the loss of each document, or a difference of two losses.
        denominators: `[unit]`, such as the tokens of each document.
        seed: Of the resamples; the same seed draws the same units for every figure.
    """
    if not len(numerators):
        return Interval(*[float("nan")] * 3)
    drawn = np.random.default_rng(seed).integers(
        len(numerators), size=(N_RESAMPLES, len(numerators))
    )
    ratios = numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high))


def mean_interval(values: Floats, seed: int = SEED) -> Interval:
    """The mean, with a bootstrap interval over the values."""
    return ratio_interval(values, np.ones(len(values)), seed)


def wilson(hits: int, trials: int) -> Interval:
    """A share with its Wilson score interval; NaN without trials."""
    if not trials:
        return Interval(*[float("nan")] * 3)
    share, z = hits / trials, 1.959964
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials)
    reach *= (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def bin_of(probabilities: Floats) -> NDArray[np.int64]:
    """The bin of each probability, 0 to 4; a probability on an edge belongs to the upper bin."""
    return np.digitize(probabilities, BIN_EDGES[1:-1])


def bin_counts(probabilities: Floats) -> list[int]:
    """How many probabilities lie in each of the five bins."""
    return np.bincount(bin_of(probabilities), minlength=len(BIN_NAMES)).tolist()
