"""Adam on parameters that lie one after another in one tensor."""

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MAX_NORM = 1.0


class Adam:
    """Adam as sae-lens uses it: gradients clipped to norm 1 together, no weight decay.

    One fused kernel updates everything and clips on its way.

    Attributes:
        params: float32 views, by name.
        grads: shaped as `params`; whoever steps fills them.
    """

    def __init__(self, initial: dict[str, Tensor], device: torch.device) -> None:
        """Start from copies of `initial`."""
        self._shapes = {name: initial[name].shape for name in sorted(initial)}
        values = [initial[name].flatten().to(device, torch.float32) for name in self._shapes]
        self._flat = torch.cat(values)
        self._flat_grads = torch.zeros_like(self._flat)
        self._mean = torch.zeros_like(self._flat)
        self._square = torch.zeros_like(self._flat)
        self._n_steps = torch.zeros((), device=device)
        self.params = self._views(self._flat)
        self.grads = self._views(self._flat_grads)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parts of a tensor that holds one parameter after another, by their names."""
        parts = torch.split(flat, [shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def step_(self, lr: float, scale: float) -> None:
        """One update; it divides the gradients, too.

        Args:
            lr: the rate.
            scale: how many times too large the gradients are.
        """
        # As torch.nn.utils.clip_grad_norm_ has it, with its epsilon.
        norm = torch.linalg.vector_norm(self._flat_grads) / scale
        kept = (MAX_NORM / (norm + 1e-6)).clamp(max=1.0)
        self._n_steps += 1
        torch._fused_adam_(
            [self._flat],
            [self._flat_grads],
            [self._mean],
            [self._square],
            [],
            [self._n_steps],
            lr=lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=scale / kept,
        )

    def state(self) -> dict[str, Tensor]:
        """The tensors themselves."""
        return {
            "params": self._flat,
            "mean": self._mean,
            "square": self._square,
            "n_steps": self._n_steps,
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copy what `state` gave."""
        for name, value in self.state().items():
            value.copy_(state[name])
