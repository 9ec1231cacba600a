import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.numerics.sparsity import (
    document_statistics,
    magnitudes,
    participation_ratio,
    rectified,
    token_mean,
)


def random_acts(seed: int, n_tokens: int, n_units: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_tokens, n_units, generator=generator)


@given(st.integers(1, 40), st.integers(0, 30), st.floats(1e-30, 1e30))
def test_k_equal_units_give_exactly_k_at_any_scale(k: int, zeros: int, scale: float) -> None:
    acts = torch.cat([torch.full((1, k), scale), torch.zeros(1, zeros)], dim=1)
    assert participation_ratio(acts).item() == pytest.approx(k, rel=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 50))
def test_participation_ratio_agrees_with_brute_force(seed: int, tokens: int, units: int) -> None:
    strengths = rectified(random_acts(seed, tokens, units))
    for row, found in zip(strengths.tolist(), participation_ratio(strengths).tolist(), strict=True):
        squares = math.fsum(x * x for x in row)
        expected = math.fsum(row) ** 2 / squares if squares else 0.0
        assert found == pytest.approx(expected, rel=1e-5)
        assert found == 0 or 1 - 1e-5 <= found <= units * (1 + 1e-5)


def test_silent_tokens_have_participation_ratio_zero() -> None:
    acts = torch.tensor([[-1.0, -2.0], [0.0, 0.0], [3.0, -1.0]])
    assert participation_ratio(rectified(acts)).tolist() == [0, 0, 1]


def test_strengths_of_plain_and_signed_units_differ() -> None:
    acts = torch.tensor([[-1.0, 1.0]])
    assert participation_ratio(rectified(acts)).item() == 1
    assert participation_ratio(magnitudes(acts)).item() == pytest.approx(2)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 7), min_size=1, max_size=6))
def test_document_statistics_agree_with_loops(seed: int, lengths: list[int]) -> None:
    n_units = 5
    acts = random_acts(seed, sum(lengths), n_units)
    thresholds = random_acts(seed + 1, 1, n_units)[0]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    found = document_statistics(acts, rectified(acts), offsets, thresholds)
    ratios = participation_ratio(rectified(acts)).tolist()
    for document, (first, last) in enumerate(itertools.pairwise(offsets)):
        rows = acts[first:last].tolist()
        for unit in range(n_units):
            expected = sum(row[unit] > float(thresholds[unit]) for row in rows)
            assert found.counts[document, unit] == expected
        assert found.n_positive[document] == sum(value > 0 for row in rows for value in row)
        assert found.participation_ratio[document] == pytest.approx(sum(ratios[first:last]))


def test_a_unit_at_its_threshold_does_not_fire() -> None:
    acts = torch.tensor([[0.5], [0.5], [0.75]])
    offsets = np.array([0, 3])
    found = document_statistics(acts, rectified(acts), offsets, torch.tensor([0.5]))
    assert found.counts.tolist() == [[1]]


def test_token_mean_is_the_mean_over_tokens() -> None:
    per_token = [np.array([1.0, 2.0]), np.array([6.0])]
    sums = np.array([piece.sum() for piece in per_token])
    mean, _ = token_mean(sums, np.array([2, 1]))
    assert mean == pytest.approx(np.concatenate(per_token).mean())


def test_standard_error_of_equal_documents_is_that_of_their_means() -> None:
    means = np.random.default_rng(0).normal(size=50)
    mean, error = token_mean(means * 7, np.full(50, 7))
    assert mean == pytest.approx(means.mean())
    assert error == pytest.approx(means.std(ddof=1) / math.sqrt(50))


def test_standard_error_covers_the_truth_over_documents() -> None:
    """Tokens of a document agree with each other: an error over tokens would be far too small."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        n_tokens = generator.integers(5, 60, size=80)
        sums = (generator.normal(size=80) + 3.0) * n_tokens
        mean, error = token_mean(sums, n_tokens)
        covered += abs(mean - 3.0) < 1.96 * error
    assert 0.91 <= covered / 400 <= 0.98


def test_degenerate_documents_give_nan() -> None:
    assert all(math.isnan(value) for value in token_mean(np.array([]), np.array([], dtype=int)))
    assert all(math.isnan(value) for value in token_mean(np.array([0.0]), np.array([0])))
    mean, error = token_mean(np.array([4.0, 0.0]), np.array([2, 0]))
    assert mean == 2
    assert math.isnan(error)
