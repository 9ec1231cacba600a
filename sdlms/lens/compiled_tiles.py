"""Passes over tiles of bfloat16 logits by the kernel `tiles.c`.

Only sizes and addresses cross into C. All checks are made here, before.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdlms.lens.rounded import RoundedProduct
from sdlms.lens.sweeping import BLOCK_COLUMNS, Swept, combined
from sdlms.models.kernels.building import NoKernelError, Source, kernel
from sdlms.models.kernels.pool import give_threads

TILES = Source("tiles", Path(__file__).with_name("tiles.c"))
MOST_COLUMNS = 2048
PIECES = 4  # of rows, per thread
DTYPES = (torch.float32, torch.bfloat16)


class _Tile(ctypes.Structure):
    """`Tile` of tiles.c."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("logits", "asked", "counts", "maxima", "sums")),
        *((name, c_int64) for name in ("n_rows", "n_columns", "n_states", "n_asked", "n_blocks")),
        ("step", c_float),
    ]


class _Largest(ctypes.Structure):
    """`Largest` of tiles.c."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("logits", "maxima", "steps", "rows")),
        *((name, c_void_p) for name in ("values", "columns", "scratch")),
        *((name, c_int64) for name in ("n_tiles", "n_rows", "n_columns")),
        *((name, c_int64) for name in ("n_wanted", "n_top", "n_pieces", "n_scratch")),
    ]


class _Dots(ctypes.Structure):
    """`Dots` of tiles.c."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("weight", "inputs", "ids", "out")),
        *((name, c_int64) for name in ("n_groups", "n_states", "n_inputs", "n_wanted")),
        ("is_bfloat16", c_int32),
    ]


class _Rounding(ctypes.Structure):
    """`Rounding` of tiles.c."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("inputs", "digits", "out")),
        *((name, c_int64) for name in ("n_roundings", "n_rows", "n_inputs", "n_padded")),
    ]


class CompiledTiles:
    """The kernel, with as many threads as torch has at a call; see `Backend`.

    Args:
        dtype: of the model's weights.

    Raises:
        NoKernelError: The kernel cannot be compiled here, or not for this dtype.
    """

    name: Literal["torch", "compiled"] = "compiled"

    def __init__(self, dtype: torch.dtype) -> None:
        if dtype not in DTYPES:
            known = " and ".join(str(one)[6:] for one in DTYPES)
            raise NoKernelError(f"the kernel knows weights in {known}, not {str(dtype)[6:]}")
        library = kernel(TILES)
        give_threads(library)
        self._library = library
        for name in ("measure_tile", "choose_largest", "some_dots", "round_inputs"):
            function = library[name]
            function.argtypes, function.restype = [c_void_p, c_int32], None
            setattr(library, name, function)

    def round_(self, out: Tensor, inputs: Tensor, digits: Tensor) -> None:
        """See `Backend.round_`."""
        n_roundings, n_rows, n_padded = out.shape
        _check(out, torch.bfloat16, out.shape)
        _check(inputs, torch.float32, (n_rows, inputs.shape[1]))
        _check(digits, torch.int32, (n_roundings, inputs.shape[1]))
        if inputs.shape[1] > n_padded:
            raise ValueError(f"{inputs.shape[1]} inputs in rows of {n_padded}")
        addresses = (tensor.data_ptr() for tensor in (inputs, digits, out))
        job = _Rounding(*addresses, n_roundings, n_rows, inputs.shape[1], n_padded)
        self._library.round_inputs(ctypes.byref(job), torch.get_num_threads())

    def sweep(self, product: RoundedProduct, asked: Tensor, n_states: int) -> tuple[Swept, Tensor]:
        """See `Backend.sweep`."""
        kept = product.empty_tiles()
        n_tiles, n_rows, width = kept.shape
        per_tile = width // BLOCK_COLUMNS
        asked = asked.contiguous()
        _check(asked, torch.float32, (n_rows, asked.shape[1]))
        if width > MOST_COLUMNS or width % BLOCK_COLUMNS or n_rows % n_states:
            raise ValueError(f"{n_rows} rows of {n_states} states, tiles of {width} columns")
        maxima, sums = torch.empty(n_rows, n_tiles * per_tile), torch.empty(n_tiles, 3, n_rows)
        counts = torch.zeros_like(asked)
        for number, (out, found) in enumerate(zip(kept, sums, strict=True)):
            product.multiply_(out, number)
            blocks = maxima[:, number * per_tile :]
            addresses = (one.data_ptr() for one in (out, asked, counts, blocks, found))
            sizes = (n_rows, width, n_states, asked.shape[1], maxima.shape[1])
            job = _Tile(*addresses, *sizes, float(product.steps[number]))
            self._library.measure_tile(ctypes.byref(job), torch.get_num_threads())
        return Swept(kept, maxima, combined(maxima, sums, n_states), product.steps), counts

    def largest(self, swept: Swept, rows: Tensor, n_top: int) -> tuple[Tensor, Tensor]:
        """See `Backend.largest`; of equal logits those of the first columns."""
        n_tiles, n_rows, width = swept.logits.shape
        n_blocks = swept.maxima.shape[1]
        _check(swept.logits, torch.bfloat16, swept.logits.shape)
        _check(swept.maxima, torch.float32, (n_rows, n_tiles * width // BLOCK_COLUMNS))
        _check(swept.steps, torch.float32, (n_tiles,))
        _check_indices(rows, n_rows)
        if not 1 <= n_top <= n_tiles * width:
            raise ValueError(f"{n_top} largest of {n_tiles * width}")
        n_threads = torch.get_num_threads()
        n_pieces = max(1, min(PIECES * n_threads, len(rows)))
        # What is found in blocks twice, sorted, once more as keys; three lists of the largest.
        n_scratch = (BLOCK_COLUMNS + 2) * n_top + max(n_blocks, BLOCK_COLUMNS * n_top)
        scratch = torch.empty((n_pieces, n_scratch), dtype=torch.int64)
        values = torch.empty((len(rows), n_top))
        columns = torch.empty((len(rows), n_top), dtype=torch.int64)
        tensors = (swept.logits, swept.maxima, swept.steps, rows, values, columns, scratch)
        addresses = (tensor.data_ptr() for tensor in tensors)
        sizes = (n_tiles, n_rows, width, len(rows), n_top, n_pieces, n_scratch)
        job = _Largest(*addresses, *sizes)
        self._library.choose_largest(ctypes.byref(job), n_threads)
        return values, columns

    def dots(self, weight: Tensor, inputs: Tensor, ids: Tensor) -> Tensor:
        """See `Backend.dots`."""
        n_groups, n_states, n_inputs = inputs.shape
        ids, inputs = ids.contiguous(), inputs.contiguous()
        if weight.dtype not in DTYPES:
            raise ValueError(f"weights are {weight.dtype}")
        _check(weight, weight.dtype, (len(weight), n_inputs))
        _check(inputs, torch.float32, inputs.shape)
        _check(ids, torch.int64, (n_groups, ids.shape[1]))
        _check_indices(ids, len(weight))
        out = torch.empty((n_groups, n_states, ids.shape[1]))
        addresses = (tensor.data_ptr() for tensor in (weight, inputs, ids, out))
        sizes = (n_groups, n_states, n_inputs, ids.shape[1])
        job = _Dots(*addresses, *sizes, weight.dtype == torch.bfloat16)
        self._library.some_dots(ctypes.byref(job), torch.get_num_threads())
        return out


def _check(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The kernel reads addresses: everything must lie there as it believes."""
    if (
        tensor.dtype != dtype
        or tensor.shape != shape
        or not tensor.is_cpu
        or not tensor.is_contiguous()
    ):
        raise ValueError(
            f"expected {list(shape)} contiguous {dtype} on the CPU, got {list(tensor.shape)} "
            f"{tensor.dtype} on {tensor.device}, strides {tensor.stride()}"
        )


def _check_indices(indices: Tensor, n: int) -> None:
    if indices.dtype != torch.int64 or not indices.is_contiguous():
        raise ValueError("indices must be contiguous int64")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < n:
        raise ValueError(f"an index is not below {n}")
