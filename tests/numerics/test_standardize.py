import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.numerics.standardize import RunningMoments


def random_block(seed: int, n_examples: int, n_units: int, offset: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_examples, n_units, generator=generator) + offset


@given(st.integers(0, 10**6), st.lists(st.integers(0, 700), min_size=1, max_size=5))
def test_blocks_agree_with_numpy_on_offset_data(seed: int, sizes: list[int]) -> None:
    sizes = [*sizes, 3]
    whole = random_block(seed, sum(sizes), 4, offset=1e4)
    moments = RunningMoments(4)
    for block in whole.split(sizes):
        moments.add(block)
    exact = whole.double().numpy()
    assert moments.n_examples == len(exact)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.std, exact.std(axis=0), rtol=1e-11)


@given(st.floats(-1e4, 1e4), st.integers(1, 600))
def test_a_unit_that_never_changes_has_std_1(value: float, n_examples: int) -> None:
    moments = RunningMoments(1)
    moments.add(torch.full((n_examples, 1), value))
    moments.add(torch.full((7, 1), value))
    assert moments.mean.item() == pytest.approx(value)
    assert moments.std.item() == 1


def test_what_was_read_stays_when_more_is_added() -> None:
    moments = RunningMoments(1)
    moments.add(torch.tensor([[1.0]]))
    before = moments.mean
    moments.add(torch.tensor([[3.0]]))
    assert (before.item(), moments.mean.item(), moments.std.item()) == (1, 2, 1)


def test_nan_shows() -> None:
    moments = RunningMoments(2)
    moments.add(torch.tensor([[1.0, float("nan")], [2.0, 0.0]]))
    assert moments.mean.isfinite().tolist() == [True, False]


def test_no_examples_and_other_shapes_are_refused() -> None:
    moments = RunningMoments(2)
    for read in (lambda: moments.mean, lambda: moments.std):
        with pytest.raises(ValueError, match="no examples"):
            read()
    for wrong in (torch.zeros(3, 1), torch.zeros(2)):
        with pytest.raises(ValueError, match="block"):
            moments.add(wrong)
