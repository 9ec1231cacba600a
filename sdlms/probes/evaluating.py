"""Logits and losses of stacked probes on examples, as many at once as fit into memory."""

import torch
from torch import Tensor
from torch.nn import functional

from sdlms.probes.examples import Examples
from sdlms.probes.members import Members
from sdlms.probes.network import Network
from sdlms.probes.pieces import Room
from sdlms.probes.stacked import Params


def logits_of(
    network: Network, params: Params, members: Members, examples: Examples, room: Room
) -> Tensor:
    """`[member, example]` float32, without dropout and without a gradient."""
    cells = len(members) * network.hidden_units
    with torch.no_grad():
        parts = room.run(
            examples, cells, lambda piece: network.logits(params, piece, members, None)
        )
        return torch.cat(list(parts), dim=1)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy in nats of each logit with a truth of 0 or 1, shaped as both."""
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
