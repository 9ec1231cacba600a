"""Deal the kept share of a layer's MLP weights to its matrices, where it costs least (TEAL)."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers.activations import ACT2FN

from sdlms.models.gating.layouts import LinearMap, Mlp
from sdlms.models.gating.learned import Allocation, at

MAX_TOKENS = 256
STEP = 0.05  # of a matrix' inputs


def allocate(mlp: Mlp, activation: str, inputs: Tensor, curves: tuple[Tensor, ...]) -> Allocation:
    """The path that lowers keeps step by step, each time of the matrix where it costs least.

    The cost of a step is the rise of the squared error of the MLP's output per weight saved. The
    path ends where every matrix keeps 5 % of its inputs.

    Args:
        mlp: whose matrices these are.
        activation: the name of its activation function.
        inputs: `[token, d_model]` of the MLP; of many tokens some at even distances serve.
        curves: quantiles of the magnitudes of each matrix' inputs, as `LearnedLayer.inputs`.

    Source: Liu et al. 2024 (TEAL), algorithm 1; steps are of equal fractions here.
    """
    trial = _Trial(mlp, activation, inputs[:: -(-len(inputs) // MAX_TOKENS)], curves)
    sizes = [linear.n_inputs * linear.n_outputs for linear in mlp.maps]
    keeps = [1.0] * len(sizes)
    error, path = 0.0, [tuple(keeps)]
    while any(keep > STEP for keep in keeps):
        costs = {}
        for index, keep in enumerate(keeps):
            if keep > STEP:
                lower = [*keeps[:index], round(keep - STEP, 6), *keeps[index + 1 :]]
                found = trial.error(lower)
                costs[(found - error) / sizes[index], index] = (found, lower)
        error, keeps = costs[min(costs)]
        path.append(tuple(keeps))
    steps = torch.tensor(path[::-1], dtype=torch.float64)
    weights = torch.tensor(sizes, dtype=torch.float64)
    return Allocation(steps @ weights / weights.sum(), steps)


class _Trial:
    """An MLP in plain operations, float32, whose inputs can be thresholded."""

    def __init__(
        self, mlp: Mlp, activation: str, inputs: Tensor, curves: tuple[Tensor, ...]
    ) -> None:
        self._activation = ACT2FN[activation]
        self._inputs, self._curves = inputs.float(), curves
        self._maps = [_float_map(linear) for linear in mlp.maps]
        self._dense = self._output([1.0] * len(self._maps))

    def error(self, keeps: list[float]) -> float:
        """The squared error of the output over all tokens."""
        return float((self._output(keeps) - self._dense).double().square().sum())

    def _output(self, keeps: list[float]) -> Tensor:
        """`[token, d_model]`; of each matrix the fraction `keeps` of its inputs is read."""
        ups = [
            functional.linear(self._large(self._inputs, index, keep), *self._maps[index])
            for index, keep in enumerate(keeps[:-1])
        ]
        neurons = self._activation(ups[0])
        for up in ups[1:]:
            neurons = neurons * up
        last = len(ups)
        return functional.linear(self._large(neurons, last, keeps[last]), *self._maps[last])

    def _large(self, acts: Tensor, index: int, keep: float) -> Tensor:
        """The inputs of a matrix that the threshold of `keep` leaves."""
        if keep == 1:
            return acts
        return acts.masked_fill(acts.abs() <= at(self._curves[index], 1 - keep), 0)


def _float_map(linear: LinearMap) -> tuple[Tensor, Tensor | None]:
    """Weight `[out, in]` and bias in float32."""
    weight = linear.weight.data if linear.rows == "outputs" else linear.weight.data.t()
    return weight.float(), None if linear.bias is None else linear.bias.data.float()
