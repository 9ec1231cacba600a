"""Changes of the loss by task, against a loop over documents and another bootstrap."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.numerics.ratio_bootstrap import ratio_interval
from sdlms.structure.ablation_effects import Effects, Sums, effects_of

ALL = np.ones(3, dtype=bool)


def only(task: int, n_tasks: int = 3) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = np.arange(n_tasks) == task
    return chosen


def random_sums(n_documents: int = 90, n_sets: int = 4, seed: int = 0) -> Sums:
    random = np.random.default_rng(seed)
    counts = random.integers(5, 40, size=n_documents)
    tasks = random.integers(3, size=n_documents)
    changes = counts * (0.1 * tasks + random.normal(size=(n_sets, n_documents)))
    return Sums(changes, counts, tasks)


def test_the_data_are_the_first_draw() -> None:
    sums = random_sums()
    effects = effects_of(sums, 3, 0)
    for tasks in (only(0), only(2), ~only(1), ALL):
        own = tasks[sums.tasks]
        for one in range(4):
            draws = effects.per_token(effects.of(one), tasks)
            expected = sums.changes[one, own].sum() / sums.counts[own].sum()
            assert draws[0] == pytest.approx(expected)
            assert effects.estimate(draws, tasks).value == draws[0]
    assert effects.n_tokens.tolist() == [sums.counts[sums.tasks == t].sum() for t in range(3)]
    assert effects.documents.tolist() == np.bincount(sums.tasks).tolist()


def test_intervals_are_those_of_a_ratio_over_documents() -> None:
    sums = random_sums(300)
    effects = effects_of(sums, 3, 0)
    own = sums.tasks == 1
    _, low, high = effects.estimate(effects.per_token(effects.of(2), only(1)), only(1))
    ends = ratio_interval(sums.changes[2, own], sums.counts[own].astype(float), seed=5)
    assert [low, high] == pytest.approx(ends, abs=0.12 * (high - low))


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 data sets 95 % are expected; 0.905 is three standard errors below."""
    covered = 0
    for seed in range(200):
        sums = random_sums(120, 1, seed)
        effects = effects_of(sums, 3, seed)
        one, other = (effects.per_token(effects.of(0), tasks) for tasks in (only(2), only(0)))
        found = effects.estimate(one - other, only(2) | only(0))
        covered += found.low <= 0.2 <= found.high
    assert covered / 200 >= 0.905


def test_the_same_changes_differ_by_exactly_nothing() -> None:
    sums = random_sums()
    same = Sums(np.repeat(sums.changes[:1], 3, axis=0), sums.counts, sums.tasks)
    effects = effects_of(same, 3, 0)
    excess = effects.per_token(effects.of(0) - effects.of(2), only(0))
    assert effects.estimate(excess, only(0)) == (0, 0, 0)
    any_of = effects.per_token(effects.of(0) - effects.of_any([1, 2]), only(0))
    assert effects.estimate(any_of, only(0)) == (0, 0, 0)


def test_sets_are_a_sample_of_which_one_more_may_be_any() -> None:
    """Sets that differ make it uncertain, though the documents are all alike."""
    changes = np.array([[1.0], [2.0], [6.0]]) * np.ones((3, 20))
    effects = effects_of(Sums(changes, np.ones(20, np.int64), np.zeros(20, np.int64)), 1, 0)
    here = np.array([True])
    one = effects.estimate(effects.per_token(effects.of(1), here), here)
    assert one == pytest.approx((2, 2, 2))
    several = effects.estimate(effects.per_token(effects.of_any([0, 1, 2]), here), here)
    assert several == pytest.approx((3, 1, 6))


def test_a_set_like_the_others_seldom_exceeds_them() -> None:
    """Of 300 sets drawn as the 20 others are, about 1 in 21 lies above all of them."""
    above = 0
    for seed in range(300):
        random = np.random.default_rng(seed)
        changes = random.normal(size=(21, 1)) + 0.01 * random.normal(size=(21, 40))
        sums = Sums(changes, np.ones(40, np.int64), np.zeros(40, np.int64))
        effects, here = effects_of(sums, 1, 0), np.array([True])
        excess = effects.per_token(effects.of(0) - effects.of_any(list(range(1, 21))), here)
        above += effects.estimate(excess, here).low > 0
    assert above / 300 < 0.1


def same(one: Effects, other: Effects) -> bool:
    return np.array_equal(one.changes, other.changes) and np.array_equal(one.tokens, other.tokens)


def test_one_seed_gives_one_result() -> None:
    sums = random_sums()
    assert same(effects_of(sums, 3, 1), effects_of(sums, 3, 1))
    assert not same(effects_of(sums, 3, 1), effects_of(sums, 3, 2))


def test_one_seed_draws_the_same_documents_for_other_sets() -> None:
    sums = random_sums()
    fewer = effects_of(Sums(sums.changes[2:], sums.counts, sums.tasks), 3, 0)
    assert np.allclose(fewer.changes[0], effects_of(sums, 3, 0).changes[2])


def test_what_cannot_be_known_is_nan() -> None:
    changes = np.array([[1.0, 2.0, 3.0, np.inf, 5.0]])
    sums = Sums(changes, np.full(5, 10), np.array([0, 0, 1, 2, 2]))
    effects = effects_of(sums, 4, 0)

    def found(tasks: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.array(effects.estimate(effects.per_token(effects.of(0), tasks), tasks))

    assert np.isfinite(found(only(0, 4))).all()
    assert np.array_equal(found(only(1, 4)), [0.3, np.nan, np.nan], equal_nan=True)
    assert np.isnan(found(only(2, 4))).all()  # a loss is infinite
    assert np.isnan(found(only(3, 4))).all()  # no document
