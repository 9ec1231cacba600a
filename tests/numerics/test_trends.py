import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sdlms.numerics.trends import COVERAGE_OF_FEW, slope_interval, slope_per_decade, spearman

SIZES = np.array([379_824, 1_037_376, 2_389_248, 9_000_000, 70_000_000])


@pytest.mark.parametrize("n_models", [3, 5, 8, 12])
@pytest.mark.parametrize("tied", [False, True])
def test_rho_is_that_of_scipy(n_models: int, tied: bool) -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        sizes = generator.integers(1, 4 if tied else 10**9, size=n_models)
        values = generator.integers(0, 3, size=n_models) / 2 if tied else generator.random(n_models)
        if len(set(sizes)) == 1 or len(set(values)) == 1:
            continue
        expected = stats.spearmanr(sizes, values).statistic
        assert spearman(sizes, values).rho == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_models", [2, 3, 4, 6, 7])
def test_p_is_exact_up_to_eight_models(n_models: int) -> None:
    generator = np.random.default_rng(n_models)
    for tied in (False, True):
        sizes = np.arange(1, n_models + 1) // (1 + tied)
        values = (
            generator.integers(0, 3, size=n_models) * 1.0 if tied else generator.random(n_models)
        )
        if len(set(sizes)) == 1 or len(set(values)) == 1:
            continue
        expected = stats.permutation_test(
            (values,),
            lambda y, x=sizes: stats.spearmanr(x, y).statistic,
            permutation_type="pairings",
            n_resamples=np.inf,
        )
        hits = np.abs(expected.null_distribution) >= abs(expected.statistic) - 1e-12
        assert spearman(sizes, values).p_value == pytest.approx(hits.mean(), abs=1e-12)


def test_p_cannot_be_small_with_few_models() -> None:
    assert spearman(SIZES[:3], np.array([0.1, 0.2, 0.3])) == (1, pytest.approx(1 / 3))
    assert spearman(SIZES[:4], np.array([0.4, 0.3, 0.2, 0.1])) == (-1, pytest.approx(1 / 12))
    assert spearman(SIZES, np.arange(5.0)) == (1, pytest.approx(2 / 120))


def test_p_of_many_models_is_that_of_scipy_nearly() -> None:
    generator = np.random.default_rng(1)
    sizes = np.arange(1, 21)
    values = 0.15 * sizes + generator.normal(size=20) * 2
    expected = stats.spearmanr(sizes, values).pvalue
    found = spearman(sizes, values)
    assert 0.001 < expected < 0.5
    assert found.p_value == pytest.approx(expected, abs=4 * math.sqrt(expected / 9_999) + 0.005)
    assert spearman(sizes, values) == found
    assert spearman(np.arange(20), np.arange(20.0)).p_value == pytest.approx(1e-4)


def test_p_is_uniform_where_there_is_no_trend() -> None:
    """Each p of five models is as rare as it says."""
    sizes = np.arange(5)
    found = [
        spearman(sizes, np.array(order, dtype=float)).p_value
        for order in itertools.permutations(range(5))
    ]
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(found) <= level) <= level


def test_rank_order_alone_matters() -> None:
    values = np.array([0.3, 0.1, 0.8, 0.75, 0.9])
    assert spearman(SIZES, np.exp(50 * values)) == spearman(np.log10(SIZES), values)


def test_no_spread_is_nan() -> None:
    for sizes, values in (
        (SIZES, np.full(5, 0.1)),
        (np.full(5, 7), np.arange(5.0)),
        (SIZES[:1], np.ones(1)),
        (SIZES[:0], np.ones(0)),
    ):
        assert all(map(math.isnan, spearman(sizes, values)))
    assert slope_per_decade(SIZES, np.full(5, 0.1)) == 0
    assert slope_interval(SIZES, np.full(5, 0.1)) == (0, 0)
    assert math.isnan(slope_per_decade(np.full(5, 7), np.arange(5.0)))
    assert math.isnan(slope_per_decade(SIZES[:0], np.ones(0)))


def test_the_slope_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).random(5)
    expected = stats.linregress(np.log10(SIZES), values).slope
    assert slope_per_decade(SIZES, values) == pytest.approx(expected, rel=1e-12)
    assert slope_per_decade(SIZES * 1000, values) == pytest.approx(expected, rel=1e-9)
    assert slope_per_decade(np.array([10, 1000]), np.array([1.0, 2.0])) == pytest.approx(0.5)


def test_the_interval_is_that_of_resamples_one_by_one() -> None:
    generator = np.random.default_rng(2)
    values = generator.random(5)
    draws = np.random.default_rng(9).integers(5, size=(300, 5))
    slopes = [
        stats.linregress(np.log10(SIZES[draw]), values[draw]).slope
        for draw in draws
        if len(set(draw)) > 1
    ]
    expected = np.quantile(slopes, [0.025, 0.975])
    assert slope_interval(SIZES, values, n_resamples=300, seed=9) == pytest.approx(expected)


def test_three_models_give_slopes_between_two_of_them() -> None:
    sizes, values = np.array([10, 100, 1000]), np.array([1.0, 2.0, 5.0])
    assert slope_interval(sizes, values) == pytest.approx((1, 3))


def test_a_line_has_an_interval_without_width_and_the_order_does_not_matter() -> None:
    low, high = slope_interval(SIZES, 0.25 * np.log10(SIZES) - 1)
    assert (low, high) == (pytest.approx(0.25), pytest.approx(0.25))
    values, order = np.random.default_rng(3).random(5), np.array([3, 0, 4, 1, 2])
    assert slope_interval(SIZES, values) == slope_interval(SIZES[order], values[order])
    assert slope_interval(SIZES, values, seed=1) != slope_interval(SIZES, values, seed=2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 12 models with noise; percentile intervals of so few cases are known to be narrow."""
    sizes = np.geomspace(1e6, 1e10, 12)
    covered = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(size=12) * 0.1
        low, high = slope_interval(sizes, 0.2 * np.log10(sizes) + noise, n_resamples=400, seed=seed)
        covered += low <= 0.2 <= high
    assert 0.85 <= covered / 200 <= 0.985


@pytest.mark.parametrize("n_models", sorted(COVERAGE_OF_FEW))
def test_how_often_the_interval_of_few_models_covers_is_exact(n_models: int) -> None:
    """Every order of one noise is as likely; the truth, a slope of 0.2, lies in these intervals."""
    sizes = np.geomspace(1e6, 1e9, n_models)
    noise = np.random.default_rng(4).normal(size=n_models)
    orders = list(itertools.permutations(noise.tolist()))
    covered = 0
    for order in orders:
        low, high = slope_interval(sizes, 0.2 * np.log10(sizes) + order, n_resamples=3000)
        covered += low <= 0.2 <= high
    assert covered / len(orders) == pytest.approx(COVERAGE_OF_FEW[n_models])


def test_fewer_than_three_sizes_have_no_interval() -> None:
    sizes = np.array([100, 100, 1000, 1000])
    assert all(map(math.isnan, slope_interval(sizes, np.arange(4.0))))
    assert not math.isnan(slope_per_decade(sizes, np.arange(4.0)))
    # One resample, and that of one size only.
    seed = next(s for s in range(99) if not np.ptp(np.random.default_rng(s).integers(3, size=3)))
    found = slope_interval(np.array([1, 10, 100]), np.arange(3.0), n_resamples=1, seed=seed)
    assert all(map(math.isnan, found))


def test_wrong_arguments_are_refused() -> None:
    values = np.arange(5.0)
    with pytest.raises(ValueError, match=r"must be \[model\]"):
        spearman(SIZES[:4], values)
    with pytest.raises(ValueError, match="finite"):
        spearman(SIZES, np.array([0, 1, 2, 3, np.nan]))
    with pytest.raises(ValueError, match="> 0"):
        slope_per_decade(np.arange(5), values)
    with pytest.raises(ValueError, match="n_resamples"):
        slope_interval(SIZES, values, n_resamples=0)
    with pytest.raises(ValueError, match="level"):
        slope_interval(SIZES, values, level=95)
