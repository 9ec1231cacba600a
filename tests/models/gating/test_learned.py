"""Curves are read back, and shares of weights add up."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from sdlms.models.gating.learned import (
    QUANTILES,
    SHARES,
    Allocation,
    Learned,
    LearnedLayer,
    at,
    convex,
)


def path(errors: list[float]) -> Allocation:
    """One matrix, at even shares."""
    share = torch.linspace(0.05, 1, len(errors), dtype=torch.float64)
    return Allocation(share, share[:, None], torch.tensor(errors, dtype=torch.float64))


def layer(errors: list[float], held: torch.Tensor = SHARES) -> LearnedLayer:
    curve = QUANTILES.float()
    return LearnedLayer(
        scores=2 * curve,
        held=held,
        mean_scores=torch.ones(4),
        inputs=(curve,),
        allocation=path(errors),
        block=None,
    )


def test_a_curve_is_linear_between_its_points() -> None:
    for fraction in (0.0, 0.01234, 0.5, 0.99999, 1.0):
        assert at(3 * QUANTILES, fraction) == pytest.approx(3 * fraction)
    assert layer([1, 0]).least_score(0.25) == pytest.approx(1.5)
    assert layer([1, 0]).least_inputs(0.25) == pytest.approx([0.75])
    assert layer([1, 0]).least_inputs(1.0) == [-torch.inf]


def test_allocations_are_read_between_their_steps_and_beyond_their_end() -> None:
    steps = torch.tensor([[0.1, 0.3], [0.5, 0.5], [1.0, 1.0]], dtype=torch.float64)
    allocation = Allocation(steps.mean(1), steps, torch.zeros(3, dtype=torch.float64))
    assert allocation.keeps_at(0.2) == pytest.approx([0.1, 0.3])
    assert allocation.keeps_at(0.35) == pytest.approx([0.3, 0.4])
    assert allocation.keeps_at(1.0) == [1, 1]
    assert allocation.keeps_at(0.1) == pytest.approx([0.05, 0.15])


def test_the_hull_is_the_largest_convex_curve_below_the_points() -> None:
    x = np.linspace(0, 1, 12)
    y = np.random.default_rng(0).random(12)
    hull = convex(x, x, y)
    assert (hull <= y + 1e-12).all()
    assert (np.diff(hull, 2) >= -1e-12).all()
    for place in range(12):  # no chord between two points lies lower
        chords = [
            np.interp(x[place], x[[a, b]], y[[a, b]])
            for a, b in itertools.combinations(range(12), 2)
            if a <= place <= b
        ]
        assert hull[place] == pytest.approx(min(chords))


def test_shares_of_weights_have_the_mean_that_was_asked_for() -> None:
    layers = {0: layer([9, 3, 1, 0]), 1: layer([0.9, 0.3, 0.1, 0]), 2: layer([0.9, 0.3, 0.1, 0])}
    learned = Learned(layers)
    for keep in (0.01, 0.05, 0.123, 0.3, 0.5, 0.77, 0.999, 1.0):
        shares = learned.weight_shares(keep, [0, 1, 2])
        assert np.mean(list(shares.values())) == pytest.approx(keep)
        assert all(0 < share <= 1 for share in shares.values())
        assert shares[0] >= max(shares[1], shares[2]) - 0.011
        assert learned.weight_shares(keep, [1]) == {1: pytest.approx(keep)}
    assert learned.weight_shares(0.5, [0, 1, 2])[0] > 0.6
    assert learned.weight_shares(1.0, [0, 1]) == {0: 1.0, 1: 1.0}


def test_no_deal_of_weights_has_a_smaller_error() -> None:
    """All deals of two layers on the grid."""
    errors = ([5, 2, 0.5, 0.2, 0], [3, 2.5, 2, 1, 0])
    learned = Learned({number: layer(list(curve)) for number, curve in enumerate(errors)})
    grid = np.linspace(0.05, 1, 191)
    hulls = [convex(grid, np.linspace(0.05, 1, 5), np.array(curve)) for curve in errors]

    def total(first: float, second: float) -> float:
        return float(np.interp(first, grid, hulls[0]) + np.interp(second, grid, hulls[1]))

    for keep in (0.2, 0.4, 0.6, 0.8):
        shares = learned.weight_shares(keep, [0, 1])
        best = min(total(x, 2 * keep - x) for x in grid if 0.05 <= 2 * keep - x <= 1)
        assert total(shares[0], shares[1]) <= best + 0.05


def test_a_deal_that_was_not_learned_is_an_error_of_ours() -> None:
    bare = dataclasses.replace(layer([1, 0]), allocation=None)
    for ask in (bare.allocated, lambda: bare.least_inputs(0.5)):
        with pytest.raises(ValueError, match="allocation of the rule input was not learned"):
            ask()
    with pytest.raises(ValueError, match="was not learned"):
        Learned({0: layer([1, 0]), 1: bare}).weight_shares(0.5, [0, 1])
    assert Learned({0: bare}).score_share(0.3, [0]) == pytest.approx(0.3, abs=1e-3)


def test_one_share_of_scores_serves_all_layers() -> None:
    learned = Learned({0: layer([1, 0], SHARES**2), 1: layer([1, 0], SHARES)})
    assert learned.score_share(0.3, [1]) == pytest.approx(0.3, abs=1e-3)
    assert learned.score_share(0.25, [0]) == pytest.approx(0.5, abs=1e-3)
    both = learned.score_share(0.3, [0, 1])
    assert (both**2 + both) / 2 == pytest.approx(0.3, abs=1e-3)
