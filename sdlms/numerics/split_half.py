"""How far one half of the documents agrees with the other about which units are specialized."""

import numpy as np
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import weighted_index
from sdlms.numerics.label_permutations import ROUNDING, chance_index

# A correlation needs three units, and a half two documents of each task: one document each can
# only swap the tasks' names, which gives no chance level.
LEAST_UNITS = 3
LEAST_DOCUMENTS = 4


def random_halves(
    tasks: NDArray[np.int64], n_halves: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Which documents are in the first half, within each task; of an odd number the smaller.

    Args:
        tasks: `[document]` from 0.
        n_halves: how many ways to halve.
        generator: of the draws.

    Returns:
        `[half, document]`.
    """
    first = np.zeros((n_halves, len(tasks)), dtype=bool)
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        ranks = generator.permuted(np.tile(np.arange(len(own)), (n_halves, 1)), axis=1)
        first[:, own] = ranks < len(own) // 2
    return first


def adjusted_in_halves(
    counts: NDArray[np.uint32],
    n_tokens: NDArray[np.int64],
    tasks: NDArray[np.int64],
    halves: NDArray[np.bool_],
    n_permutations: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """(SI - E0) / (1 - E0) of each unit in parts of the documents, E0 being that of the part.

    The index itself will not do: its chance level depends on how often a unit fires, which both
    halves share, so that halves without any specialization correlate at 0.6.

    Args:
        counts: `[document, unit]`.
        n_tokens: `[document]` > 0.
        tasks: `[document]` from 0, at least two of them.
        halves: `[half, document]`, each with a document of every task.
        n_permutations: of labels in each half, for E0. A hundred leave a tenth of the noise
            that the index itself has.
        generator: of the permutations.

    Returns:
        `[half, unit]`.
    """
    index = weighted_index(counts, n_tokens, tasks, halves.astype(np.float64))
    everyone = np.ones(counts.shape[1], dtype=bool)
    chance = np.stack(
        [
            chance_index(
                counts[own], n_tokens[own], tasks[own], everyone, n_permutations, generator
            ).mean
            for own in halves
        ]
    )
    adjusted: NDArray[np.float64] = (index - chance) / (1 - chance)
    return adjusted


def split_half_reliability(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Mean Pearson correlation of the halves over units, stepped up to all documents.

    The step is Spearman and Brown's 2r / (1 + r), written 2r / (1 + |r|), which is the same
    from 0 on and stays above -1 where halves disagree.

    Args:
        first: `[half, unit]`, measured in one half of the documents.
        second: `[half, unit]`, measured in the other.

    Returns:
        In [-1, 1]; NaN for fewer than three units, or where all are equal in every half but for
        rounding.

    Source: Brown (1910), "Some experimental results in the correlation of mental abilities";
    Spearman (1910), "Correlation calculated from faulty data".
    """
    if first.shape[1] < LEAST_UNITS:
        return float("nan")
    one = first - first.mean(axis=1, keepdims=True)
    other = second - second.mean(axis=1, keepdims=True)
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    differ = spread > first.shape[1] * ROUNDING**2
    if not differ.any():
        return float("nan")
    products = (one * other).sum(axis=1)
    r = float(np.mean(products[differ] / spread[differ]))
    return 2 * r / (1 + abs(r))
