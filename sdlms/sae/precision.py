"""What the matrix products of a training run in."""

from typing import Literal

import torch

from sdlms.errors import UserError
from sdlms.models.device import dtype_of


def products_dtype(
    device: torch.device, dtype: Literal["auto", "float32", "bfloat16", "float16"]
) -> torch.dtype:
    """The type of the products' factors; weights and Adam's memory are float32 whatever it is.

    Raises:
        UserError: float16, whose range needs a scaled loss that no training here has.
    """
    if dtype == "float16":
        raise UserError(
            "--dtype float16: gradients of an SAE leave its range. Choose bfloat16 or float32."
        )
    return dtype_of(dtype, device)
