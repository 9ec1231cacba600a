import pytest
import torch
from torch import Tensor

from sdlms.sae.sparse import Entries

N_TOKENS, N_LATENTS, N_UNITS = 11, 20, 6


def sparse_matrix(fraction: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(N_TOKENS, N_LATENTS, generator=generator)
    chosen = torch.rand(values.shape, generator=generator) < fraction
    chosen[3] = False  # a token without any
    chosen[:, 5] = False  # a latent that is nowhere active
    return values * chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [20, 21])  # in words of 8 bytes, and not
def test_they_are_what_is_not_zero(width: int, dtype: torch.dtype) -> None:
    matrix = torch.zeros(5, width, dtype=dtype)
    matrix[0, 1] = matrix[0, 2] = matrix[3, width - 1] = 2.0
    matrix[2, 0], matrix[4, 7] = -0.0, torch.nan
    entries, values = Entries.of(matrix)
    assert entries.tokens.tolist() == [0, 0, 3, 4]
    assert entries.latents.tolist() == [1, 2, width - 1, 7]
    assert entries.first.tolist() == [0, 2, 2, 2, 3]
    assert values.dtype == torch.float32
    assert values[:3].tolist() == [2.0, 2.0, 2.0]
    assert bool(values[3].isnan())


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.7])
def test_they_are_the_dense_products(fraction: float) -> None:
    matrix = sparse_matrix(fraction)
    entries, values = Entries.of(matrix)
    decoder, rows = torch.randn(N_LATENTS, N_UNITS), torch.randn(N_TOKENS, N_UNITS)
    assert torch.allclose(entries.decoded(values, decoder), matrix @ decoder, atol=1e-5)
    assert torch.allclose(entries.gathered(values, rows), matrix.T @ rows, atol=1e-5)
    assert torch.allclose(entries.summed(values), matrix.sum(0), atol=1e-5)
    inner = (rows @ decoder.T)[entries.tokens, entries.latents]
    assert torch.allclose(entries.products(rows, decoder), inner, atol=1e-5)


def test_entries_in_any_order_within_a_token() -> None:
    """As the largest of a row come."""
    latents = torch.tensor([4, 1, 19, 0, 7, 4])
    tokens, first = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 2, 4])
    values = torch.arange(1.0, 7.0)
    matrix = torch.zeros(3, N_LATENTS)
    matrix[tokens, latents] = values
    rows = torch.randn(3, N_UNITS)
    found = Entries(tokens, latents, first, N_LATENTS).gathered(values, rows)
    assert torch.allclose(found, matrix.T @ rows, atol=1e-5)
