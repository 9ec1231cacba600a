"""How far specialization would move with other documents: resamples within tasks."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.specialization import index_of_counts_

# Numbers of a block of resampled counts, 8 bytes each.
BLOCK_NUMBERS = 2**21


class Estimate(NamedTuple):
    """A number and its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


def drawn_documents(
    tasks: NDArray[np.int64], n_resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """How often each resample draws each document, with replacement within its task.

    Args:
        tasks: `[document]` from 0.
        n_resamples: how many.
        generator: of the draws. With `tasks` it decides them: what was measured in the documents
            does not matter, so one seed draws the same documents for every layer.

    Returns:
        `[resample, document]`, whole numbers; a task's documents sum to their number.
    """
    weights = np.empty((n_resamples, len(tasks)))
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        draws = generator.integers(len(own), size=(n_resamples, len(own)))
        draws += np.arange(n_resamples)[:, None] * len(own)
        counts = np.bincount(draws.ravel(), minlength=n_resamples * len(own))
        weights[:, own] = counts.reshape(n_resamples, len(own))
    return weights


def weighted_index(
    counts: NDArray[np.uint32],
    n_tokens: NDArray[np.int64],
    tasks: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Specialization index of each unit with documents weighted, once per row of weights.

    Args:
        counts: `[document, unit]`.
        n_tokens: `[document]`.
        tasks: `[document]` from 0, at least two of them.
        weights: `[row, document]` >= 0.

    Returns:
        `[row, unit]`.
    """
    index = np.empty((len(weights), counts.shape[1]))
    names = range(int(tasks.max()) + 1)
    belongs = [torch.from_numpy(np.flatnonzero(tasks == task)) for task in names]
    tokens = _sums(n_tokens[:, None], belongs, weights)[..., 0]
    at_once = max(1, BLOCK_NUMBERS // (len(weights) * len(belongs)))
    for first in range(0, counts.shape[1], at_once):
        some = slice(first, first + at_once)
        sums = _sums(counts[:, some], belongs, weights)
        index[:, some] = index_of_counts_(sums, tokens).numpy()
    return index


def _sums(
    numbers: NDArray[np.integer[Any]], belongs: list[Tensor], weights: NDArray[np.float64]
) -> Tensor:
    """`[row, task, unit]` float64 of `[document, unit]`, weighted and summed within tasks."""
    wide, rows = torch.from_numpy(numbers.astype(np.float64)), torch.from_numpy(weights)
    return torch.stack([rows[:, own] @ wide[own] for own in belongs], dim=1)


def centred(resampled: NDArray[np.float64], estimate: float) -> NDArray[np.float64]:
    """Resamples moved so that their mean is the estimate.

    The index of a resample is biased upwards once more: a draw with replacement is more uneven
    than the data, as the data are more uneven than what they were drawn from.

    Args:
        resampled: `[resample]`.
        estimate: of the data themselves.

    Returns:
        `[resample]`.
    """
    moved: NDArray[np.float64] = resampled - resampled.mean() + estimate
    return moved


def percentile_interval(resampled: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Lower and upper end that leave equal shares of `[resample]` outside; NaN where one is."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
