"""Intervals of a ratio of sums over documents."""

import math

import numpy as np
import pytest

from sdlms.numerics import ratio_bootstrap
from sdlms.numerics.ratio_bootstrap import ratio_interval

TRUE_RATIO = 0.75


def documents(seed: int, n_documents: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Documents of uneven length, whose losses share most of what is their own."""
    generator = np.random.default_rng(seed)
    below = generator.gamma(2.0, size=n_documents) * generator.lognormal(size=n_documents)
    return TRUE_RATIO * below + generator.normal(size=n_documents) * np.sqrt(below) / 4, below


def test_resamples_agree_with_a_loop() -> None:
    above, below = documents(0, 11)
    order = np.argsort(below)
    draws, ratios = np.random.default_rng(5), []
    for _ in range(200):
        chosen = order[draws.integers(11, size=11)]
        ratios.append(sum(above[chosen]) / sum(below[chosen]))
    found = ratio_interval(above, below, n_resamples=200, seed=5)
    assert found == pytest.approx(np.quantile(ratios, [0.025, 0.975]))


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    intervals = [ratio_interval(*documents(seed, 100), 400, seed=seed) for seed in range(300)]
    covered = [low <= TRUE_RATIO <= high for low, high in intervals]
    assert 0.90 <= np.mean(covered) <= 0.985


def test_order_and_blocks_and_scale_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    above, below = documents(1)
    expected = ratio_interval(above, below)
    order = np.random.default_rng(0).permutation(len(above))
    assert ratio_interval(above[order], below[order]) == expected
    assert ratio_interval(8 * above, 8 * below) == expected
    assert ratio_interval(8 * above, below) == tuple(8 * end for end in expected)
    monkeypatch.setattr(ratio_bootstrap, "BLOCK_NUMBERS", 1000)
    assert ratio_interval(above, below) == expected


def test_one_seed_draws_the_same_documents_for_every_numerator() -> None:
    above, below = documents(2)
    low, high = ratio_interval(above, below, seed=3)
    assert ratio_interval(below - above, below, seed=3) == pytest.approx((1 - high, 1 - low))


def test_the_seed_decides_and_a_higher_level_is_wider() -> None:
    data = documents(1)
    first = ratio_interval(*data, seed=1)
    assert ratio_interval(*data, seed=1) == first
    assert ratio_interval(*data, seed=2) != first
    low, high = ratio_interval(*data, level=0.5, seed=1)
    assert first[0] < low < high < first[1]


def test_a_constant_ratio_has_no_width() -> None:
    _, below = documents(0)
    assert ratio_interval(below, below) == (1, 1)
    assert ratio_interval(0 * below, below) == (0, 0)
    assert ratio_interval(-2 * below, below) == (-2, -2)


def test_resamples_without_a_positive_denominator_are_left_out() -> None:
    below = np.array([-2.0] + 9 * [1.0])
    draws = np.random.default_rng(0).integers(10, size=(1000, 10))
    sums = below[draws].sum(axis=1)
    assert 0 < np.mean(sums <= 0) < 0.05
    assert ratio_interval(below, below) == (1, 1)
    ratios = 10 / sums[sums > 0]
    found = ratio_interval(np.ones(10), below)
    assert found == pytest.approx(np.quantile(ratios, [0.025, 0.975]))


@pytest.mark.parametrize("below", [[0.0, 0.0], [-1.0, -2.0], [1.0, -1.0], [], [1.0]])
def test_no_positive_denominator_or_one_document_is_nan(below: list[float]) -> None:
    found = ratio_interval(np.ones(len(below)), np.array(below))
    assert all(math.isnan(end) for end in found)


def test_what_is_out_of_range_is_refused() -> None:
    data = documents(0)
    with pytest.raises(ValueError, match="n_resamples"):
        ratio_interval(*data, n_resamples=0)
    with pytest.raises(ValueError, match="level"):
        ratio_interval(*data, level=95)
    with pytest.raises(ValueError, match=r"\[document\]"):
        ratio_interval(data[0], data[1][:-1])
    with pytest.raises(ValueError, match="finite"):
        ratio_interval(data[0] * np.nan, data[1])
