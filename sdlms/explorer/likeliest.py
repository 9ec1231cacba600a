"""The likeliest tokens of a row: what they say of a token is what every other number of it says."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]


class Asked(NamedTuple):
    """Tokens that were asked for, `[..., token]`.

    Attributes:
        log_probability: float32, natural.
        rank: int32 from 1; 0 where the numbers are none.
    """

    log_probability: Floats
    rank: NDArray[np.int32]


def agreeing(top_ids: Ids, top_probabilities: Floats, ids: Ids, asked: Asked) -> Asked:
    """Tokens that were measured beside a row, without contradiction to the row.

    One of the likeliest has the row's probability and place; any other one is no likelier than the
    last of them. What is NaN stays, with its rank.

    Args:
        top_ids: `[..., n_top]`.
        top_probabilities: `[..., n_top]`, falling.
        ids: `[..., token]`.
        asked: of `ids`, measured from states that may have been rounded since.
    """
    with np.errstate(divide="ignore"):
        top = np.log(top_probabilities)
    hits = ids[..., None] == top_ids[..., None, :]
    is_top, places = hits.any(-1), hits.argmax(-1)
    is_known = ~np.isnan(asked.log_probability) & ~np.isnan(top[..., :1])
    least = np.minimum(asked.log_probability, top[..., -1:])
    n_above = (top[..., None, :] > least[..., None]).sum(-1)
    logs = np.where(is_top, np.take_along_axis(top, places, -1), least)
    ranks = np.where(is_top, places + 1, np.maximum(asked.rank, n_above + 1))
    return Asked(
        np.where(is_known, logs, asked.log_probability),
        np.where(is_known, ranks, asked.rank).astype(np.int32),
    )
