"""What a calibration sample taught about the MLPs of a model: enough for every rule and keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Both curves are dense where rules ask: near 0 for quantiles at small keeps, near 1 for shares.
QUANTILES = torch.linspace(0, 1, 1001, dtype=torch.float64)
SHARES = 1 - torch.logspace(0, -7, 561, dtype=torch.float64)


Floats = NDArray[np.float64]
GRID = 0.01  # steps of a layer's share


def at(curve: Tensor, fraction: float) -> float:
    """The value of a curve over `QUANTILES` at a fraction in [0, 1], between its points linear."""
    return float(np.interp(fraction, QUANTILES.numpy(), curve.double().numpy()))


def convex(grid: Floats, x: Floats, y: Floats) -> Floats:
    """The lower convex hull of points, at the places of a grid; x rises."""
    hull: list[int] = []
    for point in range(len(x)):
        while len(hull) > 1 and _above(x, y, (hull[-2], hull[-1], point)):
            hull.pop()
        hull.append(point)
    return np.interp(grid, x[hull], y[hull])


def _above(x: Floats, y: Floats, points: tuple[int, int, int]) -> bool:
    """Whether the middle one of three points lies on or above the line through the others."""
    left, middle, right = points
    rise = (y[right] - y[left]) * (x[middle] - x[left])
    return bool((y[middle] - y[left]) * (x[right] - x[left]) >= rise)


class Allocation(NamedTuple):
    """How the kept share of a layer's MLP weights is dealt to its matrices.

    Attributes:
        share: float64 `[step]`, of all weights, rising to 1.
        keeps: float64 `[step, matrix]`, of each matrix' inputs; matrices as in `LearnedLayer`.
        errors: float64 `[step]`, mean squared error of what the MLP adds to the residual stream,
            relative to the stream.
    """

    share: Tensor
    keeps: Tensor
    errors: Tensor

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
        allocation: keeps of these matrices for the rule `input`; None where it was not asked for.
        block: int64 `[neuron]`, the community of each neuron and -1 where it has none.
    """

    scores: Tensor
    held: Tensor
    mean_scores: Tensor
    inputs: tuple[Tensor, ...]
    allocation: Allocation | None
    block: Tensor | None

    def least_score(self, keep: float) -> float:
        """The score above which the fraction `keep` of the sample's neurons lie."""
        return at(self.scores, 1 - keep)

    def allocated(self) -> Allocation:
        """How weights are dealt to matrices.

        Raises:
            ValueError: it was not learned.
        """
        if self.allocation is None:
            raise ValueError("the allocation of the rule input was not learned")
        return self.allocation

    def least_inputs(self, share: float) -> list[float]:
        """The magnitude above which the inputs of each matrix are kept; at share 1 all are.

        Args:
            share: of the layer's weights that are to be kept.
        """
        keeps = self.allocated().keeps_at(share)
        return [
            at(curve, 1 - kept) if kept < 1 else -torch.inf
            for curve, kept in zip(self.inputs, keeps, strict=True)
        ]


@dataclass(frozen=True)
class Learned:
    """What a sample taught, layer by layer. Serves every keep and all rules that were named."""

    layers: dict[int, LearnedLayer]

    def score_share(self, keep: float, layers: Sequence[int]) -> float:
        """The share p with which `top-p` keeps the fraction `keep` in the mean of these layers."""
        held = torch.stack([self.layers[layer].held for layer in layers]).mean(0)
        return float(np.interp(keep, held.numpy(), SHARES.numpy()))

    def weight_shares(self, keep: float, layers: Sequence[int]) -> dict[int, float]:
        """The kept share of each layer's weights under `input`, `keep` in the mean of these layers.

        Layer by layer the share is lowered, each time where the error rises least; on the convex
        hull of the errors, where that is the best there is. MLPs are taken to be of one size.
        """
        paths = [self.layers[layer].allocated() for layer in layers]
        least = max(float(path.share[0]) for path in paths)
        if keep <= least:
            return dict.fromkeys(layers, keep)
        grid = np.append(np.arange(1, least, -GRID), least)[::-1]
        errors = np.stack([convex(grid, path.share.numpy(), path.errors.numpy()) for path in paths])
        places = np.full(len(layers), len(grid) - 1)
        last = 0
        while grid[places].mean() > keep:
            lower = np.maximum(places - 1, 0)
            rise = np.diff(np.take_along_axis(errors, np.stack([lower, places], 1), 1))[:, 0]
            last = int(np.where(places > 0, -rise, np.inf).argmin())
            places[last] -= 1
        shares = dict(zip(layers, grid[places].tolist(), strict=True))
        shares[layers[last]] += len(layers) * (keep - float(grid[places].mean()))
        return shares
