"""MultiMax probe: several heads, each reads the one token that excites it most."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sdlms.probes.iterative import IterativeProbe
from sdlms.probes.members import Members
from sdlms.probes.network import Schedule, no_penalty
from sdlms.probes.pieces import Piece
from sdlms.probes.seeding import generator_for
from sdlms.probes.stacked import (
    Dropout,
    Params,
    linear,
    shared_hidden,
    unit_rows,
    xavier_layers,
)


@dataclass(frozen=True, kw_only=True)
class MultiMaxSettings(Schedule):
    """Widths and schedule."""

    hidden: int = 128
    heads: int = 10
    dropout: float = 0.1
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class MultiMaxNetwork:
    """logit = w . max_t heads(MLP(LN x_t)) + b, the maximum over mask-1 tokens for each head.

    Source: the MultiMax probe of probelab 0.1.1, by its published definition.
    """

    kind: ClassVar[str] = "multimax"
    needs_tokens: ClassVar[bool] = True

    settings: MultiMaxSettings = field(default_factory=MultiMaxSettings)

    @property
    def hidden_units(self) -> int:
        """Width of the MLP."""
        return self.settings.hidden

    def initial(self, n_units: int, seed: int) -> Params:
        """One member's parameters: Xavier-normal weights, zero biases."""
        generator = generator_for(self.kind, "initial", seed)
        hidden, heads = self.settings.hidden, self.settings.heads
        shapes = {
            "inner": (hidden, n_units),
            "outer": (hidden, hidden),
            "heads": (heads, hidden),
            "top": (1, heads),
        }
        return xavier_layers(shapes, generator)

    def logits(
        self, params: Params, piece: Piece, members: Members, dropout: Dropout | None
    ) -> Tensor:
        """`[member, document]`; every document has a mask-1 token."""
        rate, width = self.settings.dropout, self.settings.hidden
        scales = dropout.scales("inner", width, rate, piece.token_columns) if dropout else None
        rows = unit_rows(piece, members.layers)
        weight, bias = _heads_of_hidden(params)
        with torch.no_grad():
            inner = (params["inner"], params["inner_bias"])
            hidden = shared_hidden(inner, rows, members, scales)
            peaks, tokens = _highest(linear(weight, bias, hidden), piece.counts)
        if torch.is_grad_enabled():
            # Only the tokens that won have a gradient, about a tenth of them: compute these again.
            hidden = _hidden_at(params, rows, members, scales, tokens)
            peaks = torch.einsum("mhu,muhd->mhd", weight, hidden) + bias.unsqueeze(-1)
        return linear(params["top"], params["top_bias"], peaks)[:, 0]

    def penalty(self, params: Params) -> Tensor:
        """`[member]` zeros."""
        return no_penalty(params)

    def member_tensors(self, params: Params, layer: int, seed: int) -> Params:
        """The parameters; nothing belongs to the layer or the seed."""
        return params


class MultiMaxProbe(IterativeProbe[MultiMaxSettings]):
    """Tells two classes of documents apart by the tokens that excite its heads most."""

    kind: ClassVar[str] = "multimax"
    reads: ClassVar[str] = "inner"
    config_class = MultiMaxSettings

    def network(self, tensors: Params) -> MultiMaxNetwork:
        """The network; it needs nothing but its settings."""
        return MultiMaxNetwork(self.config)


def _heads_of_hidden(params: Params) -> tuple[Tensor, Tensor]:
    """Weight `[member, head, hidden]` and bias of heads(outer(.)): two linear maps are one."""
    weight = params["heads"] @ params["outer"]
    bias = (params["heads"] @ params["outer_bias"].unsqueeze(-1))[..., 0] + params["heads_bias"]
    return weight, bias


def _highest(values: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Maximum over each document's tokens and where it is, both `[member, head, document]`."""
    peaks, tokens, first = [], [], 0
    for part in torch.split(values, counts, dim=-1):
        peak = part.max(dim=-1)
        peaks.append(peak.values)
        tokens.append(peak.indices + first)
        first += part.shape[-1]
    return torch.stack(peaks, dim=-1), torch.stack(tokens, dim=-1)


def _hidden_at(
    params: Params, rows: Tensor, members: Members, scales: Tensor | None, tokens: Tensor
) -> Tensor:
    """`[member, hidden, head, document]`, the hidden layer at the chosen tokens."""
    chosen = tokens.flatten(1)
    x = torch.cat(
        [
            rows[run.row].index_select(0, chosen[run.first : run.last].flatten())
            for run in members.layer_runs
        ]
    ).view(*chosen.shape, -1)
    hidden = linear(params["inner"], params["inner_bias"], x.transpose(1, 2)).relu()
    if scales is not None:
        picked = [
            scales[seed].to(chosen.device).index_select(1, columns)
            for seed, columns in zip(members.seed.tolist(), chosen, strict=True)
        ]
        hidden = hidden * torch.stack(picked)
    return hidden.view(*hidden.shape[:2], *tokens.shape[1:])
