"""Specialization indices against loops, and what must not change them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from sdlms.numerics.specialization import (
    firing_rates,
    index_of_counts_,
    mutual_information_nats,
    plain_index,
    preferred_task,
    specialization_index,
)

Counted = tuple[NDArray[np.int64], NDArray[np.int64]]


def random_counts(seed: int, n_tasks: int = 6, n_units: int = 7) -> Counted:
    """Counts `[task, unit]` and tokens `[task]` of tasks of very different size."""
    generator = np.random.default_rng(seed)
    n_tokens = generator.integers(1, 10 ** generator.integers(1, 5), n_tasks)
    return generator.binomial(n_tokens[:, None], generator.random((n_tasks, n_units))), n_tokens


def loop_index(weights: list[float]) -> float:
    """1 - H / ln K of one unit's weights."""
    shares = [weight / sum(weights) for weight in weights]
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    return 1 - entropy / math.log(len(weights))


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_indices_agree_with_a_loop(seed: int, n_tasks: int) -> None:
    counts, n_tokens = random_counts(seed, n_tasks)
    index, plain = specialization_index(counts, n_tokens), plain_index(counts)
    for unit, own in enumerate(counts.T.tolist()):
        rates = [(c + 0.5) / (n + 1) for c, n in zip(own, n_tokens.tolist(), strict=True)]
        assert index[unit] == pytest.approx(loop_index(rates), abs=1e-12)
        assert firing_rates(counts, n_tokens)[:, unit].tolist() == pytest.approx(rates)
        if sum(own):
            assert plain[unit] == pytest.approx(loop_index(own), abs=1e-12)
        else:
            assert math.isnan(plain[unit])


@given(st.integers(0, 10**6), st.permutations(range(6)))
def test_the_order_of_tasks_changes_nothing(seed: int, order: list[int]) -> None:
    counts, n_tokens = random_counts(seed)
    other = counts[order], n_tokens[order]
    for quantity in (specialization_index, mutual_information_nats):
        assert quantity(*other) == pytest.approx(quantity(counts, n_tokens), abs=1e-12)
    assert plain_index(counts[order]) == pytest.approx(plain_index(counts), nan_ok=True)


@given(st.integers(0, 10**6), st.integers(0, 500))
def test_only_rates_matter(seed: int, half: int) -> None:
    counts, n_tokens = random_counts(seed)
    odd = 2 * half + 1  # the same (c + 1/2) / (N + 1) of more tokens
    more = odd * counts + half, odd * (n_tokens + 1) - 1
    expected = specialization_index(counts, n_tokens)
    assert specialization_index(*more) == pytest.approx(expected, abs=1e-12)
    assert plain_index(odd * counts) == pytest.approx(plain_index(counts), nan_ok=True)


@given(st.integers(0, 10**6))
def test_leading_axes_are_many_layers_at_once(seed: int) -> None:
    counts, n_tokens = zip(*[random_counts(seed + one) for one in range(3)], strict=True)
    for quantity in (specialization_index, mutual_information_nats, preferred_task):
        together = quantity(np.stack(counts), np.stack(n_tokens))
        apart = [quantity(*one) for one in zip(counts, n_tokens, strict=True)]
        assert np.array_equal(together, np.stack(apart))


@given(st.integers(0, 10**6), st.integers(0, 5))
def test_float32_is_off_by_less_than_what_counts_as_equal(seed: int, digits: int) -> None:
    counts, n_tokens = random_counts(seed)
    even = n_tokens[:, None] // 10**digits + counts % 2  # nearly equal rates are the hard case
    for some in (counts, np.minimum(even, n_tokens[:, None])):
        found = index_of_counts_(torch.from_numpy(some).float(), torch.from_numpy(n_tokens).float())
        assert found.numpy() == pytest.approx(specialization_index(some, n_tokens), abs=3e-7)


def test_what_even_units_and_units_of_one_task_have() -> None:
    n_tokens = np.array([100_000, 10_000, 1_000])
    even, always, one = n_tokens // 10, n_tokens, np.array([0, 0, 1_000])
    counts = np.stack([even, always, one], axis=1)
    index = specialization_index(counts, n_tokens)
    assert (index[:2] < 1e-4).all()
    assert (index >= 0).all()
    assert 0.99 < index[2] < 1
    assert plain_index(counts)[0] > 0.5  # tasks' sizes, nothing else
    assert plain_index(counts)[2] == 1


def test_a_single_firing_is_all_to_the_plain_index_and_little_to_the_other() -> None:
    counts, n_tokens = np.array([[1], [0], [0]]), np.full(3, 1000)
    assert plain_index(counts) == [1]
    assert specialization_index(counts, n_tokens)[0] < 0.15


def test_dead_units_and_single_tasks_are_nan() -> None:
    assert np.isnan(plain_index(np.zeros((3, 2), dtype=np.int64))).all()
    counts, n_tokens = random_counts(0, n_tasks=1)
    assert np.isnan(plain_index(counts)).all()
    assert np.isnan(specialization_index(counts, n_tokens)).all()


@given(st.integers(0, 10**6))
def test_mutual_information_is_that_of_the_table(seed: int) -> None:
    counts, n_tokens = random_counts(seed)
    found = mutual_information_nats(counts, n_tokens)
    for unit, own in enumerate(counts.T):
        table = np.stack([own, n_tokens - own])
        expected = mutual_info_score(None, None, contingency=table)
        assert found[unit] == pytest.approx(expected, abs=1e-12)


def test_a_unit_that_fires_always_or_never_tells_nothing() -> None:
    n_tokens = np.array([7, 5])
    counts = np.stack([n_tokens, 0 * n_tokens, [7, 0]], axis=1)
    found = mutual_information_nats(counts, n_tokens)
    assert found[:2] == pytest.approx(0, abs=1e-15)
    entropy = -(7 / 12) * math.log(7 / 12) - (5 / 12) * math.log(5 / 12)
    assert found[2] == pytest.approx(entropy)


def test_preference_is_of_the_rate_and_of_the_first_of_equals() -> None:
    n_tokens = np.array([1000, 100, 100])
    counts = np.array([[200, 0, 60], [50, 9, 5], [50, 9, 5]])
    assert preferred_task(counts, n_tokens).tolist() == [1, 1, 0]
