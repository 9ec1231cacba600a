"""Sums over a vocabulary of rounded logits, after the logits that matter are known exactly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FADING_NATS = 0.25


class Terms(NamedTuple):
    """Logits of some tokens, rounded as they are in the sums, and exact; `[..., candidate]`."""

    rounded: Tensor
    exact: Tensor


def faded(terms: Terms) -> Terms:
    """Exact logits that become the rounded ones towards the least of the candidates."""
    above = terms.rounded - terms.rounded.amin(-1, keepdim=True)
    share = (above / FADING_NATS).clamp(0, 1)
    return Terms(terms.rounded, terms.rounded.lerp(terms.exact, share))


def replaced_normalizer(normalizer: Tensor, terms: Terms) -> Tensor:
    """The logarithm of a sum of exp(logit), exact terms in the place of rounded ones.

    Args:
        normalizer: float64 `[...]`, of the rounded logits.
        terms: of the most probable tokens.
    """
    largest = normalizer.maximum(terms.exact.amax(-1).double())
    was, now = ((logits.double() - largest[..., None]).exp().sum(-1) for logits in terms)
    # What is left may round to less than nothing where the candidates have it all.
    rest = ((normalizer - largest).exp() - was).clamp_min(0)
    return largest + (rest + now).log()


def replaced_mean(
    mean: Tensor, normalizers: tuple[Tensor, Tensor], weights: Terms, values: Terms
) -> Tensor:
    """A mean over all tokens weighted by probability, exact terms in the place of rounded ones.

    Args:
        mean: float64 `[...]`, sum of p x value with rounded p and values.
        normalizers: of the rounded logits behind p, and the replaced one.
        weights: logits behind p.
        values: of the same tokens.
    """
    before, after = normalizers
    was, now = ((logits.double() - after[..., None]).exp() for logits in weights)
    removed, added = (was * values.rounded).sum(-1), (now * values.exact).sum(-1)
    return mean * (before - after).exp() - removed + added


def expected_error(normalizer: Tensor, terms: Terms) -> Tensor:
    """How far off, at one standard deviation, the largest probability still is.

    The terms beyond the n candidates are off by as much as the candidates were, independently.
    Their probabilities are taken to fall as a power of their rank, from the least candidate's, p,
    so that their squares sum to n p^2 q / (2 n p + q), where q is what they sum to.

    Args:
        normalizer: `[...]`, the replaced one.
        terms: of the candidates.
    """
    error = (terms.rounded - terms.exact).square().mean(-1).sqrt()
    probabilities = (terms.exact - normalizer[..., None]).exp()
    rest = (1 - probabilities.sum(-1)).clamp_min(0)
    least = probabilities.amin(-1)
    alike = least * probabilities.shape[-1]
    squares = (alike * least * rest / (2 * alike + rest)).nan_to_num(0)
    found: Tensor = probabilities.amax(-1) * error * squares.sqrt()
    return found


def rank_corrections(own: Terms, ids: Tensor, asked: Terms, wanted: Tensor) -> Tensor:
    """What to add to ranks by rounded logits, so that candidates count by their exact ones.

    Args:
        own: of the candidates `ids`, `[token, state, candidate]`.
        ids: the same shape.
        asked: of the wanted tokens, `[token, state, wanted]`.
        wanted: their ids, `[token, wanted]`.

    Returns:
        `[token, state, wanted]` float32. No token is larger than itself.
    """
    logits = asked.exact[..., None]
    other = ids[:, :, None] != wanted[:, None, :, None]
    added = ((own.exact[:, :, None] > logits) & other).sum(-1)
    counted = (own.rounded[:, :, None] > logits).sum(-1)
    itself = (asked.rounded > asked.exact) & other.all(-1)
    return (added - counted).to(torch.float32) - itself.to(torch.float32)
