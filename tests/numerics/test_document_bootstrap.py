"""Resamples of documents against documents that are repeated in a loop."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.numerics import document_bootstrap
from sdlms.numerics.document_bootstrap import (
    centred,
    drawn_documents,
    percentile_interval,
    weighted_index,
)
from sdlms.numerics.specialization import specialization_index

TASKS = np.array([0, 1, 1, 2, 0, 2, 2, 1, 2])


def counted(seed: int, n_units: int = 5) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    n_tokens = generator.integers(5, 40, len(TASKS))
    counts = generator.binomial(n_tokens[:, None], generator.random((len(TASKS), n_units)))
    return counts.astype(np.uint32), n_tokens


def test_each_task_keeps_its_number_of_documents() -> None:
    drawn = drawn_documents(TASKS, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 9)
    for task in range(3):
        own = drawn[:, TASKS == task]
        assert (own.sum(axis=1) == own.shape[1]).all()
        assert own.mean(axis=0) == pytest.approx(1, abs=0.15)
    assert np.array_equal(drawn, drawn.round())


def test_draws_are_those_of_documents_with_replacement() -> None:
    drawn = drawn_documents(np.zeros(3, dtype=np.int64), 20_000, np.random.default_rng(1))
    kinds, times = np.unique(drawn, axis=0, return_counts=True)
    shares = {tuple(kind): share for kind, share in zip(kinds, times / 20_000, strict=True)}
    assert shares[(1, 1, 1)] == pytest.approx(6 / 27, abs=0.01)
    assert shares[(3, 0, 0)] == pytest.approx(1 / 27, abs=0.01)
    assert shares[(0, 2, 1)] == pytest.approx(3 / 27, abs=0.01)


def test_the_seed_decides_the_documents() -> None:
    one, again, other = (drawn_documents(TASKS, 9, np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_weights_repeat_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, n_tokens = counted(0)
    drawn = drawn_documents(TASKS, 20, np.random.default_rng(2))
    found = weighted_index(counts, n_tokens, TASKS, drawn)
    for row, weights in enumerate(drawn.astype(int)):
        repeated = np.repeat(np.arange(9), weights)
        own = [repeated[TASKS[repeated] == task] for task in range(3)]
        sums = np.array([counts[some].sum(axis=0) for some in own])
        expected = specialization_index(sums, np.array([n_tokens[some].sum() for some in own]))
        assert found[row] == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(document_bootstrap, "BLOCK_NUMBERS", 120)
    assert weighted_index(counts, n_tokens, TASKS, drawn) == pytest.approx(found, abs=1e-12)


def test_weights_of_one_are_the_documents_themselves() -> None:
    counts, n_tokens = counted(1)
    sums = np.array([counts[task == TASKS].sum(axis=0) for task in range(3)])
    tokens = np.array([n_tokens[task == TASKS].sum() for task in range(3)])
    found = weighted_index(counts, n_tokens, TASKS, np.ones((1, 9)))
    assert found[0] == pytest.approx(specialization_index(sums, tokens), abs=1e-12)


def test_resamples_are_biased_upwards_and_centring_mends_it() -> None:
    generator = np.random.default_rng(0)
    tasks, n_tokens = np.repeat([0, 1, 2], 30), np.full(90, 50)
    counts = generator.binomial(50, generator.beta(1, 9, (90, 20))).astype(np.uint32)
    estimate = weighted_index(counts, n_tokens, tasks, np.ones((1, 90))).mean()
    drawn = drawn_documents(tasks, 400, generator)
    resampled = weighted_index(counts, n_tokens, tasks, drawn).mean(axis=1)
    assert percentile_interval(resampled)[0] > estimate
    low, high = percentile_interval(centred(resampled, estimate))
    assert low < estimate < high
    assert centred(resampled, estimate).mean() == pytest.approx(estimate)


def test_ends_leave_equal_shares_outside() -> None:
    ranks = np.random.default_rng(0).permutation(1001) / 1000
    assert percentile_interval(ranks) == pytest.approx((0.025, 0.975))
    assert percentile_interval(ranks, level=0.5) == pytest.approx((0.25, 0.75))
    assert np.isnan(percentile_interval(np.full(5, np.nan))).all()
