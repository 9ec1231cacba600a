"""Passes over tiles of bfloat16 logits in torch alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdlms.lens.rounded import RoundedProduct, rounded_by
from sdlms.lens.sweeping import Swept, count_larger_, largest, sweep

GATHERED_NUMBERS = 2**20


class TorchTiles:
    """The backend that is always there."""

    name: Literal["torch", "compiled"] = "torch"

    def round_(self, out: Tensor, inputs: Tensor, digits: Tensor) -> None:
        """See `Backend.round_`."""
        for rounded, added in zip(out, digits, strict=True):
            rounded[:, : inputs.shape[1]] = rounded_by(inputs, added)

    def sweep(self, product: RoundedProduct, asked: Tensor, n_states: int) -> tuple[Swept, Tensor]:
        """See `Backend.sweep`."""
        counted = _Counted(product, asked)
        return sweep(counted, product.empty_tiles(), n_states), counted.counts

    def largest(self, swept: Swept, rows: Tensor, n_top: int) -> tuple[Tensor, Tensor]:
        """See `Backend.largest`."""
        return largest(swept, rows, n_top)

    def dots(self, weight: Tensor, inputs: Tensor, ids: Tensor) -> Tensor:
        """See `Backend.dots`."""
        found = torch.empty((*inputs.shape[:2], ids.shape[1]))
        at_once = max(1, GATHERED_NUMBERS // max(1, ids.shape[1] * inputs.shape[2]))
        for first in range(0, len(ids), at_once):
            part = slice(first, first + at_once)
            rows = weight.index_select(0, ids[part].flatten()).float()
            rows = rows.view(*ids[part].shape, -1)
            if inputs.shape[1] == 1:  # a product of a matrix and one vector is the slower way
                torch.sum(rows.mul_(inputs[part]), -1, out=found[part, 0])
            else:
                torch.bmm(inputs[part], rows.mT, out=found[part])
        return found


class _Counted:
    """A product in float32, and how many of its logits are larger than some."""

    def __init__(self, product: RoundedProduct, asked: Tensor) -> None:
        self._product, self._asked = product, asked
        self.steps, self.counts = product.steps, torch.zeros_like(asked)
        shape = (2, product.inputs.shape[1], product.copies.shape[1])
        self._buffers = torch.empty(shape)

    def tile(self, number: int, out: Tensor) -> Tensor:
        """See `Product`."""
        self._product.multiply_(out, number)
        logits: Tensor = self._buffers[0]
        # A slice: a tensor without axes would leave the sum in bfloat16.
        torch.add(out, self.steps[number : number + 1], out=logits)
        count_larger_(self.counts, logits, self._asked, self._buffers[1])
        return logits
