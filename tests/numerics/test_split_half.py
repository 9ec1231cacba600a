"""Halves of documents, and what agreement between them says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.numerics.document_bootstrap import weighted_index
from sdlms.numerics.specialization import specialization_index
from sdlms.numerics.split_half import adjusted_in_halves, random_halves, split_half_reliability

TASKS = np.repeat([0, 1, 2], [5, 4, 1])


def test_halves_are_halves_of_every_task() -> None:
    first = random_halves(TASKS, 200, np.random.default_rng(0))
    assert first.shape == (200, 10)
    assert (first[:, :5].sum(axis=1) == 2).all()
    assert (first[:, 5:9].sum(axis=1) == 2).all()
    assert not first[:, 9].any()
    assert first[:, :5].mean(axis=0) == pytest.approx(0.4, abs=0.1)
    assert first[:, 5:9].mean(axis=0) == pytest.approx(0.5, abs=0.1)
    assert np.array_equal(first, random_halves(TASKS, 200, np.random.default_rng(0)))


def test_equal_halves_agree_and_reversed_ones_do_not() -> None:
    values = np.random.default_rng(0).normal(size=(4, 50))
    assert split_half_reliability(values, 3 * values + 1) == pytest.approx(1)
    assert split_half_reliability(values, -values) == pytest.approx(-1)


def test_the_step_gives_the_reliability_of_the_whole() -> None:
    """The mean of two halves with noise of variance 1 each has noise of variance 1/2."""
    generator = np.random.default_rng(1)
    truth = generator.normal(size=(20, 4000))
    one, other = truth + generator.normal(size=(2, 20, 4000))
    whole, second_whole = truth + generator.normal(size=(2, 20, 4000)) / np.sqrt(2)
    expected = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(whole, second_whole, strict=True)])
    assert split_half_reliability(one, other) == pytest.approx(expected, abs=0.01)


def test_correlations_are_meaned_before_the_step() -> None:
    generator = np.random.default_rng(2)
    one, other = generator.normal(size=(2, 6, 30)) + generator.normal(size=30)
    r = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)])
    assert split_half_reliability(one, other) == pytest.approx(2 * r / (1 + r))


def test_what_cannot_correlate_is_nan() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5))
    assert np.isnan(split_half_reliability(values[:, :2], values[:, :2]))
    assert np.isnan(split_half_reliability(values, np.ones((3, 5))))
    rounded = 1 + 1e-8 * values
    assert np.isnan(split_half_reliability(rounded, rounded))
    some = np.where(np.arange(3)[:, None] > 0, values, 1.0)
    assert split_half_reliability(some, some) == pytest.approx(1)


def documents(size: float) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Counts, tokens, tasks of 300 units whose rates differ by `size` between tasks."""
    generator = np.random.default_rng(3)
    tasks, n_tokens = np.repeat([0, 1, 2, 3], 40), generator.integers(30, 90, 160)
    rates = np.exp(generator.normal(-3, 1, 300) + size * generator.normal(size=(4, 300)))
    rates = np.clip(rates, 1e-3, 0.5)[tasks]
    rates = generator.beta(20 * rates, 20 * (1 - rates))
    return generator.binomial(n_tokens[:, None], rates).astype(np.uint32), n_tokens, tasks


@pytest.mark.parametrize(("size", "low", "high"), [(0.0, -0.25, 0.25), (0.7, 0.7, 1)])
def test_halves_agree_about_specialization_only(size: float, low: float, high: float) -> None:
    counts, n_tokens, tasks = documents(size)
    generator = np.random.default_rng(4)
    first = random_halves(tasks, 6, generator)
    both = np.concatenate([first, ~first])
    one, other = np.split(adjusted_in_halves(counts, n_tokens, tasks, both, 100, generator), 2)
    assert low <= split_half_reliability(one, other) <= high
    plain = [weighted_index(counts, n_tokens, tasks, h.astype(float)) for h in (first, ~first)]
    assert split_half_reliability(*plain) > 0.5  # chance alone, where size is 0


def test_a_half_is_measured_as_if_it_were_all() -> None:
    counts, n_tokens, tasks = documents(0.7)
    half = np.arange(160) % 2 == 0
    found = adjusted_in_halves(counts, n_tokens, tasks, half[None], 99, np.random.default_rng(0))[0]
    own = [half & (tasks == task) for task in range(4)]
    sums = np.array([counts[some].sum(axis=0) for some in own])
    index = specialization_index(sums, np.array([n_tokens[some].sum() for some in own]))
    assert (found <= index + 1e-12).all()
    assert found.mean() == pytest.approx(index.mean(), abs=0.05)
