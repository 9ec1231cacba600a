"""What the fast unembedding does beside its product: one interface, two ways, and the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.lens.compiled_tiles import CompiledTiles
from sdlms.lens.rounded import RoundedProduct
from sdlms.lens.sweeping import Swept
from sdlms.lens.torch_tiles import TorchTiles
from sdlms.models.kernels.building import NoKernelError

BackendName = Literal["auto", "torch", "compiled"]


class Backend(Protocol):
    """Passes over tiles of bfloat16 logits, and float32 logits of chosen tokens, on the CPU."""

    name: Literal["torch", "compiled"]

    def round_(self, out: Tensor, inputs: Tensor, digits: Tensor) -> None:
        """Round inputs in several ways.

        Args:
            out: bfloat16 `[rounding, row, padded input]`, of which the inputs are written.
            inputs: float32 `[row, input]`.
            digits: int32 `[rounding, input]`, added to what bfloat16 cuts off.
        """
        ...

    def sweep(self, product: RoundedProduct, asked: Tensor, n_states: int) -> tuple[Swept, Tensor]:
        """Multiply, and measure each tile.

        Args:
            product: of rows that are tokens by states, each token's final state last.
            asked: float32 `[row, any]`.
            n_states: of each token.

        Returns:
            What was found, and float32 `[row, any]`: how many logits are larger than `asked`.
        """
        ...

    def largest(self, swept: Swept, rows: Tensor, n_top: int) -> tuple[Tensor, Tensor]:
        """See `sweeping.largest`."""
        ...

    def dots(self, weight: Tensor, inputs: Tensor, ids: Tensor) -> Tensor:
        """Products of inputs with some rows of the weights.

        Args:
            weight: `[token, input]`, contiguous.
            inputs: float32 `[group, state, input]`.
            ids: int64 `[group, any]`.

        Returns:
            float32 `[group, state, any]`.
        """
        ...


def decided_backend(unembed: Literal["float32", "bfloat16"], dtype: torch.dtype) -> dict[str, Any]:
    """What a run records: the backend that it will have, and why it is not the compiled one.

    Args:
        unembed: in which states are unembedded; only bfloat16 has a backend.
        dtype: of the model's weights.
    """
    if unembed == "float32":
        return {}
    reasons: list[str] = []
    name = backend_of("auto", dtype, reasons.append).name
    return {"backend": name, "backend_reason": reasons[0] if reasons else None}


def backend_of(
    name: BackendName, dtype: torch.dtype, on_fallback: Callable[[str], None]
) -> Backend:
    """The backend of that name for weights of a dtype.

    Args:
        name: `auto` is `compiled` where that can be, else `torch`.
        dtype: of the model's weights.
        on_fallback: is told why, where `auto` is not the compiled kernel.

    Raises:
        UserError: `compiled` was asked for, and cannot be.
    """
    if name == "torch":
        return TorchTiles()
    try:
        return CompiledTiles(dtype)
    except NoKernelError as error:
        if name == "auto":
            on_fallback(str(error))
            return TorchTiles()
        raise UserError(
            f"--unembed bfloat16: this run was begun with the compiled kernel, which cannot be had "
            f"now: {error}. Install a compiler (pip install 'sdlms[kernels]'), or begin anew."
        ) from None
