"""The likeliest tokens of a row: what they say of a token is what every other number of it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.lens.rows import LensRows
from sdlms.models.unembedding import exact_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


def reranked(model: PreTrainedModel, resid: Tensor, rows: LensRows, next_ids: Ids) -> LensRows:
    """Rows whose likeliest tokens are told apart in float32, as those of a reply are.

    A model in 16 bits rounds its logits, and many are equal. The normaliser stays.

    Args:
        model: a causal model, on the device of `resid`.
        resid: `[token, state, d_model]`, what the rows were measured of.
        rows: of the lens.
        next_ids: `[token]`, -1 where unknown.
    """
    ids = torch.from_numpy(rows.top_ids).to(resid.device, torch.int64)
    logits, places = exact_logits(model, resid, ids).cpu().sort(dim=-1, descending=True)
    top_ids = np.take_along_axis(rows.top_ids, places.numpy(), -1)
    top = np.exp(logits.numpy() - rows.log_normalizer[..., None])
    following = np.broadcast_to(next_ids[:, None, None], (*rows.next_rank.shape, 1))
    asked = Asked(rows.next_log_probability[..., None], rows.next_rank[..., None])
    known = agreeing(top_ids, top, following, asked)
    return rows._replace(
        top_ids=top_ids,
        top_probabilities=top,
        next_log_probability=known.log_probability[..., 0],
        next_rank=known.rank[..., 0],
    )


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
