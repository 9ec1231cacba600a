"""How sparse activations are: participation ratio, firing counts, activation fraction."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Squares of sums below this, and their inverses, stay well inside float32.
SAFE_NORM = 1e15


def rectified(acts: Tensor) -> Tensor:
    """max(acts, 0): the strengths of neurons in a plain MLP, where negative means silent."""
    return acts.clamp(min=0)


def magnitudes(acts: Tensor) -> Tensor:
    """|acts|: the strengths of gated neurons and of residual-like units, where both signs act."""
    return acts.abs()


def participation_ratio(strengths: Tensor) -> Tensor:
    """Effective number of active units per token, (sum x)^2 / sum x^2.

    Args:
        strengths: `[token, unit]` float32 or float64, >= 0; scale does not matter.

    Returns:
        `[token]` float64, 0 where every unit is 0, else in [1, n_units] up to 1e-6: the sums
        over units are taken in the type of `strengths`.

    Source: Treves and Rolls (1991), "What determines the capacity of autoassociative memories
    in the brain?", eq. for sparseness times the number of units.
    """
    norm = torch.linalg.vector_norm(strengths, dim=1)
    if bool((norm > SAFE_NORM).any()) or bool((norm < 1 / SAFE_NORM).any()):
        # Squares may have left the type's range: repeat it relative to each token's largest unit.
        largest = strengths.amax(dim=1, keepdim=True)
        strengths = strengths / torch.where(largest > 0, largest, 1)
        norm = torch.linalg.vector_norm(strengths, dim=1)
    total = strengths.sum(dim=1).double()
    return torch.where(norm > 0, (total / torch.where(norm > 0, norm, 1)) ** 2, 0)


@dataclass(frozen=True)
class DocumentStatistics:
    """Statistics of one site and layer, one row per document; mask-1 tokens only.

    Attributes:
        counts: `[document, unit]` uint32, tokens on which the unit is above its threshold.
        n_positive: `[document]` int64, (token, unit) pairs with activation above 0.
        participation_ratio: `[document]` float64, summed over the document's tokens.
    """

    counts: NDArray[np.uint32]
    n_positive: NDArray[np.int64]
    participation_ratio: NDArray[np.float64]


def document_statistics(
    acts: Tensor, strengths: Tensor, offsets: NDArray[np.int64], thresholds: Tensor
) -> DocumentStatistics:
    """Count and sum over each document.

    Args:
        acts: `[token, unit]` float32, the mask-1 tokens of the documents one after another.
        strengths: `[token, unit]` float32, `rectified(acts)` or `magnitudes(acts)`.
        offsets: `[document + 1]`, from 0 to n_tokens.
        thresholds: `[unit]` float32; a unit fires strictly above its own.

    Returns:
        One row per document; zeros for a document without tokens.
    """
    firing = np.greater(acts.numpy(), thresholds.numpy())
    positive = np.greater(acts.numpy(), 0)
    ratios = participation_ratio(strengths).numpy()
    bounds = list(pairwise(offsets.tolist()))
    return DocumentStatistics(
        counts=np.stack([column_counts(firing[first:last]) for first, last in bounds]),
        n_positive=np.array([np.count_nonzero(positive[first:last]) for first, last in bounds]),
        # Each by itself, so that a document's sum knows no neighbour.
        participation_ratio=np.array([ratios[first:last].sum() for first, last in bounds]),
    )


def column_counts(flags: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """How often each column of `[token, unit]` is true, in bytes as long as these cannot wrap."""
    counts = np.zeros(flags.shape[1], dtype=np.uint32)
    for first in range(0, len(flags), 255):
        counts += np.add.reduce(flags[first : first + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return counts


def token_mean(sums: NDArray[np.float64], n_tokens: NDArray[np.int64]) -> tuple[float, float]:
    """Mean over tokens, with its standard error over documents.

    Documents, not tokens, are independent: the mean is a ratio estimator over clusters, and
    its error is that of the documents' residuals around it.

    Args:
        sums: `[document]` sum of the quantity over each document's tokens.
        n_tokens: `[document]` tokens of each document.

    Returns:
        Mean and standard error; NaN and NaN without tokens, NaN error with fewer than two
        documents.

    Source: Cochran (1977), Sampling Techniques, eq. 6.13 without the finite-population factor.
    """
    used = n_tokens > 0
    sums, n_tokens = sums[used].astype(np.float64), n_tokens[used]
    n_documents, total = len(sums), int(n_tokens.sum())
    if n_documents == 0:
        return float("nan"), float("nan")
    mean = float(sums.sum() / total)
    if n_documents == 1:
        return mean, float("nan")
    residuals = sums - mean * n_tokens
    variance = n_documents / (n_documents - 1) * float(residuals @ residuals)
    return mean, float(np.sqrt(variance) / total)
