"""The rounded product is the product, but for errors whose mean is none."""

import pytest
import torch

from sdlms.lens.rounded import ROUNDINGS, RoundedWeights, rounded_by
from sdlms.lens.sweeping import BEYOND
from sdlms.lens.torch_tiles import TorchTiles


@pytest.mark.parametrize("d_vocab", [1, 33, 200, 3000, 5003])
def test_every_token_has_one_column(d_vocab: int) -> None:
    weights = RoundedWeights(torch.randn(d_vocab, 8), None)
    ids = torch.arange(d_vocab)
    columns = weights.columns_of(ids)
    assert columns.unique().numel() == d_vocab
    assert torch.equal(weights.ids_of(columns), ids)
    tiling = weights.tiling
    everything = weights.ids_of(torch.arange(tiling.n_tiles * tiling.width))
    assert int(everything.max()) == d_vocab - 1


def test_logits_less_what_is_known_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5003, 64, generator=generator) / 4 + 0.3
    bias, inputs = torch.randn(5003), torch.randn(9, 64, generator=generator)
    weights = RoundedWeights(weight, bias)
    product = weights.product(inputs, TorchTiles())
    kept = product.empty_tiles()
    for tile, out in enumerate(kept):
        product.multiply_(out, tile)
    logits = (kept.float() + product.steps[:, None, None]).transpose(0, 1).flatten(1)
    found = logits[:, weights.columns_of(torch.arange(5003))]
    offset = inputs @ weights.mean + weights.mean_bias + product.shift
    exact = inputs.double() @ weight.double().T + bias - offset[:, None]
    error = found - exact
    assert float(error.abs().max()) < 0.3
    assert float(error.mean().abs()) < 2e-3
    assert int((logits <= BEYOND / 2).sum()) == 9 * (logits.shape[1] - 5003)


def test_rounding_up_and_down_has_the_mean_of_no_rounding() -> None:
    values = torch.randn(1000)
    digits = (torch.arange(256) * 256 + 128).int()
    found = torch.stack([rounded_by(values, each) for each in digits]).double()
    assert float((found.mean(0) - values.double()).abs().max()) < 1e-4
    assert found.std(0).mean() > 1e-3


def test_the_copy_is_in_bfloat16_and_little_padded() -> None:
    weights = RoundedWeights(torch.randn(5000, 64), None)
    product = weights.product(torch.randn(2, 64), TorchTiles())
    assert product.copies.dtype == product.inputs.dtype == torch.bfloat16
    assert product.copies.numel() <= 1.35 * 5000 * 64
    assert len(product.inputs) == ROUNDINGS
