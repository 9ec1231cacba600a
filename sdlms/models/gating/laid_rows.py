"""Weights laid out where they lie, so that what a rule skips is whole rows; and laid back."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from mmap import mmap
from typing import NamedTuple

import torch
from torch import Tensor

from sdlms.models.gating.layouts import Axis, LinearMap, address

Swap = tuple[Tensor, Tensor]  # int64 [n] rows, and the rows that go there
PART = 1 << 18  # rows are swapped in parts of so many bytes


def room_of(n_bytes: int, device: torch.device) -> Tensor:
    """Bytes that every mode may write to, and that go back to the system with their last holder.

    Where malloc is given a block back, it may be too small for the next of its size, once something
    small lies in it: so memory grew by up to two fifths of the weights.
    """
    with torch.inference_mode(False):
        if device.type == "cpu":
            return torch.frombuffer(mmap(-1, max(1, n_bytes)), dtype=torch.uint8)[:n_bytes]
        return torch.empty(n_bytes, dtype=torch.uint8, device=device)


class Scratch:
    """Room for one matrix, for all `Rows` of a context."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def copy_of(self, matrix: Tensor) -> Tensor:
        """The values of a matrix, until the next one is copied."""
        n_bytes = matrix.numel() * matrix.element_size()
        room = self._room
        if room is None or room.device != matrix.device or room.numel() < n_bytes:
            self._room = room = None
            self._room = room = room_of(n_bytes, matrix.device)
        return room[:n_bytes].view(matrix.dtype).view(matrix.shape).copy_(matrix)

    def free(self) -> None:
        """Give the memory back."""
        self._room = None


class Turn(NamedTuple):
    """A transposition in place.

    Attributes:
        memory: contiguous view of the weight's memory, of the shape that it is to have.
        weight: the weight then.
        values: of `memory`.
    """

    memory: Tensor
    weight: Tensor
    values: Tensor


class Rows:
    """The weight of a linear map as contiguous rows, one for each input or for each output.

    Where the map holds it the other way round it is transposed where it lies, and becomes a
    transposed view of its own memory: its values, as a tensor, stay what they are. What a graph of
    gradients has saved of it is void then, and autograd says so.

    Args:
        linear: the map.
        axis: what a row belongs to.
        copied: leave the map's own weight as it is and work on a copy, in twice the memory.

    Attributes:
        rows: `[in, out]` or `[out, in]`, contiguous once they are laid.
        bias: `[out]`, or None.
    """

    def __init__(self, linear: LinearMap, axis: Axis, *, copied: bool) -> None:
        self._linear, self._axis, self._copied = linear, axis, copied
        self._swapped: tuple[Swap, ...] = ()
        self._torn: tuple[tuple[Swap, ...], list[tuple[Tensor, Tensor, Tensor]]] | None = None
        self._turning: Turn | None = None
        with self._writing():
            self._own = linear.weight.detach()
            self.rows = linear.by(axis).detach()
            self.bias = None if linear.bias is None else linear.bias.detach()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Weights are written in the mode that they were made in; they outlast a user's mode."""
        with torch.inference_mode(self._linear.weight.is_inference()), torch.no_grad():
            yield

    def lay_(self, scratch: Scratch) -> None:
        """Make the rows contiguous, in the map's own weight unless copied; `lay_back` undoes it."""
        with self._writing():
            if self._copied:
                self.rows = self.rows.clone(memory_format=torch.contiguous_format)
                self.bias = None if self.bias is None else self.bias.clone()
            elif not self.rows.is_contiguous():
                self.rows = self._own.as_strided(self.rows.shape, (self.rows.shape[1], 1))
                turned = self.rows if self._linear.rows == self._axis else self.rows.t()
                self._turn_(self.rows, turned, scratch)

    def _turn_(self, memory: Tensor, weight: Tensor, scratch: Scratch) -> None:
        """Transpose in place; until it is done `_turning` knows how to."""
        before = memory.view(memory.shape[::-1])
        self._turning = Turn(memory, weight, scratch.copy_of(before).t())
        self._finish_turn_()

    def _finish_turn_(self) -> None:
        """Also of a turn that an exception interrupted."""
        if self._turning is not None:
            self._turning.memory.copy_(self._turning.values)
            self._linear.weight.data = self._turning.weight
            self._turning = None

    def front_(self, kept: Tensor) -> None:
        """Swap rows so that the kept ones come first, and biases where rows are outputs.

        Args:
            kept: bool `[row]`.
        """
        self.restore_()
        n = int(kept.sum())
        strays = kept[n:].nonzero().flatten() + n
        holes = (~kept[:n]).nonzero().flatten()
        part = max(1, PART // (self.rows.shape[1] * self.rows.element_size()))
        pairs = zip(torch.split(holes, part), torch.split(strays, part), strict=True)
        swaps = [(torch.cat([hole, stray]), torch.cat([stray, hole])) for hole, stray in pairs]
        room = self._room_for(swaps)
        for swap in swaps:
            self._swap_(swap, (*self._swapped, swap), room)

    def restore_(self) -> None:
        """Undo `front_` exactly; also one that an exception interrupted."""
        if self._torn is not None:
            before, saved = self._torn
            with self._writing():
                for tensor, indices, values in saved:
                    tensor[indices] = values
            self._swapped, self._torn = before, None
        room = self._room_for(self._swapped)
        while self._swapped:
            self._swap_(self._swapped[-1], self._swapped[:-1], room)

    def _room_for(self, swaps: Sequence[Swap]) -> Tensor:
        """Twice the rows of the largest of some swaps, `[2, row, ...]`."""
        n_rows, n_columns = max((len(to) for to, _ in swaps), default=0), self.rows.shape[1]
        shape, dtype = (2, n_rows, n_columns), self.rows.dtype
        with self._writing():
            room = room_of(math.prod(shape) * dtype.itemsize, self.rows.device)
            return room.view(dtype).view(shape)

    def _swap_(self, swap: Swap, after: tuple[Swap, ...], room: Tensor) -> None:
        """Move rows; until all is moved `_torn` knows what was there before."""
        to, source = swap
        with self._writing():
            before, moved = room[:, : len(to)]
            saved = [(self.rows, to, torch.index_select(self.rows, 0, to, out=before))]
            moves = [(self.rows, torch.index_select(self.rows, 0, source, out=moved))]
            if self._axis == "outputs" and self.bias is not None:
                saved.append((self.bias, to, self.bias[to]))
                moves.append((self.bias, self.bias[source]))
            self._torn = (self._swapped, saved)
            for tensor, values in moves:
                tensor[to] = values
            self._swapped = after
            self._torn = None

    def lay_back(self, scratch: Scratch) -> None:
        """Give the map its weight again, bit by bit and with the strides it had.

        Raises:
            ValueError: the map has another weight by now, which is left as it is.
        """
        try:
            self._lay_back(scratch)
        finally:  # an interrupt may have come in between; what is done is not done again
            self._lay_back(scratch)

    def _lay_back(self, scratch: Scratch) -> None:
        with self._writing():
            self._finish_turn_()
        self.restore_()
        weight, own = self._linear.weight, self._own
        if self._copied:
            return
        if address(weight) != address(own) or weight.dtype != own.dtype:
            raise ValueError(
                f"a weight {list(own.shape)} was replaced while it was gated. Leave the block first"
            )
        if weight.stride() != own.stride():
            with self._writing():
                memory = own if own.is_contiguous() else own.t()
                self._turn_(memory, own, scratch)


def lay_all_back(laid: list[Rows], scratch: Scratch) -> None:
    """Lay back what can be, the last first, and forget it.

    Raises:
        ValueError: as `Rows.lay_back`, when all others are laid back.
    """
    with ExitStack() as stack:
        for rows in laid:
            stack.callback(rows.lay_back, scratch)
        stack.callback(laid.clear)
