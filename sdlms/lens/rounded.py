"""The product of states with the vocabulary in bfloat16, so rounded that errors are independent.

- The rows of the unembedding are centred over the vocabulary. A softmax does not see it, and
  bfloat16, whose error is relative, does not spend its digits on what all logits share.
- Each row of logits comes less a guess of its 64th largest, by one more input of the product, so
  that rounding the result is finest where probability is.
- Weights are rounded up or down at random. Tokens that training never saw have the same weights:
  their errors must not be the same.
- Inputs are rounded in `ROUNDINGS` ways whose mean is exact, each for its part of the vocabulary,
  and the guess is shifted by as many fractions of the result's last digit, a tile's step.

The tokens of a tile are apart by the number of tiles, so that all tiles are alike. A column is a
token's place when tile follows tile.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from sdlms.lens.sweeping import BEYOND, tiling_of

SAMPLED = 64  # one token in so many makes the guess
ROUNDINGS = 16
LAST_DIGIT = 2**-4  # of logits between 8 and 16 below the guess
ALIGNMENT = 16
EXTRA_INPUTS = 4  # the bias in two parts, the guess, its shift


class Rounding(Protocol):
    """What rounds inputs."""

    def round_(self, out: Tensor, inputs: Tensor, digits: Tensor) -> None:
        """See `Backend`."""
        ...


class RoundedProduct(NamedTuple):
    """Some rows times the centred copy, in bfloat16.

    Attributes:
        inputs: `[rounding, row, padded input]` bfloat16.
        copies: `[tile, column, padded input]` bfloat16.
        shift: float32 `[row]`, what its logits are less.
        steps: float32 `[tile]`, what its logits are less, too.
    """

    inputs: Tensor
    copies: Tensor
    shift: Tensor
    steps: Tensor

    def empty_tiles(self) -> Tensor:
        """Where to keep all logits, `[tile, row, column]`."""
        n_tiles, width, _ = self.copies.shape
        return torch.empty((n_tiles, self.inputs.shape[1], width), dtype=torch.bfloat16)

    def multiply_(self, out: Tensor, tile: int) -> None:
        """Fill `[row, column]` with the logits of a tile."""
        torch.mm(self.inputs[tile % len(self.inputs)], self.copies[tile].T, out=out)


class RoundedWeights:
    """A centred copy of the unembedding in bfloat16.

    Attributes:
        tiling: of its vocabulary.
        mean: float32 `[d_in]`, of the weights.
        mean_bias: of the biases.
        steps: float32 `[tile]`, how much less than with the guess alone a tile's logits are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Copy `[token, d_in]` of any float dtype, and float32 `[token]`."""
        d_vocab, self._d_in = weight.shape
        self.tiling = tiling_of(d_vocab, ROUNDINGS)
        # Not mean(dtype=float64), which first makes a copy of all weights.
        sums = [rows.float().sum(0).double() for rows in torch.split(weight, self.tiling.width)]
        self.mean = (torch.stack(sums).sum(0) / d_vocab).float()
        self.mean_bias = 0.0 if bias is None else float(bias.mean())
        self._copies = self._centred(weight, bias)
        self._sample = self._copies.flatten(0, 1)[::SAMPLED].clone()
        n_roundings = min(ROUNDINGS, self.tiling.n_tiles)
        generator = torch.Generator().manual_seed(0)
        phases = torch.randint(ROUNDINGS, (self._d_in,), generator=generator)
        parts = (torch.arange(n_roundings)[:, None] + phases) % n_roundings * 2 + 1
        self._digits = (parts * (2**15 // n_roundings)).int()
        tiles = torch.arange(self.tiling.n_tiles)
        self.steps = (tiles % ROUNDINGS).float() * (LAST_DIGIT / ROUNDINGS)

    def columns_of(self, ids: Tensor) -> Tensor:
        """Where tokens are."""
        n_tiles, width = self.tiling.n_tiles, self.tiling.width
        return ids % n_tiles * width + ids // n_tiles

    def ids_of(self, columns: Tensor) -> Tensor:
        """Which tokens are where; the last one for columns beyond the vocabulary."""
        n_tiles, width = self.tiling.n_tiles, self.tiling.width
        ids = columns % width * n_tiles + columns // width
        return ids.clamp_max(self.tiling.d_vocab - 1)

    def product(self, inputs: Tensor, rounding: Rounding) -> RoundedProduct:
        """Prepare the product of float32 `[row, d_in]`."""
        n_roundings, n_rows, d_in = len(self._digits), *inputs.shape
        shape = (n_roundings, n_rows, self._copies.shape[2])
        rounded = torch.zeros(shape, dtype=torch.bfloat16)
        rounding.round_(rounded, inputs, self._digits)
        rounded[:, :, d_in : d_in + 2] = 1
        guess = linear(rounded[0], self._sample).amax(-1)
        rounded[:, :, d_in + 2] = -guess
        rounded[:, :, d_in + 3] = -self.steps[:n_roundings, None]
        return RoundedProduct(rounded, self._copies, guess.float(), self.steps)

    def _centred(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`[tile, column, input]` bfloat16: weights, the bias in two parts, two times 1, zeros."""
        tiling, d_in = self.tiling, self._d_in
        d_padded = -(-(d_in + EXTRA_INPUTS) // ALIGNMENT) * ALIGNMENT
        copies = torch.zeros((tiling.n_tiles, tiling.width, d_padded), dtype=torch.bfloat16)
        copies[:, :, d_in] = BEYOND
        copies[:, :, d_in + 2 : d_in + 4] = 1
        generator = torch.Generator().manual_seed(0)
        for tile in range(tiling.n_tiles):
            tokens = slice(tile, None, tiling.n_tiles)
            centred = weight[tokens].float() - self.mean
            digits = torch.randint(2**16, centred.shape, generator=generator, dtype=torch.int32)
            biases = torch.zeros(len(centred))
            if bias is not None:
                biases = bias[tokens] - self.mean_bias
            copy = copies[tile, : len(centred)]
            copy[:, :d_in] = rounded_by(centred, digits)
            copy[:, d_in] = biases
            copy[:, d_in + 1] = biases - copy[:, d_in].float()
        return copies


def rounded_by(values: Tensor, digits: Tensor) -> Tensor:
    """bfloat16 values, rounded away from 0 where what is cut off and `digits` reach 2**16."""
    return ((values.view(torch.int32) + digits) & -(2**16)).view(torch.float32).bfloat16()
