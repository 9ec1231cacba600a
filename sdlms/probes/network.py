"""What the loop that trains stacked probes asks of a probe kind."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdlms.probes.members import Members
from sdlms.probes.pieces import Piece
from sdlms.probes.stacked import Dropout, Params


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a kind is trained; every kind's settings extend it, and are saved with the probe.

    Attributes:
        learning_rate: AdamW's.
        weight_decay: AdamW's, on all parameters.
        batch_documents: training documents of a member in one step, on average.
        max_epochs: passes over the data at most.
        patience: epochs without a better validation loss after which a member stops.
        least_gain: nats by which a loss must be lower to count as better here; the parameters
            that are kept are those of the lowest loss, however small the gain.
        read_documents: documents read at once where every token is an example.
        step_tokens: training tokens of a member in one step there, on average.
    """

    learning_rate: float
    weight_decay: float
    batch_documents: int = 32
    max_epochs: int = 20
    patience: int = 5
    least_gain: float = 1e-3
    read_documents: int = 64
    step_tokens: int = 512


class Network(Protocol):
    """One probe kind: its parameters, and the logits of many members at once."""

    @property
    def kind(self) -> str:
        """The name of the kind."""

    @property
    def settings(self) -> Schedule:
        """The settings, of the kind's own class."""

    @property
    def needs_tokens(self) -> bool:
        """Whether an example is a document's tokens, not one vector."""

    @property
    def hidden_units(self) -> int:
        """Numbers held for each token and member, at the widest place."""

    def initial(self, n_units: int, seed: int) -> Params:
        """One member's parameters, which depend on the kind, its settings and the seed only."""

    def logits(
        self, params: Params, piece: Piece, members: Members, dropout: Dropout | None
    ) -> Tensor:
        """`[member, example]`; each member reads its own layer. `dropout` is None in evaluation."""

    def penalty(self, params: Params) -> Tensor:
        """`[member]`, added to each member's mean loss."""

    def member_tensors(self, params: Params, layer: int, seed: int) -> Params:
        """All that one probe needs to predict: its `params` and what belongs to its place.

        Args:
            params: of the one member.
            layer: row of its layer in the data.
            seed: row of its seed in the split.
        """


def no_penalty(params: Params) -> Tensor:
    """Zero for each member."""
    some = next(iter(params.values()))
    return torch.zeros(len(some), device=some.device)
