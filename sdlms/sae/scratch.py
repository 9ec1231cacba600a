"""Memory that learners of one shape take turns in: nothing in it outlives a step."""

from weakref import WeakValueDictionary

import torch
from torch import Tensor


class Scratch:
    """Tensors by name and type, made when they are first asked for.

    A step of a few milliseconds would otherwise spend as long on fresh pages as on a product.
    """

    def __init__(self, device: torch.device) -> None:
        """Empty."""
        self._device = device
        self._tensors: dict[tuple[str, torch.dtype], Tensor] = {}

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Room of that shape; it holds what was left there."""
        size = torch.Size(shape).numel()
        found = self._tensors.get((name, dtype))
        if found is None or found.numel() < size:
            found = self._tensors[name, dtype] = torch.empty(size, dtype=dtype, device=self._device)
        return found[:size].view(shape)


_SHARED: WeakValueDictionary[tuple[str, int, int], Scratch] = WeakValueDictionary()


def shared_scratch(device: torch.device, d_in: int, width: int) -> Scratch:
    """The one of all learners of these sizes; it goes when the last of them does."""
    key = (str(device), d_in, width)
    found = _SHARED.get(key)
    if found is None:
        found = _SHARED[key] = Scratch(device)
    return found
