import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.sae.largest import largest


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 10**6), st.booleans())
def test_they_are_the_largest(k: int, groups: int, seed: int, ties: bool) -> None:
    """By a full sort, with and without equal values, whichever way they are sought."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 8 * groups, generator=generator)
    if ties:
        values = values.round()
    k = min(k, values.shape[1])
    found, columns = largest(values, k)
    assert torch.equal(values.gather(1, columns), found)
    assert all(len(set(row.tolist())) == k for row in columns)
    assert torch.equal(
        found.sort(descending=True).values, values.sort(descending=True).values[:, :k]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_that_have_no_groups(dtype: torch.dtype) -> None:
    values = torch.randn(3, 131).to(dtype)
    found, _ = largest(values, 5)
    assert torch.equal(found.sort(descending=True).values, values.topk(5).values)


def test_equal_input_gives_the_equal_choice() -> None:
    values = torch.randn(64, 512).bfloat16()
    assert torch.equal(largest(values, 16)[1], largest(values.clone(), 16)[1])


def test_nan_is_found() -> None:
    values = torch.randn(2, 256)
    values[1, 77] = torch.nan
    found, columns = largest(values, 4)
    assert bool(found[1].isnan().any())
    assert 77 in columns[1].tolist()
