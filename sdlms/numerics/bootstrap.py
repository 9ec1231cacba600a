"""How far AUROC would move with other documents: a percentile bootstrap over groups."""

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.metrics import Scores, Targets, split_by_class

# Numbers held at once for a block of resamples: weights, their sums and two gathers, 8 bytes each.
BLOCK_NUMBERS = 2**21


def auroc_interval(
    scores: Scores,
    targets: Targets,
    groups: NDArray[np.int64],
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of AUROC that draws whole groups with replacement.

    Tokens of one document agree with each other, so documents are drawn, not tokens. Memory
    beyond the input stays below about 64 MB, or eight numbers per example where that is more.
    Resamples that hold one class only are left out.

    Args:
        scores: `[example]` float32 or float64, finite.
        targets: `[example]` bool.
        groups: `[example]` integer, the document of each example; any numbering.
        n_resamples: how often to draw, > 0.
        level: coverage aimed at, in (0, 1).
        seed: of the draws; the same seed gives the same interval.

    Returns:
        Lower and upper end, in [0, 1]; NaN and NaN where no resample holds both classes.

    Raises:
        ValueError: other shapes or types, a score that is not finite, or settings out of range.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13; Field and
    Welsh (2007), "Bootstrapping clustered data" (the cluster bootstrap).
    """
    if n_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"need n_resamples > 0 and 0 < level < 1, got {n_resamples}, {level}")
    if groups.shape != scores.shape:
        raise ValueError(f"groups {groups.shape} and scores {scores.shape} must be [example]")
    ranking = _Ranking(scores, targets, groups)
    generator = np.random.default_rng(seed)
    at_once = max(1, BLOCK_NUMBERS // max(1, 2 * len(scores) + 2 * ranking.n_groups))
    sizes = [min(at_once, n_resamples - done) for done in range(0, n_resamples, at_once)]
    values = np.concatenate([ranking.resampled(generator, size) for size in sizes])
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class _Ranking:
    """What every resample shares: each class's groups, and how many negatives are below each."""

    def __init__(self, scores: Scores, targets: Targets, groups: NDArray[np.int64]) -> None:
        positive, negative = split_by_class(scores, targets)
        names, indices = np.unique(groups, return_inverse=True)
        self.n_groups = len(names)
        order = np.argsort(negative)
        self.positive_groups = indices[targets]
        self.negative_groups = indices[~targets][order]
        self.n_below = np.searchsorted(negative[order], positive, side="left")
        self.n_not_above = np.searchsorted(negative[order], positive, side="right")

    def resampled(self, generator: np.random.Generator, size: int) -> NDArray[np.float64]:
        """AUROC of `size` resamples; NaN where one holds one class only."""
        if not self.n_groups:
            return np.full(size, np.nan)
        draws = generator.integers(self.n_groups, size=(size, self.n_groups))
        draws += np.arange(size)[:, None] * self.n_groups
        counts = np.bincount(draws.ravel(), minlength=size * self.n_groups)
        weights = counts.reshape(size, self.n_groups).astype(np.float64)
        sums = np.zeros((size, len(self.negative_groups) + 1))
        np.cumsum(weights[:, self.negative_groups], axis=1, out=sums[:, 1:])
        positive = weights[:, self.positive_groups]
        wins = np.einsum("rp,rp->r", positive, sums[:, self.n_below])
        wins += np.einsum("rp,rp->r", positive, sums[:, self.n_not_above])
        pairs = positive.sum(axis=1) * sums[:, -1]
        values = np.full(size, np.nan)
        np.divide(wins / 2, pairs, out=values, where=pairs > 0)
        return values
