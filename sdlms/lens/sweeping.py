"""One pass over the vocabulary: what needs every logit of some rows, gathered tile by tile.

A tile is some rows by some columns of the vocabulary. It is measured while it is in the processor's
cache, right after the product that makes it. Distributions within tiles are put together at the
end, in float64, by the tiles' own normalisers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# A tile of 2 MB in float32 stays in the cache of most processors. Fewer rows or columns make
# slow products and many small operations.
TILE_NUMBERS = 2**19
CHUNK_NUMBERS = 2**22
CHUNK_ROWS = (256, 1024)
BLOCK_COLUMNS = 32
# The logit of columns beyond the vocabulary: exp() of it is 0, and 0 times it no NaN.
BEYOND = -1e30


@dataclass(frozen=True)
class Tiling:
    """The vocabulary cut into tiles of one width, these into blocks; the last tile is padded.

    Attributes:
        d_vocab: columns that are tokens.
        n_tiles: tiles.
        width: columns of each, a multiple of `BLOCK_COLUMNS`.
    """

    d_vocab: int
    n_tiles: int
    width: int

    def columns(self, tile: int) -> slice:
        """The tokens of a tile."""
        return slice(tile * self.width, min((tile + 1) * self.width, self.d_vocab))

    def empty(self, n_rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Where to keep logits, `[tile, row, column]`."""
        return torch.empty((self.n_tiles, n_rows, self.width), dtype=dtype, device=device)


def rows_at_once(d_vocab: int) -> int:
    """How many rows to measure together: many of a small vocabulary."""
    least, most = CHUNK_ROWS
    return min(max(least, CHUNK_NUMBERS // d_vocab), most)


def tiling_of(d_vocab: int, n_least: int = 1) -> Tiling:
    """Tiles of at most `TILE_NUMBERS` with `rows_at_once`, and as little padding as that allows.

    Args:
        d_vocab: of the model.
        n_least: So many tiles if each can have a block.
    """
    most = TILE_NUMBERS // rows_at_once(d_vocab)
    n_tiles = max(-(-d_vocab // most), min(n_least, -(-d_vocab // BLOCK_COLUMNS)))
    width = -(-d_vocab // (n_tiles * BLOCK_COLUMNS)) * BLOCK_COLUMNS
    return Tiling(d_vocab, -(-d_vocab // width), width)


class Product(Protocol):
    """What makes the logits of some rows.

    Attributes:
        steps: float32 `[tile]`, what the logits of a tile are more than those that are kept.
    """

    steps: Tensor

    def tile(self, number: int, out: Tensor) -> Tensor:
        """The logits of one tile, less an amount of each row's own.

        Args:
            number: of the tile.
            out: `[row, column]`, where to keep them, in a dtype of the product's choice.

        Returns:
            float32 `[row, column]`, good until the next call.
        """
        ...


class Sums(NamedTuple):
    """Sums over all tokens, float64 `[token, state]` on the CPU, each token's final state last.

    Attributes:
        normalizer: log of the sum of exp(logit).
        expected: sum of p x logit.
        crossed: sum of the final state's p x logit.
    """

    normalizer: Tensor
    expected: Tensor
    crossed: Tensor


class Swept(NamedTuple):
    """What a pass over the vocabulary found, of logits less each row's own amount.

    Attributes:
        logits: `[tile, row, column]` as they were kept.
        maxima: float32 `[row, block]`, the largest logit of each block.
        sums: over all columns.
        steps: float32 `[tile]`, what the logits of a tile are more than those that were kept.
    """

    logits: Tensor
    maxima: Tensor
    sums: Sums
    steps: Tensor


def sweep(product: Product, kept: Tensor, n_states: int) -> Swept:
    """Measure the rows of a product.

    Args:
        product: of rows that are tokens by states, each token's final state last.
        kept: `[tile, row, column]`, any float dtype: where the logits go.
        n_states: of each token.
    """
    shape = (len(kept), 3, kept.shape[1])
    sums = torch.empty(shape, device=kept.device)
    buffers = torch.empty((2, *kept.shape[1:]), device=kept.device)
    maxima = []
    for number, out in enumerate(kept):
        logits = product.tile(number, out)
        maxima.append(logits.view(len(logits), -1, BLOCK_COLUMNS).amax(-1))
        _measure_(sums[number], logits, buffers, n_states)
    found = torch.cat(maxima, dim=1)
    return Swept(kept, found, combined(found, sums, n_states), product.steps)


def combined(maxima: Tensor, sums: Tensor, n_states: int) -> Sums:
    """The sums over all tiles.

    Args:
        maxima: float32 `[row, block]`, the largest logit of each block.
        sums: float32 `[tile, 3, row]`: of each tile by itself the largest probability, the expected
            logit, and that by the final state's probabilities.
        n_states: of each token.
    """
    n_tiles, _, n_rows = sums.shape
    largest = maxima.view(n_rows, n_tiles, -1).amax(-1).T
    # A tile's normaliser by its largest probability: no further pass of exp.
    normalizers = (largest - sums[:, 0].log()).cpu().double()  # MPS has no float64
    normalizer = normalizers.logsumexp(0)
    weights = (normalizers - normalizer).exp().view(n_tiles, -1, n_states)
    expected, crossed = sums[:, 1:].cpu().double().view(n_tiles, 2, -1, n_states).unbind(1)
    return Sums(
        normalizer.view(-1, n_states),
        (weights * expected).sum(0),
        (weights[..., -1:] * crossed).sum(0),
    )


def _measure_(sums: Tensor, logits: Tensor, buffers: Tensor, n_states: int) -> None:
    """The largest probability within a tile, the expected logit, and that by the final state.

    Args:
        sums: `[3, row]`, where to put them.
        logits: `[row, column]`.
        buffers: two of the shape of `logits`. To allocate them anew costs more than to fill them.
        n_states: of each token.
    """
    probabilities, products = buffers
    torch.softmax(logits, -1, out=probabilities)
    torch.amax(probabilities, -1, out=sums[0])
    by_state = (-1, n_states, logits.shape[1])
    final = probabilities.view(by_state)[:, -1:]
    torch.mul(logits.view(by_state), final, out=products.view(by_state))
    torch.sum(products, -1, out=sums[2])
    torch.sum(probabilities.mul_(logits), -1, out=sums[1])


def logits_at(swept: Swept, columns: Tensor) -> Tensor:
    """Some logits.

    Args:
        swept: of `[row]`.
        columns: `[row, any]` int64, tile after tile.

    Returns:
        `[row, any]` float32.
    """
    width = swept.logits.shape[2]
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    tiles = columns // width
    return swept.logits[tiles, rows, columns % width].float() + swept.steps[tiles]


def largest(swept: Swept, rows: Tensor, n_top: int) -> tuple[Tensor, Tensor]:
    """The largest logits: the n largest are in the n blocks of the largest maxima.

    Args:
        swept: of all rows.
        rows: int64, those that are wanted.
        n_top: at most the vocabulary.

    Returns:
        float32 logits, falling, and int64 columns, both `[row, n_top]`. NaN counts as largest, even
        beyond the vocabulary.
    """
    n_blocks = min(n_top, swept.maxima.shape[1])
    blocks = swept.maxima[rows].topk(n_blocks, sorted=False).indices
    per_tile = swept.logits.shape[2] // BLOCK_COLUMNS
    in_blocks = swept.logits.view(*swept.logits.shape[:2], per_tile, BLOCK_COLUMNS)
    tiles = blocks // per_tile
    found = (
        in_blocks[tiles, rows[:, None], blocks % per_tile].float() + swept.steps[tiles][..., None]
    )
    logits, places = found.flatten(1).topk(n_top)
    first = blocks.gather(1, places // BLOCK_COLUMNS) * BLOCK_COLUMNS
    return logits, first + places % BLOCK_COLUMNS


def count_larger_(counts: Tensor, logits: Tensor, asked: Tensor, buffer: Tensor) -> None:
    """Count logits that are larger than others.

    Args:
        counts: float32 `[row, any]`, added to.
        logits: float32 `[row, column]`.
        asked: float32 `[row, any]`.
        buffer: of the shape of `logits`.
    """
    for place in range(asked.shape[1]):
        # Into floats: a sum of booleans is three times as slow.
        torch.gt(logits, asked[:, place, None], out=buffer)
        counts[:, place] += buffer.sum(-1)
