"""Critical sparsity: the largest share that can be left out before perplexity rises by 1 %."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.dynamic.estimates import NOT_FINITE, doubt_of, estimate_of
from sdlms.dynamic.resampling import Floats, Resampled

CRITICAL_RATIO = 1.01


class Crossing(NamedTuple):
    """Where curves first exceed the limit.

    Attributes:
        sparsity: `[draw, seed]` in [0, 1); the largest that was measured where none exceeds it.
        grid: `[draw, seed]`, the largest sparsity measured before that.
        reached: `[draw, seed]` bool, whether the limit is exceeded at all.
    """

    sparsity: Floats
    grid: Floats
    reached: NDArray[np.bool_]


class Critical(NamedTuple):
    """Critical sparsity of a model, a task or a layer, the mean over seeds where there are several.

    Attributes:
        value: interpolated; where the limit is not reached, the largest sparsity measured.
        low: lower end of the 95 % interval over documents; NaN where there is none.
        high: upper end; at most the largest sparsity measured.
        std: over seeds; NaN for one seed.
        grid: the largest sparsity measured at which, as at all smaller ones, the limit holds.
        reason: why there is no interval, or why `value` or `high` is a lower bound.
    """

    value: float
    low: float
    high: float
    std: float
    grid: float
    reason: str


def first_crossing(kept: Floats, log_ratios: Floats) -> Crossing:
    """Where the logarithm of the ratio first exceeds that of 1.01, from kept fraction 1 downwards.

    At kept fraction 1 nothing is lost. Between neighbouring points the logarithm is taken as
    linear. A curve that falls below the limit again has crossed it all the same.

    Args:
        kept: `[point, seed]` kept fractions in (0, 1], in any order.
        log_ratios: `[point, draw, seed]`, log(gated / dense perplexity); NaN and infinity are
            above the limit.

    Source: Luo et al. (2024), "Sparsing Law": CETT-PPL-1%, the sparsity at which perplexity rises
    by 1 %.
    """
    n_draws, n_seeds = log_ratios.shape[1:]
    order = np.argsort(-kept, axis=0, kind="stable")
    sparsities = 1 - np.take_along_axis(kept, order, axis=0)
    ratios = np.take_along_axis(log_ratios, order[:, None, :], axis=0)
    limit = np.log(CRITICAL_RATIO)
    sparsity, grid = np.zeros((2, n_draws, n_seeds))
    reached = np.zeros((n_draws, n_seeds), dtype=np.bool_)
    before = np.zeros((n_draws, n_seeds))
    for own, after in zip(sparsities, ratios, strict=True):
        above = ~reached & ~(after <= limit)
        below = ~reached & (after <= limit)
        step = np.zeros_like(before)
        # Nothing is added on the way to NaN and infinity: the limit is exceeded at once.
        np.divide(limit - before, after - before, out=step, where=above & np.isfinite(after))
        sparsity = np.where(above, grid + step * (own - grid), np.where(below, own, sparsity))
        grid, before = np.where(below, own, grid), np.where(below, after, before)
        reached |= above
    return Crossing(sparsity, grid, reached)


def critical_of(
    dense: Resampled, gated: Sequence[Resampled], kept: Floats, task: int | None
) -> Critical:
    """Critical sparsity from measured points.

    Args:
        dense: losses of the dense model.
        gated: those of each point, drawn with the same seed.
        kept: `[point, seed]` kept fractions that were achieved, in (0, 1].
        task: from 0; None for all tokens of all tasks.

    Raises:
        ValueError: the points are not of the same tokens.
    """
    if any(not np.array_equal(dense.counts, one.counts) for one in gated):
        raise ValueError("the dense and the gated model were measured in other tokens")
    before = dense.nats(task)
    changes = [one.nats(task) - before for one in gated]
    crossing = first_crossing(kept, np.array(changes).reshape(len(changes), *before.shape))
    known, finite = dense.has_interval(task), all(np.isfinite(one[0]).all() for one in changes)
    draws = np.where(dense.absent(task), np.nan, crossing.sparsity)
    found = estimate_of(draws, known)
    reasons = [
        doubt_of(dense, task),
        "" if finite else NOT_FINITE,
        _not_reached(crossing.reached, len(changes), known),
    ]
    reason = "; ".join(one for one in reasons if one)
    return Critical(*found, float(crossing.grid[0].mean()), reason)


def _not_reached(reached: NDArray[np.bool_], n_points: int, has_interval: bool) -> str:
    """Whether the value, or only the upper end, is no more than a lower bound."""
    if not n_points:
        return "no sparsity was measured"
    n_short = int((~reached[0]).sum())
    if n_short == len(reached[0]):
        return "not reached"
    if n_short:
        return f"not reached in {n_short} of {len(reached[0])} seeds"
    short = (~reached[1:]).any(axis=1).mean()
    return "upper end not reached" if has_interval and short > 0.025 else ""
