"""What multiplies with some rows of a matrix: one interface, two ways, and the choice of one."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.models.gating.compiled import Compiled
from sdlms.models.gating.torch_rows import Torch
from sdlms.models.kernels.building import NoKernelError

BackendName = Literal["auto", "torch", "compiled"]


class Backend(Protocol):
    """Products of one vector with a matrix. The result is a new tensor of the matrix' dtype.

    Scores are `abs(x) * weights` in float32, whatever the dtype of x. NaN counts as the largest
    score, so that it reaches the result. No gradient flows through any of these.

    Raises:
        ValueError: shapes, dtypes or `keep` do not fit.
    """

    name: str

    def dense(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """`weight @ x + bias`: weight `[out, in]` contiguous, bias `[out]`, x `[in]` -> `[out]`."""
        ...

    def listed(self, rows: Tensor, bias: Tensor | None, x: Tensor, indices: Tensor) -> Tensor:
        """Sum over listed i of `x[i] * rows[i]`, + bias.

        Args:
            rows: `[in, out]`, contiguous; only listed rows are read.
            bias: `[out]`.
            x: `[in]`.
            indices: int64 `[n]`, each below `in`.

        Returns:
            `[out]`.
        """
        ...

    def largest(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None, keep: int
    ) -> Tensor:
        """`listed` over exactly `keep` inputs of largest score, of equal ones the first.

        `weights` are float32 `[in]`, none of them negative; None is 1.
        """
        ...

    def above(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None, least: float
    ) -> tuple[Tensor, int]:
        """`listed` over inputs whose score is larger than `least`; and how many these were."""
        ...


def backend_of(
    name: BackendName, dtype: torch.dtype, device: torch.device, on_fallback: Callable[[str], None]
) -> Backend:
    """The backend of that name for weights of a dtype on a device.

    Args:
        name: `auto` is `compiled` where that can be, else `torch`.
        dtype: of the weights and of what they are multiplied with.
        device: where they are.
        on_fallback: is told why, where `auto` is not the compiled kernel.

    Raises:
        UserError: `compiled` was asked for, and cannot be.
    """
    if name == "torch":
        return Torch()
    try:
        if device.type != "cpu":
            raise NoKernelError(f"the kernel runs on the CPU, the model on {device.type}")
        return Compiled(dtype)
    except NoKernelError as error:
        if name == "auto":
            on_fallback(str(error))
            return Torch()
        raise UserError(
            f"--backend compiled: {error}. Install a compiler (pip install 'sdlms[kernels]'), "
            "or choose --backend auto."
        ) from None
