"""GatedBipolar probe: gated values, of which a document's highest and lowest count."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sdlms.probes.iterative import IterativeProbe
from sdlms.probes.members import Members
from sdlms.probes.network import Schedule
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
class GatedBipolarSettings(Schedule):
    """Widths, penalties and schedule; the MLP's dropout is MultiMax's."""

    hidden: int = 128
    gates: int = 64
    dropout: float = 0.1
    sparsity: float = 1e-5
    orthogonality: float = 1e-4
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class GatedBipolarNetwork:
    """h = MLP(LN x); v = W_p h * softplus(W_g h); logit = w . [max_t v ; -min_t v] + b.

    Maximum and minimum run over the mask-1 tokens. W_p is held sparse and near orthogonal rows by
    `sparsity * |W_p|_1 + orthogonality * |W_p W_p^T - I|^2`.

    Source: the GatedBipolar probe of probelab 0.1.1, by its published definition.
    """

    kind: ClassVar[str] = "gated_bipolar"
    needs_tokens: ClassVar[bool] = True

    settings: GatedBipolarSettings = field(default_factory=GatedBipolarSettings)

    @property
    def hidden_units(self) -> int:
        """Width of the MLP, or of values and gates."""
        return max(self.settings.hidden, 2 * self.settings.gates)

    def initial(self, n_units: int, seed: int) -> Params:
        """One member's parameters: Xavier-normal weights, zero biases; W_p and W_g have none."""
        generator = generator_for(self.kind, "initial", seed)
        hidden, gates = self.settings.hidden, self.settings.gates
        shapes = {
            "inner": (hidden, n_units),
            "outer": (hidden, hidden),
            "value": (gates, hidden),
            "gate": (gates, hidden),
            "top": (1, 2 * gates),
        }
        params = xavier_layers(shapes, generator)
        del params["value_bias"], params["gate_bias"]
        return params

    def logits(
        self, params: Params, piece: Piece, members: Members, dropout: Dropout | None
    ) -> Tensor:
        """`[member, document]`; every document has a mask-1 token."""
        rate, width = self.settings.dropout, self.settings.hidden
        scales = dropout.scales("inner", width, rate, piece.token_columns) if dropout else None
        rows = unit_rows(piece, members.layers)
        hidden = shared_hidden((params["inner"], params["inner_bias"]), rows, members, scales)
        # Two linear maps are one: W_p and W_g after the MLP's second layer.
        both = torch.cat([params["value"], params["gate"]], dim=1)
        bias = (both @ params["outer_bias"].unsqueeze(-1))[..., 0]
        value, gate = linear(both @ params["outer"], bias, hidden).chunk(2, dim=1)
        gated = value * functional.softplus(gate)
        parts = torch.split(gated, piece.counts, dim=-1)
        highest = torch.stack([part.amax(dim=-1) for part in parts], dim=-1)
        lowest = torch.stack([part.amin(dim=-1) for part in parts], dim=-1)
        poles = torch.cat([highest, -lowest], dim=1)
        return linear(params["top"], params["top_bias"], poles)[:, 0]

    def penalty(self, params: Params) -> Tensor:
        """`[member]`: what W_p costs."""
        value = params["value"]
        products = value @ value.transpose(1, 2)
        distance = (products - torch.eye(value.shape[1], device=value.device)).square()
        sparse = self.settings.sparsity * value.abs().sum(dim=(1, 2))
        return sparse + self.settings.orthogonality * distance.sum(dim=(1, 2))

    def member_tensors(self, params: Params, layer: int, seed: int) -> Params:
        """The parameters; nothing belongs to the layer or the seed."""
        return params


class GatedBipolarProbe(IterativeProbe[GatedBipolarSettings]):
    """Tells two classes of documents apart by the highest and lowest of gated values."""

    kind: ClassVar[str] = "gated_bipolar"
    reads: ClassVar[str] = "inner"
    config_class = GatedBipolarSettings

    def network(self, tensors: Params) -> GatedBipolarNetwork:
        """The network; it needs nothing but its settings."""
        return GatedBipolarNetwork(self.config)
