"""What one token attends to: the row of the attention weights of the last token of a text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import check_causal
from sdlms.models.generating import PIECE_TOKENS, forward_piece

INSTALLED = "_output_capturing_hooks_installed"  # transformers: hooks are put on once


class AttentionReading:
    """A text that is read up to its last token, a piece at a time, for the attention of that one.

        reading = AttentionReading(model, ids)
        while reading.n_pieces:
            reading.read_piece()
        weights = reading.row()

    No call takes longer than the forward of a piece, and none makes a `[query, key]` matrix of
    eager attention: what stands before the last token is read with the model's ordinary one.

    Attributes:
        n_pieces: that are to be read before the row can be.
    """

    def __init__(self, model: PreTrainedModel, ids: Sequence[int]) -> None:
        """Nothing is computed.

        Args:
            model: a causal model in eval mode; its attention is what it was after each call.
            ids: at least one token, at most the model's context.

        Raises:
            UserError: the model is an encoder, or the architecture table does not describe it.
            ValueError: there are no ids, or the model is in training mode.
        """
        check_causal(model.config)
        if not ids:
            raise ValueError("there is no token whose attention could be read")
        if model.training:
            raise ValueError("the model is in training mode; call model.eval() first")
        self._model, self._ids = model, list(ids)
        self._cache: Any = None  # the model's own class
        self._n_read = 0

    @property
    def n_pieces(self) -> int:
        """See above."""
        return -(-(len(self._ids) - 1 - self._n_read) // PIECE_TOKENS)

    @torch.no_grad()
    def read_piece(self) -> None:
        """Read the next tokens; the last one of the text is not among them."""
        end = min(self._n_read + PIECE_TOKENS, len(self._ids) - 1)
        if end > self._n_read:
            output = forward_piece(self._model, self._ids[self._n_read : end], self._cache)
            self._cache, self._n_read = output.past_key_values, end

    @torch.no_grad()
    def row(self) -> NDArray[np.float32]:
        """The attention weights with the last token as query; what is unread is read before.

        The reading is used up: its KV cache is let go.

        Returns:
            `[layer, head, key]` float32, a key per token; each row sums to 1. Keys outside of a
            sliding window have weight 0.

        Raises:
            UserError: the model's attention gives no weights.
        """
        while self.n_pieces:
            self.read_piece()
        model, cache, n_keys = self._model, self._cache, len(self._ids)
        self._cache, self._n_read = None, 0
        with _eager(model), _without_more_hooks(model):
            last = self._ids[-1:]
            attentions = forward_piece(model, last, cache, output_attentions=True).attentions
        if not attentions or any(weights is None for weights in attentions):
            raise UserError(
                f"model_type '{model.config.model_type}' gives no attention weights, even with "
                "eager attention. Use another model for this view."
            )
        return np.stack([_row(weights, n_keys) for weights in attentions])


def _row(weights: Tensor, n_keys: int) -> NDArray[np.float32]:
    """`[1, head, 1, held key]` -> `[head, key]`: a sliding layer holds the last keys only."""
    row = weights[0, :, -1].float().cpu().numpy()
    # A cache of a fixed window may hold room before the first key.
    row = row[:, -n_keys:]
    return np.pad(row, ((0, 0), (n_keys - row.shape[1], 0)))


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model's attention gives its weights."""
    before = [(config, config._attn_implementation) for config in _configs(model)]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        yield
    finally:
        # The setter reaches down to parts of a config, which come after the whole.
        for config, implementation in before:
            config._attn_implementation = implementation


@contextmanager
def _without_more_hooks(model: PreTrainedModel) -> Iterator[None]:
    """Take away the hooks that transformers leaves on a model to capture its outputs.

    They do nothing in any other forward, but each of them would be called there.
    """
    before = {module: set(module._forward_hooks) for module in model.modules()}
    marked = {module for module in before if hasattr(module, INSTALLED)}
    try:
        yield
    finally:
        for module, known in before.items():
            for number in [number for number in module._forward_hooks if number not in known]:
                del module._forward_hooks[number]
            if hasattr(module, INSTALLED) and module not in marked:
                delattr(module, INSTALLED)


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The configs of the model and its parts, each once, the whole before its parts."""
    found = {id(model.config): model.config}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            found.setdefault(id(config), config)
    for config in list(found.values()):
        for name in config.sub_configs:
            part = getattr(config, name, None)
            if part is not None:
                found.setdefault(id(part), part)
    return list(found.values())
