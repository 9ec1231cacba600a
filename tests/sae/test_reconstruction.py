import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sdlms.numerics.ratio_bootstrap import ratio_interval
from sdlms.sae.reconstruction import (
    RowValues,
    fvu_interval,
    reason_of,
    reconstruction_of,
    row_values,
)


def values_of(x: NDArray[np.float64], y: NDArray[np.float64]) -> RowValues:
    """About 0, without a bias."""
    acts, outputs = torch.from_numpy(x), torch.from_numpy(y)
    zeros = torch.zeros(x.shape[1], dtype=torch.float64)
    return RowValues(*row_values(acts, outputs, zeros, zeros))


def test_the_values_of_rows() -> None:
    x, y = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 0.0], [-2.0, 0.0]])
    found = values_of(x, y)
    assert found.error.tolist() == [16, 9]
    assert found.bias_error.tolist() == found.energy.tolist() == [25, 1]
    assert found.kept.tolist() == [9, 4]
    assert found.product.tolist() == [9, -2]


def test_sums_are_taken_in_float64() -> None:
    """A mean of a million leaves the small differences about it as they are."""
    acts = torch.tensor([[1e6 + 1.0, 1e6]])
    mean = torch.full((2,), 1e6, dtype=torch.float64)
    found = RowValues(*row_values(acts, acts, torch.zeros(2), mean))
    assert (found.energy[0], found.kept[0], found.product[0]) == (1, 1, 1)


def test_documents_without_rows_take_no_part_in_the_interval() -> None:
    random = np.random.default_rng(0)
    found = values_of(random.normal(size=(9, 4)), random.normal(size=(9, 4)))
    offsets = np.array([0, 0, 2, 5, 5, 9])
    errors = [found.error[first:last].sum() for first, last in ((0, 2), (2, 5), (5, 9))]
    energies = [found.energy[first:last].sum() for first, last in ((0, 2), (2, 5), (5, 9))]
    expected = ratio_interval(np.array(errors), np.array(energies), seed=3)
    assert fvu_interval(found, offsets, seed=3) == pytest.approx(expected, rel=1e-12)
    assert expected[0] < reconstruction_of(found)["fvu"] < expected[1]


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([[1.0, 2.0]], [[0.5, 1.0]], ""),
        ([[0.0, 0.0]], [[0.5, 1.0]], "every row is the mean of the training rows"),
        ([[1.0, 2.0]], [[0.0, 0.0]], "every reconstruction is the mean of the training rows"),
        ([[1.0, 0.0]], [[0.0, 1.0]], "no reconstruction goes the way of its row"),
    ],
)
def test_a_reason_stands_with_every_nan(
    x: list[list[float]], y: list[list[float]], reason: str
) -> None:
    found = reconstruction_of(values_of(np.array(x), np.array(y)))
    assert reason_of(found, len(x)) == reason
    assert any(math.isnan(value) for value in found.values()) == bool(reason)
