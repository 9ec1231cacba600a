"""AdamW on stacked parameters, each member with its own count of steps."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from sdlms.probes.stacked import Params

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass
class Moments:
    """AdamW's memory.

    Attributes:
        mean: running mean of the gradient, shaped as the parameters.
        square: running mean of its square.
        steps: `[member]` float32, steps taken.
    """

    mean: Params
    square: Params
    steps: Tensor

    @classmethod
    def zeros(cls, params: Params) -> "Moments":
        """Before the first step."""
        some = next(iter(params.values()))
        return cls(
            {name: torch.zeros_like(param) for name, param in params.items()},
            {name: torch.zeros_like(param) for name, param in params.items()},
            torch.zeros(len(some), device=some.device),
        )

    def subset(self, which: Tensor) -> "Moments":
        """The moments of the members at positions `which`."""
        return Moments(rows_of(self.mean, which), rows_of(self.square, which), self.steps[which])


def rows_of(params: Params, which: Tensor) -> Params:
    """The parameters of the members at positions `which`, copied."""
    return {name: param[which] for name, param in params.items()}


def step_(
    params: Params, grads: Params, moments: Moments, active: Tensor, rates: tuple[float, float]
) -> None:
    """One step of AdamW for the active members; nothing of the others changes.

    Every member's slice is a parameter of its own to torch's fused kernel, which then counts its
    steps apart and needs a third of the time of the formulas on whole stacks.

    Args:
        params: `[member, ...]`, changed in place.
        grads: shaped as `params`.
        moments: changed in place.
        active: `[member]` bool.
        rates: learning rate and weight decay.
    """
    chosen = active.nonzero()[:, 0].tolist()
    slices: tuple[list[Tensor], ...] = ([], [], [], [])
    for name, param in params.items():
        stacks = (param, grads[name], moments.mean[name], moments.square[name])
        for kept, stack in zip(slices, stacks, strict=True):
            rows = stack.unbind()
            kept.extend(rows[member] for member in chosen)
    # The kernel adds 1 to each count, so that each slice needs a count of its own.
    counts = moments.steps.repeat(len(params), 1)[:, active]
    moments.steps += active
    with torch.no_grad():
        adamw(
            params=slices[0],
            grads=slices[1],
            exp_avgs=slices[2],
            exp_avg_sqs=slices[3],
            max_exp_avg_sqs=[],
            state_steps=list(counts.flatten().unbind()),
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rates[0],
            weight_decay=rates[1],
            eps=EPSILON,
            maximize=False,
        )
