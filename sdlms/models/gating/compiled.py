"""Products with some rows of a matrix, by the kernel `rows.c`: what a decoded token costs on a CPU.

Only sizes and addresses cross into C. All checks are made here, before.
"""

import ctypes
import threading
from ctypes import c_float, c_int, c_int32, c_int64, c_long, c_void_p
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from sdlms.models.kernels.building import NoKernelError, Source, kernel
from sdlms.models.kernels.pool import give_threads

ROWS = Path(__file__).with_name("rows.c")
SOURCES = {
    torch.float32: Source("rows-float32", ROWS),
    torch.bfloat16: Source("rows-bfloat16", ROWS, ("-DBFLOAT16",)),
}


class _Product(ctypes.Structure):
    """`Product` of rows.c."""

    _fields_: ClassVar = [
        *((name, c_void_p) for name in ("matrix", "x", "bias", "weights", "out")),
        *((name, c_void_p) for name in ("scratch", "chosen")),
        *((name, c_int64) for name in ("n_rows", "n_columns")),
        ("n_threads", c_int32),
    ]


class Compiled:
    """The kernel for one element type on the CPU, with as many threads as torch has at a call.

    Where torch's threads cannot be shared (`shares_threads`) it runs on the caller's alone.
    Nothing here is differentiable. A call allocates its result only; scratch is kept, one for each
    Python thread.

    Args:
        dtype: of weights and inputs; float32 or bfloat16. Sums are float32.

    Raises:
        NoKernelError: The kernel cannot be compiled here, or not for this dtype.
    """

    name = "compiled"

    def __init__(self, dtype: torch.dtype) -> None:
        if dtype not in SOURCES:
            known = " and ".join(str(one)[6:] for one in SOURCES)
            raise NoKernelError(f"the kernel knows {known}, not {str(dtype)[6:]}")
        self._dtype = dtype
        self._scratch = _Scratch()
        library = kernel(SOURCES[dtype])
        self.shares_threads = give_threads(library)
        self._dots = library.all_dots
        self._dots.argtypes = [c_void_p] * 5 + [c_long, c_long, c_int]
        self._dots.restype = None
        self._listed, self._largest = library.listed_rows, library.largest_rows
        self._above = library.rows_above
        self._listed.argtypes = [c_void_p, c_void_p, c_long]
        self._largest.argtypes = [c_void_p, c_long]
        self._above.argtypes = [c_void_p, c_float]
        for function in (self._listed, self._largest, self._above):
            function.restype = c_long

    def dense(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """`weight @ x + bias`, see `Backend.dense`."""
        n_out, n_in = weight.shape
        self._check(weight, bias, x, n_in, n_out)
        out = torch.empty(n_out, dtype=self._dtype)
        scratch, _ = self._scratch.of(n_in, 0)
        self._dots(
            weight.data_ptr(),
            x.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            scratch,
            n_out,
            n_in,
            torch.get_num_threads(),
        )
        return out

    def listed(self, rows: Tensor, bias: Tensor | None, x: Tensor, indices: Tensor) -> Tensor:
        """See `Backend.listed`."""
        n_listed = indices.numel()
        _check_vector(indices, torch.int64, n_listed, "indices")
        product, out = self._product(rows, bias, x, None)
        if self._listed(ctypes.byref(product), indices.data_ptr(), n_listed) < 0:
            raise ValueError(f"a listed row does not exist; there are {rows.shape[0]}")
        return out

    def largest(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None, keep: int
    ) -> Tensor:
        """See `Backend.largest`."""
        product, out = self._product(rows, bias, x, weights)
        if not 1 <= keep <= product.n_rows:
            raise ValueError(f"keep must be in [1, {product.n_rows}], got {keep}")
        self._largest(ctypes.byref(product), keep)
        return out

    def above(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None, least: float
    ) -> tuple[Tensor, int]:
        """See `Backend.above`."""
        product, out = self._product(rows, bias, x, weights)
        return out, self._above(ctypes.byref(product), least)

    def _product(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None
    ) -> tuple[_Product, Tensor]:
        """The arguments of a product with some rows, and the tensor that takes its result."""
        n_rows, n_columns = rows.shape
        self._check(rows, bias, x, n_rows, n_columns)
        if weights is not None:
            _check_vector(weights, torch.float32, n_rows, "weights")
        out = torch.empty(n_columns, dtype=self._dtype)
        n_threads = torch.get_num_threads()
        scratch, chosen = self._scratch.of(n_rows + n_columns, n_rows)
        product = _Product(
            rows.data_ptr(),
            x.data_ptr(),
            None if bias is None else bias.data_ptr(),
            None if weights is None else weights.data_ptr(),
            out.data_ptr(),
            scratch,
            chosen,
            n_rows,
            n_columns,
            n_threads,
        )
        return product, out

    def _check(self, matrix: Tensor, bias: Tensor | None, x: Tensor, n_x: int, n_out: int) -> None:
        """The kernel reads addresses: everything must lie there as it believes."""
        if matrix.dtype != self._dtype or not matrix.is_cpu or not matrix.is_contiguous():
            raise ValueError(
                f"the matrix must be contiguous {self._dtype} on the CPU, got {matrix.dtype} on "
                f"{matrix.device}, strides {matrix.stride()}"
            )
        _check_vector(x, self._dtype, n_x, "x")
        if bias is not None:
            _check_vector(bias, self._dtype, n_out, "bias")


class _Scratch(threading.local):
    """Memory of one Python thread: floats, and indices of rows; it grows when more is asked for."""

    def __init__(self) -> None:
        self._floats = torch.empty(0)
        self._indices = torch.empty(0, dtype=torch.int64)

    def of(self, n_floats: int, n_indices: int) -> tuple[int, int]:
        """Addresses of at least so many of each."""
        if self._floats.numel() < n_floats:
            self._floats = torch.empty(n_floats)
        if self._indices.numel() < n_indices:
            self._indices = torch.empty(n_indices, dtype=torch.int64)
        return self._floats.data_ptr(), self._indices.data_ptr()


def _check_vector(x: Tensor, dtype: torch.dtype, n: int, name: str) -> None:
    if x.dtype != dtype or x.shape != (n,) or not x.is_cpu or not x.is_contiguous():
        raise ValueError(
            f"{name} must be [{n}] contiguous {dtype} on the CPU, got {list(x.shape)} {x.dtype} on "
            f"{x.device}, strides {x.stride()}"
        )
