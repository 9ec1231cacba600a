"""What is said of pinned tokens beside a stored row, without contradiction to it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]


class Pinned(NamedTuple):
    """What is said of some tokens, `[..., token]`.

    Attributes:
        log_probability: float32, natural.
        rank: int32 from 1; 0 where the numbers are none.
    """

    log_probability: NDArray[np.float32]
    rank: NDArray[np.int32]


def agreeing(
    top_ids: Ids, top_probabilities: NDArray[np.float32], ids: Ids, measured: Pinned
) -> Pinned:
    """Tokens that were measured beside a row, without contradiction to the row.

    One of the likeliest has the row's probability and place; any other one is no likelier than the
    last of them. What is NaN stays, with its rank.

    Args:
        top_ids: `[..., n_top]`.
        top_probabilities: `[..., n_top]`, falling.
        ids: `[..., token]`.
        measured: of `ids`, measured from states that may have been rounded since.
    """
    with np.errstate(divide="ignore"):
        top = np.log(top_probabilities)
    hits = ids[..., None] == top_ids[..., None, :]
    is_top, places = hits.any(-1), hits.argmax(-1)
    is_known = ~np.isnan(measured.log_probability) & ~np.isnan(top[..., :1])
    least = np.minimum(measured.log_probability, top[..., -1:])
    n_above = (top[..., None, :] > least[..., None]).sum(-1)
    logs = np.where(is_top, np.take_along_axis(top, places, -1), least)
    ranks = np.where(is_top, places + 1, np.maximum(measured.rank, n_above + 1))
    return Pinned(
        np.where(is_known, logs, measured.log_probability),
        np.where(is_known, ranks, measured.rank).astype(np.int32),
    )
