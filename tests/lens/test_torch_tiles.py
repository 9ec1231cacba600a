"""Passes in torch are those of a softmax in float64."""

import pytest
import torch

from sdlms.lens import torch_tiles
from sdlms.lens.rounded import RoundedWeights
from sdlms.lens.torch_tiles import TorchTiles

TILES = TorchTiles()


def test_a_sweep_is_a_softmax_and_counts_are_counts() -> None:
    """Steps count: without them logits of different tiles could not be compared."""
    weights = RoundedWeights(torch.randn(3000, 16), torch.randn(3000))
    product = weights.product(torch.randn(6, 16), TILES)
    asked = torch.randn(6, 2) - 2
    swept, counts = TILES.sweep(product, asked, 3)
    logits = (swept.logits.double() + product.steps[:, None, None]).transpose(0, 1).flatten(1)
    assert product.steps.unique().numel() == 16
    torch.testing.assert_close(
        swept.sums.normalizer.flatten(), logits.logsumexp(-1), rtol=1e-6, atol=1e-5
    )
    probabilities = logits.softmax(-1)
    expected = (probabilities * logits).sum(-1)
    torch.testing.assert_close(swept.sums.expected.flatten(), expected, rtol=1e-6, atol=1e-5)
    final = probabilities.view(2, 3, -1)[:, -1:]
    crossed = (final * logits.view(2, 3, -1)).sum(-1)
    torch.testing.assert_close(swept.sums.crossed, crossed, rtol=1e-5, atol=1e-4)
    larger = (logits[:, None] > asked[..., None].double()).sum(-1)
    assert torch.equal(counts, larger.float())
    values, _ = TILES.largest(swept, torch.arange(6), 20)
    torch.testing.assert_close(values.double(), logits.topk(20).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_states", [1, 4])
def test_dots_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch, n_states: int) -> None:
    weight, ids = torch.randn(50, 8), torch.randint(0, 50, (7, 5))
    inputs = torch.randn(7, n_states, 8)
    expected = torch.einsum("gsd,gnd->gsn", inputs, weight[ids])
    for numbers in (1, 100, 10**6):
        monkeypatch.setattr(torch_tiles, "GATHERED_NUMBERS", numbers)
        torch.testing.assert_close(TILES.dots(weight, inputs, ids), expected)
