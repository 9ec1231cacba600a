"""What a calibration sample taught about the MLPs of a model: enough for every rule and keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Both curves are dense where rules ask: near 0 for quantiles at small keeps, near 1 for shares.
QUANTILES = torch.linspace(0, 1, 1001, dtype=torch.float64)
SHARES = 1 - torch.logspace(0, -7, 561, dtype=torch.float64)


def at(curve: Tensor, fraction: float) -> float:
    """The value of a curve over `QUANTILES` at a fraction in [0, 1], between its points linear."""
    return float(np.interp(fraction, QUANTILES.numpy(), curve.double().numpy()))


class Allocation(NamedTuple):
    """How the kept share of a layer's MLP weights is dealt to its matrices.

    Attributes:
        share: float64 `[step]`, of all weights, rising to 1.
        keeps: float64 `[step, matrix]`, of each matrix' inputs; matrices as in `LearnedLayer`.
    """

    share: Tensor
    keeps: Tensor

    def keeps_at(self, keep: float) -> list[float]:
        """The kept fraction of each matrix' inputs where `keep` of all weights are kept."""
        least = float(self.share[0])
        if keep < least:  # the path ends here; from there on all matrices shrink alike
            return [float(value) * keep / least for value in self.keeps[0]]
        share = self.share.numpy()
        return [float(np.interp(keep, share, column)) for column in self.keeps.T.numpy()]


@dataclass(frozen=True, kw_only=True)
class LearnedLayer:
    """One layer; all tensors on the CPU.

    Attributes:
        scores: float32 `[quantile]`, quantiles of the neurons' post-norm scores over the sample.
        held: float64 `[share]`, mean fraction of neurons that hold a share of a token's scores.
        mean_scores: float32 `[neuron]`, over the sample.
        inputs: of each matrix, those of `up` first and the down projection last, quantiles of the
            magnitude of its inputs: float32 `[quantile]`.
        allocation: keeps of these matrices for the rule `input`.
        block: int64 `[neuron]`, the community of each neuron and -1 where it has none.
    """

    scores: Tensor
    held: Tensor
    mean_scores: Tensor
    inputs: tuple[Tensor, ...]
    allocation: Allocation
    block: Tensor | None

    def least_score(self, keep: float) -> float:
        """The score above which the fraction `keep` of the sample's neurons lie."""
        return at(self.scores, 1 - keep)

    def least_inputs(self, keep: float) -> list[float]:
        """The magnitude above which the inputs of each matrix are kept; at keep 1 all are."""
        keeps = self.allocation.keeps_at(keep)
        return [
            at(curve, 1 - kept) if kept < 1 else -torch.inf
            for curve, kept in zip(self.inputs, keeps, strict=True)
        ]


@dataclass(frozen=True)
class Learned:
    """What a sample taught, layer by layer. Serves every rule and every keep."""

    layers: dict[int, LearnedLayer]

    def share_of(self, keep: float, layers: Sequence[int]) -> float:
        """The share p with which `top-p` keeps the fraction `keep` in the mean of these layers."""
        held = torch.stack([self.layers[layer].held for layer in layers]).mean(0)
        return float(np.interp(keep, held.numpy(), SHARES.numpy()))
