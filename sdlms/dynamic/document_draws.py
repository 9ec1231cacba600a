"""Ratios of sums over documents, and how far they would move with other documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdlms.numerics.document_bootstrap import Estimate, drawn_documents, percentile_interval

N_RESAMPLES = 1000
Draws = NDArray[np.float64]


def with_interval(name: str) -> list[str]:
    """A column and the ends of its 95 % interval."""
    return [name, f"{name}_low", f"{name}_high"]


def cells(name: str, found: Estimate) -> dict[str, Any]:
    """An estimate in its columns."""
    return dict(zip(with_interval(name), found, strict=True))


@dataclass(frozen=True, eq=False)
class DocumentDraws:
    """Resamples of documents within their tasks; all that is estimated shares them.

    Attributes:
        tasks: `[document]` int64.
        weights: `[draw, document]`, how often each draw has each document; draw 0 is the data.
    """

    tasks: NDArray[np.int64]
    weights: Draws

    @classmethod
    def of(cls, tasks: Sequence[int], seed: int) -> "DocumentDraws":
        """Draw 1,000 times; tasks and seed decide the draws."""
        own = np.array(tasks, dtype=np.int64)
        drawn = drawn_documents(own, N_RESAMPLES, np.random.default_rng(seed))
        return cls(own, np.concatenate([np.ones((1, len(own))), drawn]))

    def ratio(self, above: ArrayLike, below: ArrayLike, where: NDArray[np.bool_]) -> Draws:
        """`[draw]`: a sum over some documents, over another; NaN where that is not above 0.

        Args:
            above: `[document]`.
            below: `[document]`.
            where: `[document]`, which.
        """
        weights = self.weights[:, where]
        top, bottom = (weights @ np.asarray(sums, np.float64)[where] for sums in (above, below))
        found: Draws = np.full(len(top), nan)
        np.divide(top, bottom, out=found, where=bottom > 0)
        return found

    def estimate(self, draws: Draws, where: NDArray[np.bool_]) -> Estimate:
        """The data's value and the middle 95 % of the resamples'.

        Args:
            draws: `[draw]`, that of the data first.
            where: `[document]`, which it is of: where a task among these has a single document,
                there is no interval, nor where a draw is not finite.
        """
        value = float(draws[0])
        single = (np.unique(self.tasks[where], return_counts=True)[1] == 1).any()
        if single or not np.isfinite(draws).all():
            return Estimate(value if np.isfinite(value) else nan, nan, nan)
        return Estimate(value, *percentile_interval(draws[1:]))
