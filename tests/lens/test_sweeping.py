"""What is put together of tiles is what one pass over everything gives."""

import pytest
import torch
from torch import Tensor

from sdlms.lens.sweeping import (
    BEYOND,
    BLOCK_COLUMNS,
    TILE_NUMBERS,
    Swept,
    Tiling,
    count_larger_,
    largest,
    logits_at,
    rows_at_once,
    sweep,
    tiling_of,
)

N_STATES = 3


class Known:
    """Logits that are there already."""

    def __init__(self, logits: Tensor, tiling: Tiling) -> None:
        self._logits, self._tiling = logits, tiling
        self.steps = torch.zeros(tiling.n_tiles)

    def tile(self, number: int, out: Tensor) -> Tensor:
        found = self._logits[:, self._tiling.columns(number)]
        out[:, : found.shape[1]] = found
        out[:, found.shape[1] :] = BEYOND
        return out


def swept_of(logits: Tensor, n_tiles: int) -> tuple[Swept, Tiling]:
    tiling = tiling_of(logits.shape[1], n_tiles)
    kept = tiling.empty(len(logits), torch.float32, logits.device)
    return sweep(Known(logits, tiling), kept, N_STATES), tiling


@pytest.mark.parametrize("d_vocab", [1, 31, 32, 33, 2048, 2049, 3072, 50257, 128256, 262144])
@pytest.mark.parametrize("n_least", [1, 16])
def test_tiles_hold_every_token_once(d_vocab: int, n_least: int) -> None:
    tiling = tiling_of(d_vocab, n_least)
    tokens = [t for tile in range(tiling.n_tiles) for t in range(d_vocab)[tiling.columns(tile)]]
    assert tokens == list(range(d_vocab))
    assert tiling.width * rows_at_once(d_vocab) <= TILE_NUMBERS
    assert tiling.width % BLOCK_COLUMNS == 0
    assert all(len(range(d_vocab)[tiling.columns(tile)]) for tile in range(tiling.n_tiles))
    if d_vocab >= 2 * n_least * BLOCK_COLUMNS**2:
        assert tiling.n_tiles >= n_least
    # Less than a block of padding in each tile.
    assert tiling.n_tiles * (tiling.width - BLOCK_COLUMNS) < d_vocab


@pytest.mark.parametrize("d_vocab", [1, 40, 333, 5000])
@pytest.mark.parametrize("scale", [0.01, 3.0, 40.0])
@pytest.mark.parametrize("n_tiles", [1, 7])
def test_sums_are_those_of_a_softmax(d_vocab: int, scale: float, n_tiles: int) -> None:
    logits = scale * torch.randn(4 * N_STATES, d_vocab) + 20
    sums = swept_of(logits, n_tiles)[0].sums
    exact = logits.double().view(4, N_STATES, d_vocab)
    probabilities = exact.softmax(-1)
    tight = {"rtol": 2e-6, "atol": 2e-5}
    torch.testing.assert_close(sums.normalizer, exact.logsumexp(-1), **tight)
    torch.testing.assert_close(sums.expected, (probabilities * exact).sum(-1), **tight)
    crossed = (probabilities[:, -1:] * exact).sum(-1)
    # Its terms are as large as the logits, its sum may be small.
    torch.testing.assert_close(sums.crossed, crossed, rtol=0, atol=5e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("n_top", [1, 5, 100, 333])
def test_the_largest_are_the_largest_of_all(n_top: int) -> None:
    logits = torch.randn(N_STATES, 333)
    swept, _ = swept_of(logits, 7)
    rows = torch.tensor([2, 0])
    values, columns = largest(swept, rows, n_top)
    expected = logits[rows].topk(n_top)
    assert torch.equal(values, expected.values)
    assert torch.equal(columns, expected.indices)
    assert torch.equal(
        logits_at(swept, torch.cat([columns, columns[:1]]))[2], logits[2, columns[0]]
    )


def test_what_is_larger_is_counted_and_equals_are_not() -> None:
    logits = torch.randint(0, 5, (6, 200)).float()
    asked = torch.randint(0, 5, (6, 3)).float()
    counts = torch.ones(6, 3)
    count_larger_(counts, logits, asked, torch.empty_like(logits))
    assert torch.equal(counts, 1 + (logits[:, None] > asked[..., None]).sum(-1).float())


def test_many_rows_of_a_small_vocabulary_and_few_of_a_large_one() -> None:
    assert [rows_at_once(d_vocab) for d_vocab in (1, 3072, 8192, 50257, 262144)] == [
        1024,
        1024,
        512,
        256,
        256,
    ]
