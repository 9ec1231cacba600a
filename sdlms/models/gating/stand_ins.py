"""What stands in the place of a linear map while its MLP is gated."""

from collections.abc import Callable

from torch import Tensor, nn

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


class StandIn(nn.Module):
    """Computes otherwise what a linear map computes.

    It has the map's parameters under their own names and shares its hooks: one that was registered
    on either acts on both and can be removed from both, so that sites are read and replaced before
    a rule chooses, whichever context was opened first.

    Args:
        module: the linear map.
        compute: from the map's input `[..., in]` to `[..., out]`.
    """

    def __init__(self, module: nn.Module, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
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
