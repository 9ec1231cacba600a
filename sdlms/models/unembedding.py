"""From the residual stream to logits: final norm, unembedding and what follows it.

Everything here takes a causal model (`AutoModelForCausalLM`). The logits of the residual after the
last block are the model's own; those of an earlier one are the logit lens, which are the logits of
a model that ends there. Architectures and sites: `sdlms.models.architectures`.
"""

from operator import attrgetter
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sdlms.models.architectures import architecture_for, check_causal, text_config


def final_norm_of(model: PreTrainedModel) -> nn.Module | None:
    """The norm between the last block and the unembedding; None where the model has none.

    Args:
        model: A causal model or its base model.

    Raises:
        UserError: If the architecture table does not describe the model.
    """
    return _module_at(model, architecture_for(model.config).final_norm)


def unembedding_of(model: PreTrainedModel) -> nn.Linear:
    """The linear map to the vocabulary, with its bias where it has one (GPT-J, Phi).

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If `model` carries no head.
    """
    check_causal(model.config)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise ValueError(f"{type(model).__name__} has no unembedding; load AutoModelForCausalLM")
    return cast("nn.Linear", head)


def unembedding_input(model: PreTrainedModel, resid: Tensor) -> Tensor:
    """What the unembedding reads: the residual after the final norm and OPT's projection.

    Args:
        model: A causal model.
        resid: `[..., d_model]`, raw residuals before or after any block; any float dtype.

    Returns:
        `[..., d_in]` in the model's dtype; d_in is d_model except in opt-350m.

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If `model` carries no head.
    """
    resid = resid.to(unembedding_of(model).weight.dtype)
    path = architecture_for(model.config).project_out
    for module in (final_norm_of(model), _module_at(model, path)):
        if module is not None:
            resid = module(resid)
    return resid


def logits_of(model: PreTrainedModel, resid: Tensor) -> Tensor:
    """The logits that the model would give if its last block had returned `resid`.

    Nothing is upcast: turn them to float32 before a softmax. Memory is that of the logits; hand
    over as many positions at a time as fit.

    Args:
        model: A causal model, on the device of `resid`.
        resid: `[..., d_model]`, raw residuals before or after any block; any float dtype.

    Returns:
        `[..., d_vocab]` in the model's dtype, soft-capped where the model caps its logits. For the
        last block's residuals in the shape `[batch, token, d_model]` they are bit-equal to the
        model's own.

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If `model` carries no head.
    """
    logits = cast("Tensor", unembedding_of(model)(unembedding_input(model, resid)))
    return capped(model, logits)


def capped(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """What the model makes of its unembedding's output: c x tanh(logits / c), or nothing.

    Args:
        model: A causal model or its base model.
        logits: `[..., d_vocab]`, or any part of them: the cap is element-wise and monotonic.

    Returns:
        The same shape and dtype; `logits` itself where the model has no cap.
    """
    name = architecture_for(model.config).logit_cap
    cap: float | None = getattr(text_config(model.config), name) if name else None
    return logits if cap is None else torch.tanh(logits / cap) * cap


def rescored(model: PreTrainedModel, resid: Tensor, logits: Tensor, n_rescored: int = 64) -> Tensor:
    """A model's logits, the largest of them free of the rounding of a 16-bit product.

    Models in 16 bits round their logits to 8 or 11 binary digits, so that the largest two may tie
    or change places. The normed residual times the unembedding's rows in float32 tells them apart.

    Args:
        model: A causal model.
        resid: `[d_model]`, the residual after the last block that gave the logits.
        logits: `[d_vocab]`, the model's own, soft-capped where it caps them; any float dtype.
        n_rescored: How many of the largest are computed again; less where the vocabulary is.

    Returns:
        float32 `[d_vocab]`; of a float32 model `logits` itself.

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If `model` carries no head.
    """
    head = unembedding_of(model)
    if head.weight.dtype == torch.float32:
        return logits
    ids = logits.topk(min(n_rescored, len(logits))).indices
    found = logits.float().clone()
    found[ids] = exact_logits(model, resid, ids)
    return found


def exact_logits(model: PreTrainedModel, resid: Tensor, ids: Tensor) -> Tensor:
    """Logits of some tokens, the products with the normed residual in float32.

    Args:
        model: A causal model.
        resid: `[..., d_model]`, raw residuals before or after any block; any float dtype.
        ids: `[..., token]` int64, the same leading axes.

    Returns:
        float32 `[..., token]`, soft-capped where the model caps its logits.
    """
    head = unembedding_of(model)
    inputs = unembedding_input(model, resid).float()
    logits = (head.weight[ids].float() @ inputs[..., None])[..., 0]
    return capped(model, logits if head.bias is None else logits + head.bias[ids].float())


def _module_at(model: PreTrainedModel, path: str | None) -> nn.Module | None:
    """The module at a path in the base model; None for no path or where the model left it out."""
    # Not get_submodule: it raises where the attribute is None.
    return None if path is None else cast("nn.Module | None", attrgetter(path)(model.base_model))
