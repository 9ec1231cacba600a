"""What stands in the place of a linear map while its MLP is gated."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)

LEAVE = "the model is gated. Leave the gated block first"


class StandIn(nn.Module):
    """Computes otherwise what a linear map computes.

    It has the map's parameters under their own names and shares its hooks: one that was registered
    on either acts on both and can be removed from both, so that sites are read and replaced before
    a rule chooses, whichever context was opened first. A deep copy of it is one of the map.

    Args:
        module: the linear map.
        compute: from the map's input `[..., in]` to `[..., out]`.
        permuted: its parameters may be in another order than the map's own.

    Raises:
        ValueError: parameters are loaded, or moved to another device or dtype; or read by
            `state_dict` or copied, where they may be permuted.
    """

    def __init__(
        self, module: nn.Module, compute: Callable[[Tensor], Tensor], *, permuted: bool = False
    ) -> None:
        super().__init__()
        self._permuted = permuted
        self._own = (module,)  # not a child: its parameters keep their names
        self.weight, self.bias = module.weight, module.bias
        for name in HOOKS:
            setattr(self, name, getattr(module, name))
        self._compute = compute
        self.train(module.training)

    @property
    def module(self) -> nn.Module:
        """The linear map that it stands in for."""
        return self._own[0]

    def forward(self, x: Tensor) -> Tensor:
        """What the layer's rule makes of it."""
        return self._compute(x)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """What `to`, `half` and the like do to parameters: here, nothing."""
        with torch.no_grad():
            for own in self.parameters():
                found = fn(own.detach())
                if found.dtype != own.dtype or found.data_ptr() != own.data_ptr():
                    raise ValueError(f"weights cannot be moved or converted: {LEAVE}")
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        raise ValueError(f"weights cannot be loaded: {LEAVE}")

    def _save_to_state_dict(self, *arguments: Any) -> None:
        self._check_order("saved")
        super()._save_to_state_dict(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        self._check_order("copied")
        return copy.deepcopy(self.module, memo)

    def _check_order(self, what: str) -> None:
        if self._permuted:
            raise ValueError(f"permuted weights cannot be {what}: {LEAVE}")
