"""What a specialization index is by chance: the same documents under permuted task labels."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.specialization import index_of_counts_

# Numbers of a block of sums: 4 MB of float32, so that the passes over it find it in the cache.
BLOCK_NUMBERS = 2**20
# Numbers kept of one set of units, all its permutations: 16 MB, and twice that in float64.
KEPT_NUMBERS = 2**22
# float32 holds every whole number below this.
EXACT = 2**24
# Indices nearer to each other than this count as equal: it is the rounding of float32.
ROUNDING = 1e-6


class Chance(NamedTuple):
    """The index under permuted labels.

    Attributes:
        mean: `[unit]` float64, over the permutations.
        sd: `[unit]` float64, their standard deviation.
        p: `[unit]` float64 in (0, 1], (1 + permutations with at least the index) / (1 + all).
        adjusted: `[permutation // 2, rounded up]` float64, of the second half of the permutations:
            mean over the averaged units of (index - mean) / (1 - mean), the mean being that of the
            first half. With one mean for all, or with each half's for the other, it would be 0 on
            average whatever the permutations are. NaN without such a unit, and of one permutation.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    p: NDArray[np.float64]
    adjusted: NDArray[np.float64]


def chance_index(
    counts: NDArray[np.uint32],
    n_tokens: NDArray[np.int64],
    tasks: NDArray[np.int64],
    averaged: NDArray[np.bool_],
    n_permutations: int,
    generator: np.random.Generator,
) -> Chance:
    """Permute the documents' tasks and take each unit's specialization index every time.

    Each task keeps its number of documents; a document keeps its tokens, so that tasks get other
    numbers of tokens. Tokens of a document agree with each other, which is why documents are
    exchanged and not tokens. Sums are exact. Memory beyond the input: two bytes per document and
    permutation, some hundred columns of `counts` in another type, and less than 100 MB.

    Args:
        counts: `[document, unit]`, tokens on which a unit fires.
        n_tokens: `[document]` > 0.
        tasks: `[document]` from 0, each with a document, at least two of them.
        averaged: `[unit]`, over which the mean of each permutation goes.
        n_permutations: how many, > 0.
        generator: of the permutations; its state alone decides the result.

    Returns:
        Per unit and per permutation.

    Source: Phipson and Smyth (2010), "Permutation p-values should never be zero" (p).
    """
    labels = _labels(tasks, n_permutations, generator)
    # No count exceeds the tokens, so where their sum fits all sums do.
    exact = np.float32 if n_tokens.sum() < EXACT else np.float64
    tokens = torch.from_numpy(n_tokens.astype(exact))
    weights = averaged / max(1, averaged.sum())
    adjusted = np.full(n_permutations - n_permutations // 2, 0.0 if averaged.any() else np.nan)
    units: list[NDArray[np.float64]] = []
    at_once = max(1, KEPT_NUMBERS // len(labels))
    for first in range(0, counts.shape[1], at_once):
        some = slice(first, first + at_once)
        index = _labelled_index(torch.from_numpy(counts[:, some].astype(exact)), tokens, labels)
        moments, its_adjusted = _against_chance(index, torch.from_numpy(weights[some]))
        units.append(moments.numpy())
        adjusted += its_adjusted.numpy()
    mean, sd, p = np.concatenate(units, axis=1)
    return Chance(mean, sd, p, adjusted)


def _against_chance(index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, sd and p of units, and the later permutations' weighted sum of the adjusted index.

    Args:
        index: `[labelling, unit]`, the true one first.
        weights: `[unit]` float64.

    Returns:
        `[3, unit]` and `[later permutation]` float64.
    """
    permuted, n_permutations = index[1:], len(index) - 1
    as_high = (permuted >= index[0] - ROUNDING).count_nonzero(dim=0).double()
    deviations = permuted.double()
    earlier, later = deviations.tensor_split([n_permutations // 2])
    known = earlier.mean(dim=0)
    weights = weights / (1 - known)
    adjusted = later @ weights - known @ weights
    mean = deviations.mean(dim=0)
    deviations.sub_(mean)
    sd = torch.linalg.vector_norm(deviations, dim=0) / n_permutations**0.5
    moments = torch.stack([mean, sd, (1 + as_high) / (1 + n_permutations)])
    return moments, adjusted


def _labels(
    tasks: NDArray[np.int64], n_permutations: int, generator: np.random.Generator
) -> Tensor:
    """`[1 + permutation, document]` int16: the tasks as they are, then permuted."""
    labels = np.tile(tasks.astype(np.int16), (1 + n_permutations, 1))
    generator.permuted(labels[1:], axis=1, out=labels[1:])
    return torch.from_numpy(labels)


def _labelled_index(counts: Tensor, n_tokens: Tensor, labels: Tensor) -> Tensor:
    """`[labelling, unit]` float32 of the index under each labelling of the documents.

    Args:
        counts: `[document, unit]` in a type that holds their sums exactly.
        n_tokens: `[document]`, the same type.
        labels: `[labelling, document]`, the task of each document.
    """
    n_documents, n_units = counts.shape
    names = torch.arange(int(labels[0].max()) + 1, dtype=labels.dtype)[:, None]
    at_once = max(1, BLOCK_NUMBERS // (len(names) * max(n_documents, n_units)))
    index = torch.empty(len(labels), n_units)
    for first in range(0, len(labels), at_once):
        belongs = (labels[first : first + at_once, None] == names).to(counts.dtype)
        index[first : first + at_once] = index_of_counts_(belongs @ counts, belongs @ n_tokens)
    return index
