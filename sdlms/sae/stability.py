"""Whether two dictionaries hold the same directions: latents matched one to one by cosine."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MOST_LATENTS = 4096  # of one side: the assignment takes seconds, and its time grows as the cube
HIGH_COSINE = 0.9


@dataclass(frozen=True)
class Matched:
    """How well the latents of a dictionary are found again in another.

    Attributes:
        mean: of the cosines, over all latents that were compared; NaN where there is nothing.
        median: of the same.
        high_fraction: of these latents, those whose cosine is above 0.9.
        n_compared: latents of the first dictionary.
        reason: why there is nothing; empty otherwise.
    """

    mean: float
    median: float
    high_fraction: float
    n_compared: int
    reason: str = ""


def matched_cosine(decoder_a: Tensor, decoder_b: Tensor, seed: int) -> Matched:
    """Match latents one to one so that the sum of cosines is largest, and describe the cosines.

    The sign counts, since latents are >= 0: an opposite direction is no match. A latent of the
    first side that is left without a partner (the second has fewer) counts as cosine 0. Between two
    trainings, give the latents that fire; against a known dictionary, give that first: the mean is
    then the mean cosine over its directions.

    Args:
        decoder_a: `[latent, unit]`, any float dtype and norms; a row of zeros has cosine 0 to all.
            Of more than 4,096 rows a sample of 4,096 is compared.
        decoder_b: `[other latent, unit]`, all of which are partners to choose from.
        seed: of the sample.

    Raises:
        ValueError: a number is not finite, or the dictionaries have different units.

    Source: Hungarian matching of decoders as in Paulo and Belrose (2025), "Sparse Autoencoders
    Trained on the Same Data Learn Different Features" (arXiv 2501.16615).
    """
    directions = [_directions(decoder) for decoder in (decoder_a, decoder_b)]
    if directions[0].shape[1] != directions[1].shape[1]:
        raise ValueError(f"{decoder_a.shape} and {decoder_b.shape} have different units")
    for name, found in zip(("first", "second"), directions, strict=True):
        if not len(found):
            return Matched(math.nan, math.nan, math.nan, 0, f"the {name} has no latents to match")
    cosines = _matched(_sample(directions[0], seed), directions[1])
    return Matched(
        mean=float(cosines.mean()),
        median=float(np.median(cosines)),
        high_fraction=float((cosines > HIGH_COSINE).mean()),
        n_compared=len(cosines),
    )


def _directions(decoder: Tensor) -> NDArray[np.float64]:
    """`[latent, unit]` rows of norm 1; zeros stay zeros."""
    rows: NDArray[np.float64] = decoder.detach().cpu().double().numpy()
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise ValueError("a decoder row is not finite")
    return rows / np.where(norms > 0, norms, 1)


def _sample(rows: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """At most as many rows as are matched, in their order."""
    if len(rows) <= MOST_LATENTS:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), MOST_LATENTS, replace=False)
    return rows[np.sort(chosen)]


def _matched(ours: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[latent of ours]` cosine to the partner, 0 without one."""
    from scipy.optimize import linear_sum_assignment

    cosines = ours @ others.T
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    found = np.zeros(len(ours))
    found[rows] = cosines[rows, columns]
    return found
