"""Attention probe: weigh a document's tokens, classify their weighted mean."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

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
class AttentionSettings(Schedule):
    """Widths and schedule; `max_epochs` is 20, not probelab's 1000, as for the other two kinds."""

    scorer_hidden: int = 128
    classifier_hidden: int = 256
    classifier_second: int = 128
    temperature: float = 2.0
    dropout: float = 0.2
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class AttentionNetwork:
    """score = MLP(LN x); z = sum_t softmax(score / T)_t x_t; logit = MLP(LN z).

    Softmax and sum run over the mask-1 tokens, on the raw activations.

    Source: the Attention probe of probelab 0.1.1, by its published definition.
    """

    kind: ClassVar[str] = "attention"
    needs_tokens: ClassVar[bool] = True

    settings: AttentionSettings = field(default_factory=AttentionSettings)

    @property
    def hidden_units(self) -> int:
        """Width of the scorer."""
        return self.settings.scorer_hidden

    def initial(self, n_units: int, seed: int) -> Params:
        """One member's parameters: Xavier-normal weights, zero biases."""
        generator = generator_for(self.kind, "initial", seed)
        wide, narrow = self.settings.classifier_hidden, self.settings.classifier_second
        hidden = self.settings.scorer_hidden
        shapes = {
            "scorer": (hidden, n_units),
            "score": (1, hidden),
            "wide": (wide, n_units),
            "narrow": (narrow, wide),
            "top": (1, narrow),
        }
        params = xavier_layers(shapes, generator)
        del params["score_bias"]
        return params

    def logits(
        self, params: Params, piece: Piece, members: Members, dropout: Dropout | None
    ) -> Tensor:
        """`[member, document]`; every document has a mask-1 token."""
        weights = self.attention(params, piece, members, dropout)
        layers = piece.x if len(members.layers) == len(piece.x) else piece.x[members.layers]
        pooled = [
            # [document, member, token] @ [document, token, unit]
            torch.bmm(weights[run.first : run.last].transpose(0, 1), layers[run.row])
            for run in members.layer_runs
        ]
        # [member, unit, document]
        values = functional.layer_norm(torch.cat(pooled, dim=1), piece.x.shape[-1:]).permute(
            1, 2, 0
        )
        for name in ("wide", "narrow"):
            values = linear(params[name], params[f"{name}_bias"], values).relu()
            if dropout is not None:
                values = dropout.apply(values, name, self.settings.dropout, piece.document_columns)
        return linear(params["top"], params["top_bias"], values)[:, 0]

    def attention(
        self, params: Params, piece: Piece, members: Members, dropout: Dropout | None
    ) -> Tensor:
        """`[member, document, token]`: weights that sum to 1 over a document's mask-1 tokens."""
        rate, width = self.settings.dropout, self.settings.scorer_hidden
        scales = dropout.scales("scorer", width, rate, piece.token_columns) if dropout else None
        rows = unit_rows(piece, members.layers)
        hidden = shared_hidden((params["scorer"], params["scorer_bias"]), rows, members, scales)
        # A bias would shift all scores alike, which softmax does not feel.
        scores = (params["score"] @ hidden)[:, 0]
        padded = piece.padded(scores / self.settings.temperature, float("-inf"))
        return padded.softmax(dim=-1)

    def penalty(self, params: Params) -> Tensor:
        """`[member]` zeros."""
        return no_penalty(params)

    def member_tensors(self, params: Params, layer: int, seed: int) -> Params:
        """The parameters; nothing belongs to the layer or the seed."""
        return params


class AttentionProbe(IterativeProbe[AttentionSettings]):
    """Tells two classes of documents apart by weighing its tokens and classifying their mean."""

    kind: ClassVar[str] = "attention"
    reads: ClassVar[str] = "scorer"
    config_class = AttentionSettings

    def network(self, tensors: Params) -> AttentionNetwork:
        """The network; it needs nothing but its settings."""
        return AttentionNetwork(self.config)
