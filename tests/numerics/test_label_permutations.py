"""Chance levels against exact enumeration, and a loop over permutations."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from sdlms.numerics import label_permutations
from sdlms.numerics.label_permutations import ROUNDING, Chance, chance_index
from sdlms.numerics.specialization import specialization_index

Documents = tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]


def documents(
    seed: int, sizes: tuple[int, ...] = (30, 20, 10), n_units: int = 40, scale: int = 1
) -> Documents:
    """Counts, tokens and tasks without any specialization, units of many rates."""
    generator = np.random.default_rng(seed)
    tasks = np.repeat(np.arange(len(sizes)), sizes)
    n_tokens = scale * generator.integers(20, 80, len(tasks))
    rates = generator.beta(0.4, 2, (len(tasks), n_units))
    return generator.binomial(n_tokens[:, None], rates).astype(np.uint32), n_tokens, tasks


def index_of(counts: NDArray[np.uint32], n_tokens: NDArray[np.int64], tasks: list[int]) -> NDArray:
    """`[unit]` index with these tasks, by sums over a loop."""
    names = sorted(set(tasks))
    own = [[d for d, task in enumerate(tasks) if task == name] for name in names]
    sums = np.array([counts[some].sum(axis=0, dtype=np.int64) for some in own])
    return specialization_index(sums, np.array([n_tokens[some].sum() for some in own]))


def chance_of(
    data: Documents, n_permutations: int, seed: int = 0, averaged: NDArray | None = None
) -> Chance:
    everyone = np.ones(data[0].shape[1], dtype=bool)
    used = everyone if averaged is None else averaged
    return chance_index(*data, used, n_permutations, np.random.default_rng(seed))


def test_moments_and_p_approach_those_of_all_labellings() -> None:
    counts, n_tokens, tasks = documents(0, (3, 2, 2), 12)
    every = np.stack(
        [index_of(counts, n_tokens, list(own)) for own in set(permutations(tasks.tolist()))]
    )
    assert len(every) == 210
    found = chance_of((counts, n_tokens, tasks), 20_000)
    error = every.std(axis=0) / np.sqrt(20_000)
    assert (np.abs(found.mean - every.mean(axis=0)) < 4 * error + 1e-7).all()
    assert found.sd == pytest.approx(every.std(axis=0), rel=0.05)
    true = index_of(counts, n_tokens, tasks.tolist())
    assert found.p == pytest.approx((every >= true - ROUNDING).mean(axis=0), abs=0.02)


@pytest.mark.parametrize("scale", [1, 10**6])
def test_each_permutation_is_that_of_a_loop(scale: int) -> None:
    counts, n_tokens, tasks = data = documents(1, scale=scale)
    assert (n_tokens.sum() > 2**24) == (scale > 1)
    averaged = np.arange(40) % 3 > 0
    labels = np.random.default_rng(7).permuted(np.tile(tasks.astype(np.int16), (60, 1)), axis=1)
    every = np.stack([index_of(counts, n_tokens, own.tolist()) for own in labels])
    found = chance_of(data, 60, seed=7, averaged=averaged)
    mean = every.mean(axis=0)
    assert found.mean == pytest.approx(mean, abs=1e-7)
    assert found.sd == pytest.approx(every.std(axis=0), abs=1e-6)
    known = every[:30].mean(axis=0)
    adjusted = ((every[30:] - known) / (1 - known))[:, averaged].mean(axis=1)
    assert found.adjusted == pytest.approx(adjusted, abs=1e-6)
    higher = (every >= index_of(counts, n_tokens, tasks.tolist()) - ROUNDING).sum(axis=0)
    assert found.p == pytest.approx((1 + higher) / 61)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = documents(2)
    expected = chance_of(data, 200)
    monkeypatch.setattr(label_permutations, "BLOCK_NUMBERS", 1000)
    monkeypatch.setattr(label_permutations, "KEPT_NUMBERS", 1500)
    for one, other in zip(chance_of(data, 200), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-7)


def test_the_same_seed_gives_the_same_bytes() -> None:
    data = documents(3)
    first, again, other = (chance_of(data, 100, seed) for seed in (5, 5, 6))
    assert [part.tobytes() for part in first] == [part.tobytes() for part in again]
    assert first.mean.tobytes() != other.mean.tobytes()


def test_p_is_uniform_where_labels_mean_nothing() -> None:
    p = np.concatenate([chance_of(documents(seed), 300, seed).p for seed in range(25)])
    for level in (0.05, 0.25, 0.5):
        # Units share their documents' labels: 25 draws are the independent ones.
        assert np.mean(p <= level) == pytest.approx(level, abs=0.25 * np.sqrt(level))
        assert np.mean(p <= level) <= level + 0.03
    assert p.min() >= 1 / 301


def test_later_permutations_are_zero_but_for_the_noise_of_both_halves() -> None:
    found = chance_of(documents(4), 501)
    assert found.adjusted.shape == (251,)
    error = found.adjusted.std() * np.sqrt(1 / 250 + 1 / 251)
    assert 1e-9 < abs(found.adjusted.mean()) < 4 * error


def test_one_permutation_has_nothing_to_be_compared_with() -> None:
    found = chance_of(documents(4), 1)
    assert np.isnan(found.adjusted).all() and len(found.adjusted) == 1
    assert np.isfinite(found.mean).all()


def test_units_that_labels_cannot_change_have_p_one() -> None:
    n_tokens, tasks = np.full(12, 30), np.repeat([0, 1], 6)
    counts = np.stack([n_tokens, np.full(12, 7)], axis=1).astype(np.uint32)
    found = chance_of((counts, n_tokens, tasks), 100)
    assert found.p.tolist() == [1, 1]
    assert found.mean == pytest.approx(0, abs=1e-7)
    assert found.sd == pytest.approx(0, abs=1e-7)


def test_a_unit_of_one_task_is_as_unlikely_as_it_can_be() -> None:
    counts, n_tokens, tasks = documents(5)
    counts[:, 0] = np.where(tasks == 1, n_tokens, 0)
    assert chance_of((counts, n_tokens, tasks), 400).p[0] == 1 / 401


def test_no_averaged_unit_has_no_mean() -> None:
    found = chance_of(documents(6), 30, averaged=np.zeros(40, dtype=bool))
    assert np.isnan(found.adjusted).all()
    assert np.isfinite(found.mean).all()
