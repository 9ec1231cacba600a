"""How much a rule can save: bytes and floating-point operations, from shapes alone.

Decoding one text at a time is bound by reading weights, so the largest speedup that skipping
weights can bring is 1 / (share of the bytes still read); a prompt is bound by operations. The
key-value cache and the cost of choosing are left out. A limit can be passed where what is left fits
into a cache that all of it did not.
"""

from collections.abc import Container
from dataclasses import dataclass

from sdlms.models.gating.costs import LayerCosts, ModelCosts
from sdlms.models.gating.rules import Family, rule_of


@dataclass(frozen=True)
class Savings:
    """What is skipped, of the whole model and of its MLPs' matrices; 0 is nothing, 1 everything.

    Attributes:
        bytes_reduction: share of the weights that are not read.
        bytes_reduction_mlp: the same of the MLPs' matrices.
        flops_reduction: share of the floating-point operations that are not done.
        flops_reduction_mlp: the same of the MLPs' matrix products.
        limit: the largest speedup of the model that this can bring, infinite where nothing is
            left: in decoding by fewer bytes, in prefill by fewer operations.
        limit_mlp: the largest speedup of the MLPs.
    """

    bytes_reduction: float
    bytes_reduction_mlp: float
    flops_reduction: float
    flops_reduction_mlp: float
    limit: float
    limit_mlp: float


def decode_savings(
    costs: ModelCosts, rule: str, kept: float, context: int, layers: Container[int] | None = None
) -> Savings:
    """What one decoded token is spared.

    Args:
        costs: of the model.
        rule: what chooses.
        kept: the kept fraction really reached, mean over tokens and gated layers.
        context: tokens that the token sees, itself included.
        layers: that are gated; None for all.

    Raises:
        UserError: if there is no such rule.
    """
    skipped = _skipped(costs, rule_of(rule).family, kept, layers)
    share, of_mlp = skipped / costs.n_weights, skipped / costs.mlp
    return Savings(
        bytes_reduction=share,
        bytes_reduction_mlp=of_mlp,
        flops_reduction=2 * skipped / decode_flops(costs, context),
        flops_reduction_mlp=of_mlp,
        limit=_inverse(1 - share),
        limit_mlp=_inverse(1 - of_mlp),
    )


def prefill_savings(
    costs: ModelCosts, rule: str, kept: float, n_tokens: int, layers: Container[int] | None = None
) -> Savings:
    """What reading a prompt is spared.

    Only `static` saves anything: many tokens that choose for themselves together need all weights,
    and `sequence` has chosen when the prompt is over.

    Args:
        costs: of the model.
        rule: what chooses.
        kept: as `decode_savings`.
        n_tokens: of the prompt; the last one's logits are computed.
        layers: that are gated; None for all.

    Raises:
        UserError: if there is no such rule.
    """
    family = rule_of(rule).family
    skipped = _skipped(costs, family, kept, layers) if rule == "static" else 0.0
    flops, of_mlp = 2 * skipped * n_tokens / prefill_flops(costs, n_tokens), skipped / costs.mlp
    return Savings(
        bytes_reduction=skipped / costs.n_weights,
        bytes_reduction_mlp=of_mlp,
        flops_reduction=flops,
        flops_reduction_mlp=of_mlp,
        limit=_inverse(1 - flops),
        limit_mlp=_inverse(1 - of_mlp),
    )


def decode_flops(costs: ModelCosts, context: int) -> int:
    """Floating-point operations of one decoded token of the dense model.

    Two per weight, and attention's products of its queries with `context` keys and of the weights
    with as many values.
    """
    seen = sum(layer.query_width * _seen(layer, context) for layer in costs.layers)
    return 2 * costs.n_weights + 4 * seen


def prefill_flops(costs: ModelCosts, n_tokens: int) -> int:
    """The same of a prompt of the dense model, with the logits of its last token alone."""
    pairs = sum(layer.query_width * _pairs(layer, n_tokens) for layer in costs.layers)
    each = costs.n_weights - costs.unembedding
    return 2 * (n_tokens * each + costs.unembedding) + 4 * pairs


def _skipped(
    costs: ModelCosts, family: Family, kept: float, layers: Container[int] | None
) -> float:
    """Weights that a token does not need."""
    gated = [layer for n, layer in enumerate(costs.layers) if layers is None or n in layers]
    return (1 - kept) * sum(_choosable(layer, family) for layer in gated)


def _choosable(layer: LayerCosts, family: Family) -> int:
    """Numbers of one MLP's matrices that a rule chooses among."""
    return layer.down.n_weights if family == "down" else layer.mlp


def _seen(layer: LayerCosts, context: int) -> int:
    """Tokens that one token sees in a layer, itself included."""
    return context if layer.window is None else min(context, layer.window)


def _pairs(layer: LayerCosts, n_tokens: int) -> int:
    """Pairs of tokens of a prompt, one of which sees the other."""
    seen = _seen(layer, n_tokens)
    return seen * (seen + 1) // 2 + (n_tokens - seen) * seen


def _inverse(share: float) -> float:
    """1 / share."""
    return 1 / share if share > 0 else float("inf")
