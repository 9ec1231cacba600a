"""How unevenly a unit fires over tasks: specialization indices, and what firing tells of the task.

Counts are `[..., task, unit]`, tokens on which a unit fires; tokens are `[..., task]`, all of a
task's. Natural logarithms throughout.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr, rel_entr
from torch import Tensor

Numbers = NDArray[np.number[Any]]


def plain_index(counts: Numbers) -> NDArray[np.float64]:
    """1 - H(P) / ln K with P_t = c_t / sum_t c_t: counts alone, whatever the tasks' sizes.

    Biased: a task with more tokens counts for more, and a unit that fires once has index 1.
    Here for comparison with what earlier work printed.

    Args:
        counts: `[..., task, unit]` >= 0.

    Returns:
        `[..., unit]` in [0, 1]; NaN for a unit that never fires, and for fewer than two tasks.
    """
    totals = counts.sum(axis=-2, keepdims=True, dtype=np.float64)
    shares = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return _one_less(entr(shares).sum(axis=-2), counts.shape[-2])


def _one_less(entropy_nats: NDArray[np.float64], n_tasks: int) -> NDArray[np.float64]:
    """1 - H / ln K, kept in [0, 1] against rounding; NaN for fewer than two tasks."""
    if n_tasks < 2:
        return np.full_like(entropy_nats, np.nan)
    index: NDArray[np.float64] = np.clip(1 - entropy_nats / math.log(n_tasks), 0, 1)
    return index


def firing_rates(counts: Numbers, n_tokens: Numbers) -> NDArray[np.float64]:
    """Rates (c + 1/2) / (N + 1): the posterior mean under Jeffreys' prior, in (0, 1).

    Args:
        counts: `[..., task, unit]`.
        n_tokens: `[..., task]`.

    Returns:
        `[..., task, unit]`.
    """
    rates = (counts + 0.5) / (n_tokens[..., None] + 1.0)
    return rates.astype(np.float64)


def specialization_index(counts: Numbers, n_tokens: Numbers) -> NDArray[np.float64]:
    """1 - H(P) / ln K with P_t = r_t / sum_t r_t of the rates: 0 even, near 1 for one task alone.

    Args:
        counts: `[..., task, unit]`, each at most its task's tokens.
        n_tokens: `[..., task]`.

    Returns:
        `[..., unit]` in [0, 1); NaN for fewer than two tasks. A unit that never fires has the
        meaningless value of its prior.

    Source: Tang et al. (2024), "Language-specific neurons", section 3 (entropy of normalized
    activation probabilities), here as one minus it, with Jeffreys' counts.
    """
    tokens = torch.from_numpy(n_tokens.astype(np.float64))
    index: NDArray[np.float64] = index_of_counts_(
        torch.from_numpy(counts.astype(np.float64)), tokens
    ).numpy()
    return index


def index_of_counts_(counts: Tensor, n_tokens: Tensor) -> Tensor:
    """`specialization_index` in the type of `counts`, which it destroys.

    With x_t = K P_t, of mean 1, the index is sum_t (x ln x - (x - 1)) / (K ln K): terms that
    are small where rates are even, so that float32 is off by 1e-7 at most.

    Args:
        counts: `[..., task, unit]` float32 or float64.
        n_tokens: `[..., task]` of the same type.

    Returns:
        `[..., unit]`.
    """
    n_tasks = counts.shape[-2]
    rates = counts.add_(0.5).div_(n_tokens[..., None] + 1)
    rates.mul_(n_tasks / rates.sum(dim=-2, keepdim=True))
    terms = rates.log().mul_(rates).sub_(rates.sub_(1))
    return terms.sum(dim=-2).div_(n_tasks * math.log(n_tasks)).clamp_(0, 1)


def preferred_task(counts: Numbers, n_tokens: Numbers) -> NDArray[np.int64]:
    """The task in which each unit has its highest rate, the first of equals.

    Args:
        counts: `[..., task, unit]`.
        n_tokens: `[..., task]`.

    Returns:
        `[..., unit]` index of a task.
    """
    highest: NDArray[np.int64] = firing_rates(counts, n_tokens).argmax(axis=-2)
    return highest


def mutual_information_nats(counts: Numbers, n_tokens: Numbers) -> NDArray[np.float64]:
    """I(task; fires) over tokens: what one token's firing tells of its task, without correction.

    Args:
        counts: `[..., task, unit]`.
        n_tokens: `[..., task]`, > 0 in sum.

    Returns:
        `[..., unit]` in [0, ln 2]; 0 for a unit that fires always or never.
    """
    shares = n_tokens / n_tokens.sum(axis=-1, keepdims=True)
    firing = counts / n_tokens.sum(axis=-1)[..., None, None]
    silent = np.maximum(shares[..., None] - firing, 0)
    information: NDArray[np.float64] = sum(
        rel_entr(joint, shares[..., None] * joint.sum(axis=-2, keepdims=True)).sum(axis=-2)
        for joint in (firing, silent)
    )
    return np.maximum(information, 0)
