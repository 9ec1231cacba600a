"""A model whose residual stream is edited at one place, and what of its loss that keeps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import GPTNeoXForCausalLM

from evaluation.losses import END, token_losses

Edit = Callable[[Tensor], Tensor]


@contextmanager
def replacing(block: nn.Module, ids: Tensor, edit: Edit) -> Iterator[None]:
    """Replace the output of a block by an edit of it, save at special tokens.

    Args:
        block: Its output is the residual stream after it, `[document, token, d_model]`.
        ids: `[document, token]` of the forwards inside the context.
        edit: From and to `[document, token, d_model]`.
    """
    special = (ids == END)[..., None]

    def hook(_: nn.Module, __: tuple[object, ...], resid: Tensor) -> Tensor:
        return torch.where(special, resid, edit(resid))

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def residuals(model: GPTNeoXForCausalLM, layer: int, ids: Tensor) -> Tensor:
    """`[token, d_model]` the residual stream after block `layer`, without special tokens."""
    found: list[Tensor] = []
    handle = model.gpt_neox.layers[layer].register_forward_hook(
        lambda _, __, resid: found.append(resid[ids != END])
    )
    try:
        model.gpt_neox(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return found[0]


@torch.no_grad()
def losses_under(
    model: GPTNeoXForCausalLM, layer: int, batches: Iterable[Tensor], edits: Mapping[str, Edit]
) -> dict[str, float]:
    """Nats per token with each edit spliced in after block `layer`.

    Args:
        model: In evaluation mode.
        layer: Block index from 0.
        batches: Ids `[document, token]`, begun by and right-padded with the end-of-text token.
        edits: What becomes of the residual stream, by name.
    """
    nats, n_tokens = dict.fromkeys(edits, 0.0), 0
    for ids in batches:
        n_tokens += int((ids[:, 1:] != END).sum())
        for name, edit in edits.items():
            with replacing(model.gpt_neox.layers[layer], ids, edit):
                nats[name] += float(token_losses(model, ids).double().sum())
    return {name: total / n_tokens for name, total in nats.items()}


def recovered(clean: float, replaced: float, ablated: float) -> float:
    """The share of what an ablation costs that a replacement saves: 1 is as good as clean."""
    return (ablated - replaced) / (ablated - clean)


def principal_projection(acts: Tensor, n_components: int) -> Edit:
    """Keep only the first principal components of `acts [token, d_model]`, and their mean."""
    mean = acts.mean(0)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.double)
    for some in acts.split(65_536):
        centred = (some - mean).double()
        covariance += centred.T @ centred
    _, directions = torch.linalg.eigh(covariance)  # in rising order
    kept = directions[:, -n_components:].to(acts.dtype)
    return lambda resid: mean + (resid - mean) @ kept @ kept.T
