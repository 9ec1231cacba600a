"""Trained stacks of probes, and what they say of other documents."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdlms.probes.batches import Batches
from sdlms.probes.evaluating import logits_of
from sdlms.probes.kinds import Probe, kind_of
from sdlms.probes.lesson import read_examples
from sdlms.probes.members import Members
from sdlms.probes.network import Network
from sdlms.probes.pieces import Room
from sdlms.probes.stacked import Params


@dataclass(frozen=True)
class Trained:
    """Probes at their lowest validation loss.

    Attributes:
        network: their kind.
        members: layers x seeds x labels.
        params: `[member, ...]`; NaN where the loss never was a number, and so is what such a
            probe says.
        best_loss: `[member]` float64, validation loss (mean cross-entropy in nats, no penalty);
            infinite where it never was a number.
        epochs: `[member]` int64, epochs until the member stopped.
        converged: `[member]` bool, stopped by its own patience, not by the limit of epochs.
        history: `[epoch, member]` float64 validation losses, NaN after a member has stopped.
    """

    network: Network
    members: Members
    params: Params
    best_loss: NDArray[np.float64]
    epochs: NDArray[np.int64]
    converged: NDArray[np.bool_]
    history: NDArray[np.float64]

    @property
    def lost(self) -> NDArray[np.int64]:
        """Members whose loss never was a number."""
        return np.flatnonzero(~np.isfinite(self.best_loss))

    def tensors_of(self, member: int) -> Params:
        """What one probe needs to predict."""
        params = {name: param[member : member + 1] for name, param in self.params.items()}
        layer, seed = int(self.members.layer[member]), int(self.members.seed[member])
        return self.network.member_tensors(params, layer, seed)

    def probe(self, member: int) -> Probe:
        """One of the probes, to predict with or to save."""
        settings = dataclasses.asdict(self.network.settings)
        settings["converged"] = bool(self.converged[member])
        probe_class = kind_of(self.network.kind).probe_class()
        return probe_class.from_parts(settings, self.tensors_of(member))


@dataclass(frozen=True)
class Predictions:
    """Probabilities of some examples.

    Attributes:
        documents: `[example]` int64.
        tokens: `[example]` int64, places in the documents; None where examples are documents.
        probabilities: `[member, example]` float32 in [0, 1].
    """

    documents: NDArray[np.int64]
    tokens: NDArray[np.int64] | None
    probabilities: NDArray[np.float32]


def predictions(
    trained: Trained,
    data: Batches,
    documents: NDArray[np.int64],
    on_halved: Callable[[int], None],
) -> Iterator[Predictions]:
    """Judge documents, or each of their mask-1 tokens, batch by batch; in no certain order.

    Args:
        trained: the probes.
        data: as they were trained on.
        documents: indices.
        on_halved: told how many documents (or tokens) are computed at once, when memory ran out.
    """
    device = next(iter(trained.params.values())).device
    room = Room(on_halved)
    for examples in read_examples(trained.network, data, documents, device):
        logits = logits_of(trained.network, trained.params, trained.members, examples, room)
        probabilities = logits.sigmoid().cpu().numpy()
        yield Predictions(examples.documents, examples.tokens, probabilities)


def predict_documents(
    trained: Trained,
    data: Batches,
    documents: NDArray[np.int64],
    on_halved: Callable[[int], None],
) -> NDArray[np.float32]:
    """`[member, document]` float32 probabilities, in the order of `documents`.

    Args:
        trained: probes of documents.
        data: as they were trained on.
        documents: distinct indices.
        on_halved: as in `predictions`.
    """
    found = np.zeros((len(trained.members), data.n_documents), dtype=np.float32)
    for part in predictions(trained, data, documents, on_halved):
        if part.tokens is not None:
            raise ValueError("these probes judge tokens: use predictions()")
        found[:, part.documents] = part.probabilities
    return found[:, documents]
