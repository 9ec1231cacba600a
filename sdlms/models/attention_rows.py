"""What one token attends to: the row of the attention weights of the last token of a text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import check_causal
from sdlms.models.generating import PIECE_TOKENS, forward_piece

INSTALLED = "_output_capturing_hooks_installed"  # transformers: hooks are put on once


@torch.no_grad()
def attention_row(model: PreTrainedModel, ids: Sequence[int]) -> NDArray[np.float32]:
    """The attention weights with the last token as query.

    What stands before it is read with the model's ordinary attention; only the last token is run
    with the eager one, so that no `[query, key]` matrix is made.

    Args:
        model: a causal model in eval mode; its attention is what it was when this returns.
        ids: at least one token, at most the model's context.

    Returns:
        `[layer, head, key]` float32, a key per token; each row sums to 1. Keys outside of a sliding
        window have weight 0.

    Raises:
        UserError: the model is an encoder, the architecture table does not describe it, or its
            attention gives no weights.
        ValueError: there are no ids, or the model is in training mode.
    """
    check_causal(model.config)
    if not ids:
        raise ValueError("there is no token whose attention could be read")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    cache = None
    for first in range(0, len(ids) - 1, PIECE_TOKENS):
        piece = ids[first : min(first + PIECE_TOKENS, len(ids) - 1)]
        cache = forward_piece(model, piece, cache).past_key_values
    with _eager(model), _without_more_hooks(model):
        attentions = forward_piece(model, ids[-1:], cache, output_attentions=True).attentions
    if not attentions or any(weights is None for weights in attentions):
        raise UserError(
            f"model_type '{model.config.model_type}' gives no attention weights, even with eager "
            "attention. Use another model for this view."
        )
    return np.stack([_row(weights, len(ids)) for weights in attentions])


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
