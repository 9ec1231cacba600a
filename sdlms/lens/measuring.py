"""Apply a lens: what a model would predict if the residual stream ended at a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdlms.lens.backends import BackendName
from sdlms.lens.fast_unembedding import FastUnembedding
from sdlms.lens.rows import LensRows, empty_rows
from sdlms.lens.sweeping import rows_at_once
from sdlms.lens.unembedding import (
    ExactUnembedding,
    Measured,
    Unembedding,
    UnembedDtype,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNEMBEDDINGS: dict[UnembedDtype, Callable[[PreTrainedModel, BackendName], Unembedding]] = {
    "float32": lambda model, _: ExactUnembedding(model),
    "bfloat16": FastUnembedding,
}


class Lens:
    """The logit lens of a model: its own final norm, unembedding and logit transform."""

    def __init__(
        self,
        model: PreTrainedModel,
        n_top: int = 10,
        unembed: UnembedDtype = "float32",
        chunk_rows: int = 0,
        backend: BackendName = "auto",
    ) -> None:
        """Prepare the unembedding.

        Args:
            model: A causal model in eval mode.
            n_top: How many of the most probable tokens are kept, at most the vocabulary.
            unembed: See `unembed_dtype_of`.
            chunk_rows: States of tokens that are measured at once; 0 chooses. Memory is that of so
                many rows of logits, a few times.
            backend: of the product in bfloat16, see `backend_of`.

        Raises:
            UserError: If the model is an encoder, the architecture table does not describe it, or
                the backend named cannot be had.
            ValueError: If n_top is not between 1 and the vocabulary.
        """
        self._unembedding = UNEMBEDDINGS[unembed](model, backend)
        if not 1 <= n_top <= self._unembedding.d_vocab:
            raise ValueError(f"n_top is {n_top}, of a vocabulary of {self._unembedding.d_vocab}")
        self._device = model.device
        self._n_top = n_top
        self._chunk_rows = chunk_rows or rows_at_once(self._unembedding.d_vocab)

    def measure(self, states: Tensor, next_ids: Tensor, pins: Sequence[int] = ()) -> LensRows:
        """What the lens says.

        Args:
            states: `[token, state, d_model]`, raw residuals of any float dtype on any device; the
                last state is the final one.
            next_ids: `[token]` int64, the token that follows; -1 where unknown.
            pins: Tokens whose probability and rank are wanted at every token.

        Returns:
            numpy arrays, `[token, state, ...]`.

        Raises:
            ValueError: If a token is not in the vocabulary, or the shapes disagree.
        """
        n_tokens, n_states, _ = states.shape
        next_ids = next_ids.to(self._device)
        pinned = torch.tensor(list(pins), dtype=torch.int64, device=self._device)
        self._check(n_tokens, next_ids, pinned)
        wanted = torch.cat([next_ids.clamp_min(0)[:, None], pinned.expand(n_tokens, -1)], 1)
        rows = empty_rows(n_tokens, n_states, self._n_top, len(pinned))
        n_at_once = max(1, self._chunk_rows // n_states)
        for first in range(0, n_tokens, n_at_once):
            chunk = slice(first, first + n_at_once)
            read = states[chunk].to(self._device)
            measured = self._unembedding.measure(read, wanted[chunk], self._n_top)
            _fill(rows, chunk, measured, next_ids[chunk].cpu())
        return rows

    def _check(self, n_tokens: int, next_ids: Tensor, pinned: Tensor) -> None:
        """Make sure that every token asked for is in the vocabulary."""
        if next_ids.shape != (n_tokens,):
            raise ValueError(f"{n_tokens} tokens, but next_ids is {list(next_ids.shape)}")
        for name, ids, least in (("next_ids", next_ids, -1), ("pins", pinned, 0)):
            outside = ids[(ids < least) | (ids >= self._unembedding.d_vocab)]
            if len(outside):
                raise ValueError(f"{name} holds {int(outside[0])}, which is no token")


def _fill(rows: LensRows, chunk: slice, found: Measured, next_ids: Tensor) -> None:
    """Put a chunk's results in their places; what is unknown becomes NaN and 0."""
    logs, ranks = found.log_probabilities, found.ranks
    ranks = ranks.masked_fill(logs.isnan(), 0)
    unknown = (next_ids < 0)[:, None]
    values = LensRows(
        top_ids=found.top_ids.numpy(),
        top_probabilities=found.top_log_probabilities.exp().numpy(),
        entropy_nats=found.entropy_nats.numpy(),
        log_normalizer=found.log_normalizer.numpy(),
        kl_to_final_nats=found.kl_to_final_nats.numpy(),
        next_log_probability=logs[..., 0].masked_fill(unknown, torch.nan).numpy(),
        next_rank=ranks[..., 0].masked_fill(unknown, 0).numpy(),
        pin_log_probability=logs[..., 1:].numpy(),
        pin_rank=ranks[..., 1:].numpy(),
    )
    for place, value in zip(rows, values, strict=True):
        place[chunk] = value
