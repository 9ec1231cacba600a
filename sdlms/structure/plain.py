"""Modularity as the original plan has it: no support, no null, 200 entries of a matrix."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.structure.communities import Graph, Library, louvain, modularity_of

ENTRIES = 200  # of the symmetric matrix, which holds each pair twice
BLOCK_PAIRS = 2**22


def plain_modularity(counts: Tensor, n_tokens: int, library: Library) -> float:
    """Q_plain: Louvain on the 100 pairs of units with the most pointwise mutual information.

    It cannot tell structure from noise: pairs of rare units that fire together once or twice are
    the strongest, whatever the data. It is kept so that results can be compared.

    Args:
        counts: `[unit, unit]` int32, tokens on which both fire; on the diagonal those on which
            the unit fires; below the diagonal not read.
        n_tokens: tokens that were counted.
        library: of Louvain, which is run once with seed 0.

    Returns:
        Modularity, weighted by the pointwise mutual information; NaN where no pair of units
        fires together more often than at random, or where there is one community.

    Source: the plan of this project, kept to the letter but for the units: here are those only
    that fire often enough to have an edge.
    """
    graph = _strongest_pairs(counts, n_tokens)
    labels = louvain(graph, 1.0, 0, library)
    return modularity_of(graph, labels) if labels.max(initial=-1) > 0 else float("nan")


def _strongest_pairs(counts: Tensor, n_tokens: int) -> Graph:
    """The pairs of most information, equal ones in the order of their units."""
    n_units = len(counts)
    fired = counts.diagonal().double()
    pairs, information = np.zeros(0, dtype=np.int64), np.zeros(0)
    rows_at_once = max(1, BLOCK_PAIRS // max(1, n_units))
    for start in range(0, n_units, rows_at_once):
        joint = counts[start : start + rows_at_once].double()
        ratio = joint * n_tokens / (fired[start : start + len(joint), None] * fired)
        above = torch.log(ratio.triu(start + 1)).flatten().numpy()
        found = _largest(above)
        pairs = np.concatenate([pairs, found + start * n_units])
        information = np.concatenate([information, above[found]])
        kept = _largest(information)
        pairs, information = pairs[kept], information[kept]
    return Graph(pairs // n_units, pairs % n_units, information, n_units)


def _largest(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the largest values above 0, falling; equal ones in their order."""
    positive = np.flatnonzero(values > 0)
    if len(positive) > ENTRIES // 2:
        least = np.partition(values[positive], -(ENTRIES // 2))[-(ENTRIES // 2)]
        positive = positive[values[positive] >= least]
    return positive[np.argsort(-values[positive], kind="stable")][: ENTRIES // 2]
