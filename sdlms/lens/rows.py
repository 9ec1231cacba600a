"""What a lens says of each token and state, and from which layer on its answer stays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.lens.states import State


class LensRows(NamedTuple):
    """Predictions of the token after each token, `[token, state]` and one more axis where named.

    Probabilities are in [0, 1], logarithms natural, ranks count from 1: one more than the number
    of tokens with a larger logit. A state that holds NaN gives NaN and rank 0.

    Attributes:
        top_ids: int32 `[.., n_top]`, the most probable tokens, the first first.
        top_probabilities: float32 `[.., n_top]`, never rising.
        entropy_nats: float32, of the whole distribution.
        log_normalizer: float32, the logarithm of the sum of exp(logit); logit = log-probability +
            this.
        kl_to_final_nats: float32 >= 0, sum of p_final (log p_final - log p_state); 0 at the final
            state.
        next_log_probability: float32, of the token that follows; NaN where unknown.
        next_rank: int32; 0 where unknown.
        pin_log_probability: float32 `[.., pin]`.
        pin_rank: int32 `[.., pin]`.
    """

    top_ids: NDArray[np.int32]
    top_probabilities: NDArray[np.float32]
    entropy_nats: NDArray[np.float32]
    log_normalizer: NDArray[np.float32]
    kl_to_final_nats: NDArray[np.float32]
    next_log_probability: NDArray[np.float32]
    next_rank: NDArray[np.int32]
    pin_log_probability: NDArray[np.float32]
    pin_rank: NDArray[np.int32]


def empty_rows(n_tokens: int, n_states: int, n_top: int, n_pins: int) -> LensRows:
    """Rows to be filled."""

    def empty(kind: type[Any], *more: int) -> NDArray[Any]:
        return np.empty((n_tokens, n_states, *more), dtype=kind)

    return LensRows(
        top_ids=empty(np.int32, n_top),
        top_probabilities=empty(np.float32, n_top),
        entropy_nats=empty(np.float32),
        log_normalizer=empty(np.float32),
        kl_to_final_nats=empty(np.float32),
        next_log_probability=empty(np.float32),
        next_rank=empty(np.int32),
        pin_log_probability=empty(np.float32, n_pins),
        pin_rank=empty(np.int32, n_pins),
    )


def decided_at(top_ids: NDArray[np.integer[Any]], states: Sequence[State]) -> NDArray[np.int32]:
    """The first layer from which on the most probable token stays the final one.

    States after attention do not count.

    Args:
        top_ids: `[token, state, n_top]`, n_top >= 1.
        states: of the second axis, in the order of the forward pass.

    Returns:
        `[token]` int32: a layer of `states`, -1 for the embedding.

    Raises:
        ValueError: If the axis and `states` differ in length.
    """
    if top_ids.shape[1] != len(states):
        raise ValueError(f"{len(states)} states for an axis of {top_ids.shape[1]}")
    places = [place for place, state in enumerate(states) if state.site != "resid_mid"]
    layers = np.array(
        [-1 if states[p].site == "resid_pre" else states[p].layer for p in places], dtype=np.int32
    )
    first = top_ids[:, places, 0]
    agrees = first == first[:, -1:]
    # Behind the last disagreement; argmax finds the first True of the reversed axis.
    n_agreeing = np.where(agrees.all(axis=1), len(places), (~agrees)[:, ::-1].argmax(axis=1))
    found: NDArray[np.int32] = layers[len(places) - n_agreeing]
    return found
