"""Critical sparsity is where a curve first rises above 1 %, and says so where it never does."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.dynamic.critical import CRITICAL_RATIO, Critical, critical_of, first_crossing
from sdlms.dynamic.estimates import NOT_FINITE, ONE_DOCUMENT
from sdlms.dynamic.losses import DocumentLosses
from sdlms.dynamic.resampling import resampled
from tests.dynamic.made_losses import at_random, made, worse

KEPT = [0.1, 0.3, 0.5, 0.7]
LIMIT = math.log(CRITICAL_RATIO)


def crossing(kept: list[float], ratios: list[float]) -> tuple[float, float, bool]:
    found = first_crossing(np.array(kept)[:, None], np.log(ratios)[:, None, None])
    return found.sparsity.item(), found.grid.item(), found.reached.item()


def plain(kept: list[float], ratios: list[float]) -> float:
    """Walk the broken line from kept fraction 1 in small steps until it is above the limit."""
    points = sorted([(0.0, 0.0), *zip(1 - np.array(kept), np.log(ratios), strict=True)])
    sparsities, logs = zip(*points, strict=True)
    walk = np.linspace(0, sparsities[-1], 200_001)
    above = np.flatnonzero(np.interp(walk, sparsities, logs) > LIMIT)
    return float(walk[above[0]] if len(above) else walk[-1])


@pytest.mark.parametrize(
    ("ratios", "grid"),
    [
        ([1.9, 1.2, 1.05, 1.002], 0.3),  # convex
        ([1.5, 1.005, 1.04, 1.001], 0.3),  # falls below the limit again
        ([1.9, 1.2, 1.05, 1.02], 0.0),  # at the first point
        ([1.9, 0.99, 0.98, 0.99], 0.7),  # better than dense for a while
        ([1.009, 1.005, 1.002, 1.001], 0.9),  # never
        ([1.9, 1.2, 1.01, 1.002], 0.5),  # just on the limit is within it
    ],
)
def test_curves_against_a_walk_along_them(ratios: list[float], grid: float) -> None:
    sparsity, own_grid, reached = crossing(KEPT, ratios)
    assert sparsity == pytest.approx(plain(KEPT, ratios), abs=1e-5)
    assert own_grid == pytest.approx(grid)
    assert reached == (max(ratios) > CRITICAL_RATIO)
    order = [2, 0, 3, 1]
    assert crossing([KEPT[n] for n in order], [ratios[n] for n in order])[0] == sparsity


def test_between_two_points_by_hand() -> None:
    sparsity, grid, reached = crossing([0.5, 0.4], [1.0, 1.02])
    assert sparsity == pytest.approx(0.5 + 0.1 * math.log(1.01) / math.log(1.02))
    assert (grid, reached) == (0.5, True)
    sparsity, grid, _ = crossing([0.5], [1.01**2])
    assert (sparsity, grid) == (pytest.approx(0.25), 0.0)


def test_points_of_one_kept_fraction_are_a_step() -> None:
    assert crossing([0.5, 0.5], [1.0, 1.5])[0] == 0.5


def test_a_forced_point_at_kept_fraction_1_moves_nothing() -> None:
    assert crossing([0.5, 1.0], [1.0201, 1.0000001])[0] == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_above_the_limit_at_once(bad: float) -> None:
    assert crossing([0.5, 0.3, 0.1], [1.001, bad, 1.001]) == (0.5, 0.5, True)
    assert crossing([0.5], [bad]) == (0.0, 0.0, True)


def test_draws_and_seeds_are_crossed_each_on_its_own() -> None:
    generator = np.random.default_rng(0)
    kept = np.sort(generator.uniform(0.05, 0.95, (4, 3)), axis=0)
    logs = generator.normal(0.01, 0.02, (4, 50, 3))
    found = first_crossing(kept, logs)
    assert found.sparsity.shape == found.grid.shape == found.reached.shape == (50, 3)
    for draw in range(50):
        for seed in range(3):
            own = first_crossing(kept[:, [seed]], logs[:, [draw]][:, :, [seed]])
            assert own.sparsity.item() == found.sparsity[draw, seed]
    assert (found.grid <= found.sparsity).all()


class TestCritical:
    def dense(self) -> list[DocumentLosses]:
        return [at_random(0), at_random(1)._replace(ids=[f"other-{n}" for n in range(30)])]

    def of(
        self,
        dense: list[DocumentLosses],
        gated: list[list[DocumentLosses]],
        kept: NDArray[np.float64],
        task: int | None = None,
    ) -> Critical:
        points = [resampled(one, 0) for one in gated]
        return critical_of(resampled(dense, 0), points, kept, task)

    def test_the_mean_over_seeds_with_interval_and_spread(self) -> None:
        dense, generator = self.dense(), np.random.default_rng(2)
        gated = [
            [
                one._replace(sums=one.sums + one.counts * generator.normal(nats, nats, 30))
                for one in dense
            ]
            for nats in (0.3, 0.02, 0.001)
        ]
        kept = np.array([[0.1, 0.11], [0.5, 0.52], [0.7, 0.7]])
        found = self.of(dense, gated, kept)
        single = [self.of([dense[n]], [[one[n]] for one in gated], kept[:, [n]]) for n in range(2)]
        values = [one.value for one in single]
        assert found.value == pytest.approx(np.mean(values))
        assert found.std == pytest.approx(np.std(values, ddof=1))
        assert math.isnan(single[0].std)
        assert found.low < found.value < found.high
        assert found.grid == pytest.approx(0.3)
        assert found.reason == ""
        for task in (0, 1):
            own = self.of(dense, gated, kept, task)
            assert own.value != found.value and 0.3 < own.value < 0.9

    def test_the_interval_is_that_of_the_draws(self) -> None:
        """All documents lose alike: there is nothing to be unsure about."""
        dense = self.dense()[:1]
        gated = [[worse(dense[0], nats)] for nats in (0.1, LIMIT / 2)]
        found = self.of(dense, gated, np.array([[0.3], [0.6]]))
        step = (LIMIT / 2) / (0.1 - LIMIT / 2)
        assert found[:3] == pytest.approx([0.4 + 0.3 * step] * 3)

    def test_never_reached(self) -> None:
        dense = self.dense()
        gated = [[worse(one, 0.001) for one in dense]]
        found = self.of(dense, gated, np.array([[0.2], [0.2]]).T)
        assert found[:5] == pytest.approx((0.8, 0.8, 0.8, 0, 0.8))
        assert found.reason == "not reached"

    def test_reached_in_one_seed_only(self) -> None:
        dense = self.dense()
        gated = [[worse(dense[0], 0.001), worse(dense[1], 2 * LIMIT)]]
        found = self.of(dense, gated, np.array([[0.2, 0.2]]))
        assert found.value == pytest.approx((0.8 + 0.4) / 2)
        assert found.reason == "not reached in 1 of 2 seeds"

    def test_an_upper_end_that_is_a_lower_bound_is_named(self) -> None:
        dense, generator = self.dense()[:1], np.random.default_rng(0)
        change = generator.normal(0, 0.05, 30)
        change += LIMIT * 1.05 - (change * dense[0].counts).sum() / dense[0].counts.sum()
        gated = [[dense[0]._replace(sums=dense[0].sums + dense[0].counts * change)]]
        found = self.of(dense, gated, np.array([[0.2]]))
        assert found.value == pytest.approx(0.8 / 1.05)
        assert found.high == pytest.approx(0.8)
        assert found.reason == "upper end not reached"

    def test_no_sparsity_was_measured(self) -> None:
        found = self.of(self.dense(), [], np.zeros((0, 2)))
        assert found[:5] == (0, 0, 0, 0, 0)
        assert found.reason == "no sparsity was measured"

    def test_a_loss_that_is_not_finite(self) -> None:
        dense = self.dense()[:1]
        bad = dense[0].sums.copy()
        bad[3] = np.inf
        gated = [[dense[0]._replace(sums=bad)], [worse(dense[0], 0.001)]]
        found = self.of(dense, gated, np.array([[0.1], [0.4]]))
        assert found.value == found.grid == pytest.approx(0.6)
        assert found.reason == NOT_FINITE

    def test_one_document_has_no_interval(self) -> None:
        dense = made([2.0], [10])
        found = self.of([dense], [[worse(dense, 2 * LIMIT)]], np.array([[0.2]]))
        assert found.value == pytest.approx(0.4)
        assert math.isnan(found.low) and math.isnan(found.high)
        assert found.reason == ONE_DOCUMENT

    def test_an_interval_from_few_documents_is_doubted(self) -> None:
        dense = made([200.0] * 12, [100] * 12, [0] * 9 + [1] * 3)
        for task, n_documents in ((None, 3), (0, 9), (1, 3)):
            found = self.of([dense], [[worse(dense, 2 * LIMIT)]], np.array([[0.2]]), task)
            assert found.reason == f"interval from {n_documents} documents"
        found = self.of([dense], [[worse(dense, 0.001)]], np.array([[0.2]]))
        assert found.reason == "interval from 3 documents; not reached"

    def test_other_tokens_are_refused(self) -> None:
        dense = self.dense()[:1]
        other = [[dense[0]._replace(counts=dense[0].counts + 1)]]
        with pytest.raises(ValueError, match="measured in other tokens"):
            self.of(dense, other, np.array([[0.2]]))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Two points, on which a document loses 0 and 3 LIMIT on average: the line crosses at 1/3."""
    truth, n_sets, held = 0.4 + 0.4 / 3, 200, 0
    generator = np.random.default_rng(1)
    for number in range(n_sets):
        counts = generator.integers(50, 150, 60)
        dense = made(counts * generator.normal(2, 0.5, 60), counts)
        gated = [
            dense._replace(sums=dense.sums + counts * generator.normal(mean, 0.03, 60))
            for mean in (3 * LIMIT, 0)
        ]
        points = [resampled([one], number) for one in gated]
        kept = np.array([[0.2], [0.6]])
        found = critical_of(resampled([dense], number), points, kept, None)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / n_sets <= 0.985
