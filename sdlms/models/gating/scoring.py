"""Scores of neurons and inputs, and the masks of those that are kept by them.

Scores are compared in float32 and ties fall in index order, so that masks and both backends keep
the very same neurons: bfloat16 has many ties. NaN counts as the largest score, so that it is kept.
"""

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max


def output_norms(weight: Tensor, neurons: int) -> Tensor:
    """l2 norm of what each neuron writes: `[neuron]` float32.

    Args:
        weight: of the down projection, any float dtype.
        neurons: the axis of the neurons in it.
    """
    norms: Tensor = torch.linalg.vector_norm(weight.detach(), dim=1 - neurons, dtype=torch.float32)
    return norms


def magnitudes(acts: Tensor, weights: Tensor | None) -> Tensor:
    """Scores abs(acts) x weights, float32 and finite; NaN and infinity give the largest float.

    Args:
        acts: `[..., unit]`, any float dtype.
        weights: `[unit]` float32; None for ones.
    """
    scores = acts.detach().abs().float()
    if weights is not None:
        scores = scores * weights
    return scores.nan_to_num_(nan=LARGEST, posinf=LARGEST)


def largest_mask(scores: Tensor, n: int) -> Tensor:
    """The n largest of every row, exactly n: among equal scores the lower index comes first.

    Args:
        scores: `[..., unit]` without NaN; floats or integers.
        n: 1 to n_units.

    Returns:
        bool, of the shape of `scores`.
    """
    if n == scores.shape[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    least = scores.topk(n, sorted=False).values.amin(-1, keepdim=True)
    mask = scores >= least
    crowded = mask.sum(-1) > n
    if bool(crowded.any()):
        mask[crowded] = _cut(scores[crowded], least[crowded], n)
    return mask


def _cut(scores: Tensor, least: Tensor, n: int) -> Tensor:
    """As `largest_mask`, of rows where more than n reach the least score that is kept."""
    above, tied = scores > least, scores == least
    room = n - above.sum(-1, keepdim=True)
    return above | (tied & (tied.cumsum(-1) <= room))


def share_counts(scores: Tensor, share: float) -> Tensor:
    """How many of the largest scores hold a share of their row's sum: int64 `[row]`, at least 1.

    Args:
        scores: `[row, unit]`, finite, not negative.
        share: in [0, 1].
    """
    held = scores.sort(-1, descending=True).values.double().cumsum(-1)
    return 1 + (held[:, :-1] < share * held[:, -1:]).sum(-1)
