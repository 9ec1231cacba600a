"""Many small networks at once: every parameter has a leading member axis.

Values are kept `[member, hidden unit, example]`, examples last. Then the members of a layer, which
read the same activations, are one matrix product with their hidden units stacked, with no copy of
the activations; and the maximum over tokens runs along memory. LayerNorms in front of a linear map
carry no scale and shift of their own: the map that follows can express both.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdlms.probes.members import Members
from sdlms.probes.pieces import Column, Piece
from sdlms.probes.seeding import generator_for

Params = dict[str, Tensor]


def torch_linear(n_out: int, n_in: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight `[n_out, n_in]`, bias `[n_out]` as torch.nn.Linear draws them: U(-1, 1) / sqrt(in)."""
    bound = 1 / math.sqrt(n_in)
    weight = torch.empty(n_out, n_in).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(n_out).uniform_(-bound, bound, generator=generator)


def xavier_linear(n_out: int, n_in: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight `[n_out, n_in]`, Xavier-normal with gain 0.5, and a zero bias `[n_out]`."""
    deviation = 0.5 * math.sqrt(2 / (n_in + n_out))
    weight = torch.empty(n_out, n_in).normal_(0, deviation, generator=generator)
    return weight, torch.zeros(n_out)


def xavier_layers(shapes: Mapping[str, tuple[int, int]], generator: torch.Generator) -> Params:
    """Parameters of linear layers, Xavier-normal with zero biases, drawn in the order of `shapes`.

    Args:
        shapes: name of each layer and its sizes, outputs first.
        generator: what they are drawn with.

    Returns:
        `<name>` `[out, in]` and `<name>_bias` `[out]` of each.
    """
    params = {}
    for name, (n_out, n_in) in shapes.items():
        params[name], params[f"{name}_bias"] = xavier_linear(n_out, n_in, generator)
    return params


def unit_rows(piece: Piece, layers: list[int]) -> Tensor:
    """`[layer, row, unit]`: each row with mean 0 and variance 1 over its units (a LayerNorm)."""
    rows = piece.rows(layers)
    return functional.layer_norm(rows, rows.shape[-1:])


def linear(weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """`[member, out, in]`, `[member, out]`, `[member, in, example]` -> `[member, out, example]`."""
    return torch.baddbmm(bias.unsqueeze(-1), weight, values)


class Dropout:
    """Dropout masks of one training step, shared by the layers and labels of a seed.

    A mask is drawn for (seed, epoch, place in the network, document), and an epoch meets each
    document once. So it depends neither on the other members, nor on who else is in the batch,
    nor on how the batch is cut into pieces.
    """

    def __init__(self, members: Members, epoch: int) -> None:
        self._members, self._epoch = members, epoch

    def scales(self, place: str, n_units: int, rate: float, columns: list[Column]) -> Tensor:
        """`[seed, n_units, column]` float32: 0 with probability `rate`, else 1 / (1 - rate).

        Args:
            place: names the layer of the network; each has its own mask.
            n_units: hidden units there.
            rate: in [0, 1).
            columns: the documents, and how many columns each has.
        """
        draws = []
        for seed in self._members.seeds:
            key = ("dropout", place, seed, self._epoch)
            rows = [
                torch.rand(count, n_units, generator=generator_for(*key, document))
                for document, count in columns
            ]
            draws.append(torch.cat(rows))
        return (torch.stack(draws) >= rate).float().div_(1 - rate).transpose(1, 2)

    def apply(self, values: Tensor, place: str, rate: float, columns: list[Column]) -> Tensor:
        """`values` `[member, unit, column]` with some units silenced and the others scaled up."""
        scales = self.scales(place, values.shape[1], rate, columns)
        return values * scales[self._members.seed_rows].to(values.device)


def shared_hidden(
    params: tuple[Tensor, Tensor], rows: Tensor, members: Members, scales: Tensor | None
) -> Tensor:
    """The first hidden layer, ReLU(W x + b), times the dropout's scales.

    Args:
        params: weight `[member, hidden, unit]` and bias `[member, hidden]`.
        rows: `[layer, row, unit]`, one per entry of `members.layers`; not differentiated.
        members: who reads which layer.
        scales: `[seed, hidden, row]`, all 0 or one positive number; None outside training.

    Returns:
        `[member, hidden, row]`.
    """
    hidden: Tensor = _SharedHidden.apply(*params, rows, members, scales)  # type: ignore[no-untyped-call]
    return hidden


class _SharedHidden(torch.autograd.Function):
    """In place, with only the result kept for the gradient: what it costs is two products."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        members: Members,
        scales: Tensor | None,
    ) -> Tensor:
        hidden = rows.new_empty(*weight.shape[:2], rows.shape[1])
        for run in members.layer_runs:
            stacked = weight[run.first : run.last].flatten(0, 1)
            torch.mm(stacked, rows[run.row].T, out=hidden[run.first : run.last].flatten(0, 1))
        hidden.add_(bias.unsqueeze(-1)).relu_()
        if scales is not None:
            scales = scales.to(rows.device)
            for run in members.seed_runs:
                hidden[run.first : run.last].mul_(scales[run.row])
        ctx.save_for_backward(hidden, rows)
        ctx.members = members
        ctx.scale = 1.0 if scales is None else float(scales.max()) if scales.numel() else 1.0
        return hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, rows = ctx.saved_tensors
        # Positive exactly where ReLU passed and dropout kept; there the slope is the scale. Nobody
        # reads the hidden layer after this, so that it need not take memory twice.
        slope = hidden.sign_().mul_(grads[0])
        weight = slope.new_empty(*slope.shape[:2], rows.shape[2])
        for run in ctx.members.layer_runs:
            stacked = slope[run.first : run.last].flatten(0, 1)
            torch.mm(stacked, rows[run.row], out=weight[run.first : run.last].flatten(0, 1))
        return weight.mul_(ctx.scale), slope.sum(dim=2).mul_(ctx.scale), None, None, None
