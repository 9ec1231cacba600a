"""What ablations do to the loss of each task, with intervals over documents."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import UNKNOWN, Estimate

N_RESAMPLES = 1000
LEVEL = 0.95

Draws = NDArray[np.float64]


class Sums(NamedTuple):
    """What was measured of some documents.

    Attributes:
        changes: `[set, document]` float64, summed change of the loss in nats under each set.
        counts: `[document]` int64 > 0, tokens scored.
        tasks: `[document]` int64, index of each one's task.
    """

    changes: NDArray[np.float64]
    counts: NDArray[np.int64]
    tasks: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Effects:
    """Sums over each task's documents: draw 0 is the data, the others are resamples of it.

    Documents are drawn with replacement within their tasks, so that each resample has as many of
    each task. One seed draws the same documents for every set.

    Attributes:
        documents: `[task]` that were scored.
        n_tokens: `[task]` that were scored.
        tokens: `[draw, task]` float64, tokens in each resample.
        changes: `[set, draw, task]` float64, summed changes of the loss; NaN where a loss is not
            finite.
        seed: of the draws.
    """

    documents: NDArray[np.int64]
    n_tokens: NDArray[np.int64]
    tokens: Draws
    changes: Draws
    seed: int

    def of(self, one: int) -> Draws:
        """`[draw, task]` summed changes under one set."""
        found: Draws = self.changes[one]
        return found

    def of_any(self, several: list[int]) -> Draws:
        """`[draw, task]` summed changes: of the data the mean over sets, in each resample one set.

        So an interval says where one more set would lie, not how well the mean of these is known:
        one set is to be compared with it.
        """
        generator = np.random.default_rng([self.seed, len(several)])
        draws = np.arange(len(self.tokens))
        found: Draws = self.changes[generator.choice(several, size=len(draws)), draws]
        found[0] = self.changes[several, 0].mean(axis=0)
        return found

    def per_token(self, sums: Draws, tasks: NDArray[np.bool_]) -> Draws:
        """`[draw]` change per token over all tokens of some tasks; NaN without any.

        Args:
            sums: `[draw, task]`.
            tasks: `[task]`, which.
        """
        above, below = sums[:, tasks].sum(axis=1), self.tokens[:, tasks].sum(axis=1)
        found: Draws = np.full(len(below), np.nan)
        np.divide(above, below, out=found, where=below > 0)
        return found

    def estimate(self, draws: Draws, tasks: NDArray[np.bool_]) -> Estimate:
        """The data's value and the middle 95 % of the resamples'.

        Args:
            draws: `[draw]`, that of the data first.
            tasks: `[task]`, which it is of: where one of them has a single document, there is no
                interval.
        """
        if not np.isfinite(draws).all():
            return UNKNOWN
        if (self.documents[tasks] == 1).any():
            return Estimate(float(draws[0]), np.nan, np.nan)
        low, high = np.quantile(draws[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(float(draws[0]), float(low), float(high))


def effects_of(sums: Sums, n_tasks: int, seed: int) -> Effects:
    """Resample the documents of each task 1,000 times.

    Args:
        sums: of all documents.
        n_tasks: how many tasks there are; one may have no document.
        seed: of the draws.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 8 (several samples)
    and section 25.2 (a ratio of means).
    """
    generator = np.random.default_rng(seed)
    finite = np.where(np.isfinite(sums.changes), sums.changes, np.nan)
    shape = (N_RESAMPLES + 1, n_tasks)
    tokens, changes = np.zeros(shape), np.zeros((len(finite), *shape))
    for task in range(n_tasks):
        own = sums.tasks == task
        if not own.any():
            continue
        n = int(own.sum())
        weights = generator.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES + 1)
        weights[0] = 1
        tokens[:, task] = weights @ sums.counts[own]
        changes[:, :, task] = finite[:, own] @ weights.T
    return Effects(
        documents=np.bincount(sums.tasks, minlength=n_tasks),
        n_tokens=np.bincount(sums.tasks, sums.counts, minlength=n_tasks).astype(np.int64),
        tokens=tokens,
        changes=changes,
        seed=seed,
    )
