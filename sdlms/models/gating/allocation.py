"""Deal the kept share of a layer's MLP weights to its matrices, where it costs least (TEAL)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.activations import ACT2FN

from sdlms.models.gating.layouts import LinearMap, Mlp
from sdlms.models.gating.learned import Allocation, at

MAX_TOKENS = 128
STEP = 0.05  # of a matrix' inputs


class Sample(NamedTuple):
    """Tokens of one layer.

    Attributes:
        inputs: `[token, d_model]` of the MLP.
        added: squared norm of what the MLP adds to the residual stream, median over tokens.
        stream: the same of the stream after the block. Means would tell of the first tokens alone,
            whose norms are a thousand times as large in many models.
    """

    inputs: Tensor
    added: float
    stream: float


def allocate(mlp: Mlp, activation: str, sample: Sample, curves: tuple[Tensor, ...]) -> Allocation:
    """The path that lowers keeps step by step, each time of the matrix where it costs least.

    The cost of a step is the rise of the output's squared error per weight saved. The path ends
    where every matrix keeps 5 % of its inputs. Errors are told relative to the residual stream, so
    that layers can be compared: as a share of the output's power, times that of what is added.

    Args:
        mlp: whose matrices these are.
        activation: the name of its activation function.
        sample: tokens; of many `MAX_TOKENS` at even distances serve.
        curves: quantiles of the magnitudes of each matrix' inputs, as `LearnedLayer.inputs`.

    Source: Liu et al. 2024 (TEAL), algorithm 1; steps are of equal fractions here.
    """
    trial = _Trial(mlp, activation, sample.inputs, curves)
    sizes = [linear.n_inputs * linear.n_outputs for linear in mlp.maps]
    keeps = [1.0] * len(sizes)
    error = 0.0
    path, errors = [keeps], [error]
    while any(keep > STEP for keep in keeps):
        costs = {}
        for index, keep in enumerate(keeps):
            if keep > STEP:
                lower = [*keeps[:index], round(keep - STEP, 6), *keeps[index + 1 :]]
                found = trial.error(lower)
                costs[(found - error) / sizes[index], index] = (found, lower)
        error, keeps = costs[min(costs)]
        path.append(keeps)
        errors.append(error)
    steps = torch.tensor(path[::-1], dtype=torch.float64)
    weights = torch.tensor(sizes, dtype=torch.float64)
    relative = torch.tensor(errors[::-1], dtype=torch.float64) * sample.added / sample.stream
    return Allocation(steps @ weights / weights.sum(), steps, relative)


class _Trial:
    """An MLP in plain operations, float32, whose inputs can be thresholded."""

    def __init__(
        self, mlp: Mlp, activation: str, inputs: Tensor, curves: tuple[Tensor, ...]
    ) -> None:
        self._activation = ACT2FN[activation]
        self._inputs, self._curves = inputs.float(), curves
        self._maps = [_float_map(linear) for linear in mlp.maps]
        self._known: list[dict[float, Tensor]] = [{} for _ in self._maps]  # the last by keep
        self._dense = self._output([1.0] * len(self._maps))
        self._power = float(self._dense.double().square().sum())

    def error(self, keeps: list[float]) -> float:
        """Of the output, squared, as a share of its power; 0 where it has none."""
        error = float((self._output(keeps) - self._dense).double().square().sum())
        return error / self._power if self._power else 0.0

    def _output(self, keeps: list[float]) -> Tensor:
        """`[token, d_model]`; of each matrix the fraction `keeps` of its inputs is read."""
        ups = [self._up(index, keep) for index, keep in enumerate(keeps[:-1])]
        neurons = self._activation(ups[0])
        for up in ups[1:]:
            neurons = neurons * up
        last = len(ups)
        return functional.linear(self._large(neurons, last, keeps[last]), *self._maps[last])

    def _up(self, index: int, keep: float) -> Tensor:
        """One map into the neurons: a path asks for its keep and the next lower one by turns."""
        known = self._known[index]
        if keep not in known:
            if len(known) == 2:
                del known[max(known)]
            large = self._large(self._inputs, index, keep)
            known[keep] = functional.linear(large, *self._maps[index])
        return known[keep]

    def _large(self, acts: Tensor, index: int, keep: float) -> Tensor:
        """The inputs of a matrix that the threshold of `keep` leaves."""
        if keep == 1:
            return acts
        return acts.masked_fill(acts.abs() <= at(self._curves[index], 1 - keep), 0)


def _float_map(linear: LinearMap) -> tuple[Tensor, Tensor | None]:
    """Weight `[out, in]` and bias in float32."""
    weight = linear.weight.data if linear.rows == "outputs" else linear.weight.data.t()
    return weight.float(), None if linear.bias is None else linear.bias.data.float()
