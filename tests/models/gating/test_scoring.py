"""Scores and masks agree with plain loops, ties included."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.models.gating.scoring import (
    LARGEST,
    largest_mask,
    magnitudes,
    output_norms,
    share_counts,
)
from sdlms.models.gating.torch_rows import Torch

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def random_acts(n_rows: int, n_units: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_rows, n_units, generator=generator).to(dtype)


def largest_by_hand(scores: Tensor, n: int) -> Tensor:
    """Sorted by score, then by index: one row after another."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row, values in enumerate(scores.tolist()):
        order = sorted(range(len(values)), key=lambda unit: (-values[unit], unit))
        mask[row, order[:n]] = True
    return mask


@pytest.mark.parametrize("n_values", [1, 2, 5, 1000])
@pytest.mark.parametrize("n", [1, 2, 11, 22, 23])
def test_the_largest_are_exactly_n_and_ties_fall_in_index_order(n_values: int, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    scores = torch.randint(0, n_values, (40, 23), generator=generator)
    for found in (largest_mask(scores.float(), n), largest_mask(scores.long() << 33, n)):
        assert torch.equal(found, largest_by_hand(scores, n))
        assert (found.sum(-1) == n).all()


@DTYPES
def test_the_mask_keeps_what_the_backend_sums(dtype: torch.dtype) -> None:
    """bfloat16 has many ties; integer rows make every set's sum exact, and its own."""
    acts = random_acts(20, 300, dtype)
    weights = torch.ones(300)
    assert len(acts[0].abs().unique()) < 300 or dtype == torch.float32
    rows = torch.eye(300, dtype=dtype)
    for n in (1, 30, 150, 299):
        mask = largest_mask(magnitudes(acts, weights), n)
        for row, kept in zip(acts, mask, strict=True):
            found = Torch().largest(rows, None, row, weights, n)
            assert torch.equal(found != 0, kept & (row != 0))


def test_not_a_number_is_kept_and_infinity_is_finite() -> None:
    acts = torch.tensor([[1.0, torch.nan, 3.0], [-torch.inf, 2.0, 1.0]])
    assert magnitudes(acts, torch.tensor([1.0, 0.5, 2.0])).tolist() == [
        [1.0, LARGEST, 6.0],
        [LARGEST, 1.0, 2.0],
    ]
    assert largest_mask(magnitudes(acts, None), 1).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


def test_magnitudes_leave_their_input_alone() -> None:
    acts = random_acts(2, 5)
    before = acts.clone()
    magnitudes(acts, None)
    assert torch.equal(acts, before)


@DTYPES
def test_norms_are_those_of_what_a_neuron_writes(dtype: torch.dtype) -> None:
    weight = random_acts(6, 9, dtype)
    by_hand = np.array([np.linalg.norm(row) for row in weight.float().numpy().astype(np.float64)])
    assert output_norms(weight, 0).dtype == torch.float32
    np.testing.assert_allclose(output_norms(weight, 0), by_hand, rtol=1e-6)
    np.testing.assert_allclose(output_norms(weight.t(), 1), by_hand, rtol=1e-6)


def test_share_counts_are_the_smallest_sets() -> None:
    scores = random_acts(30, 17).abs()
    for share in (0.0, 0.3, 0.9, 0.999):
        for row, count in zip(scores.double().numpy(), share_counts(scores, share), strict=True):
            ranked = np.sort(row)[::-1]
            enough = [n for n in range(1, 18) if ranked[:n].sum() >= share * row.sum() - 1e-12]
            assert int(count) == enough[0]
    assert share_counts(torch.zeros(2, 5), 0.5).tolist() == [1, 1]
    assert share_counts(torch.ones(1, 8), 0.5).tolist() == [4]
