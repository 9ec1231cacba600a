"""The JSON shapes of the API: what is known of tokens and states, as plain Python objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.questions import EMBEDDING
from sdlms.lens.states import State

Json = dict[str, Any]
Event = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]
TextOf = Callable[[int], str]


def number_of(value: float) -> float | None:
    """A number as JSON has it: infinities and NaN, which it lacks, become null."""
    return float(value) if math.isfinite(value) else None


def probability_of(value: float) -> float | None:
    """A probability as JSON has it; float32 may round one beyond 1."""
    return min(float(value), 1.0) if math.isfinite(value) else None


def state_json(index: int, state: State) -> Json:
    """A state without its cells."""
    return {"index": index, "site": state.site, "layer": layer_of(state), "name": state.name}


def layer_of(state: State) -> int:
    """The layer after which a state stands; -1 for the embedding."""
    return EMBEDDING if state.site == "resid_pre" else state.layer


def prediction_json(token_id: int, text: str, probability: float, rank: int) -> Json:
    """A token that a state predicts."""
    share = probability_of(probability)
    return {
        "token_id": token_id,
        "text": text,
        "probability": share,
        "percent": None if share is None else 100 * share,
        "rank": rank,
    }


def cell_json(rows: Arrays, place: tuple[int, int], next_id: int, text_of: TextOf) -> Json:
    """What one state says at one position.

    Args:
        rows: of a lens, `[position, state, ...]`.
        place: which position and state of them.
        next_id: the token that follows; -1 where unknown.
        text_of: the text of a token.
    """
    shares = rows["top_probabilities"][place].tolist()
    tops = zip(rows["top_ids"][place].tolist(), shares, strict=True)
    return {
        "top": [prediction_json(i, text_of(i), p, rank) for rank, (i, p) in enumerate(tops, 1)],
        "entropy_nats": number_of(float(rows["entropy_nats"][place])),
        "kl_nats": number_of(float(rows["kl_to_final_nats"][place])),
        "next": None if next_id < 0 else _next_json(rows, place, next_id, text_of),
        "pins": [],
    }


def _next_json(rows: Arrays, place: tuple[int, int], next_id: int, text_of: TextOf) -> Json:
    """The token that does follow."""
    return {
        "token_id": next_id,
        "text": text_of(next_id),
        "probability": probability_of(math.exp(rows["next_log_probability"][place])),
        "rank": int(rows["next_rank"][place]),
    }


def pins_json(
    pins: Sequence[int], log_probabilities: NDArray[np.float32], ranks: NDArray[np.int32]
) -> list[Json]:
    """Pinned tokens at one position and state; the arrays are `[pin]`."""
    return [
        {"token_id": token, "probability": probability_of(math.exp(log)), "rank": rank}
        for token, log, rank in zip(pins, log_probabilities.tolist(), ranks.tolist(), strict=True)
    ]
