"""What a stack learns, and the examples of an epoch in their order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.splits import TRAIN
from sdlms.probes.batches import Batch, Batches
from sdlms.probes.examples import Examples, documents_of, token_steps_of, tokens_of
from sdlms.probes.members import Members
from sdlms.probes.network import Network, Schedule
from sdlms.probes.ordering import epoch_groups, reading_groups, token_steps
from sdlms.probes.targets import Split, Targets

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Lesson:
    """What to learn, and in which order.

    Attributes:
        data: the activations.
        targets: each label is learned against the rest.
        split: who learns from which document.
        order_seed: decides which documents meet in a batch, for all members alike.
        device: where to compute.
    """

    data: Batches
    targets: Targets
    split: Split
    order_seed: int = 0
    device: torch.device = CPU

    def members(self) -> Members:
        """Layers x seeds x labels."""
        return Members.grid(self.data.n_layers, self.split.seeds, len(self.targets.labels))

    def having(self, role: int, examples: Examples, members: Members) -> Tensor:
        """`[member, example]` bool, whether the example has this role for the member's seed."""
        roles = self.split.roles[:, examples.documents] == role
        return torch.from_numpy(roles[members.seed]).to(self.device)

    def truth(self, examples: Examples, members: Members) -> Tensor:
        """`[member, example]` float32, 0 or 1: the member's label."""
        labels = self.targets.of(examples.documents, examples.tokens)
        return torch.from_numpy(labels[members.label]).to(self.device, torch.float32)


def training_examples(network: Network, lesson: Lesson, epoch: int) -> Iterator[Examples]:
    """The steps of an epoch, in order.

    Which documents meet depends on the order's seed alone. Those that nobody trains on are not
    read; batches are larger in turn, so that a member meets the scheduled number on average.
    """
    settings, data = network.settings, lesson.data
    trained, fraction = lesson.split.having(TRAIN), lesson.split.train_fraction
    by_token = is_by_token(network, data)
    size = settings.read_documents if by_token else settings.batch_documents / fraction
    groups = epoch_groups(data.n_documents, data.lengths, size, lesson.order_seed, epoch)
    numbers = [number for number, group in enumerate(groups) if trained[group].any()]
    batches = data.batches([groups[number][trained[groups[number]]] for number in numbers])
    for number, batch in zip(numbers, batches, strict=True):
        moved = _on(batch, lesson.device)
        if by_token:
            kept = trained[groups[number]]
            yield from _dealt(moved, groups[number], kept, lesson, (settings, epoch, number))
        else:
            yield documents_of(moved)


def _dealt(
    batch: Batch,
    group: NDArray[np.int64],
    kept: NDArray[np.bool_],
    lesson: Lesson,
    place: tuple[Schedule, int, int],
) -> Iterator[Examples]:
    """The tokens of a batch, which is the documents `kept` of `group`, dealt to steps."""
    settings, epoch, number = place
    lengths = lesson.data.lengths
    assert lengths is not None, "tokens have documents with lengths"
    size = settings.step_tokens / lesson.split.train_fraction
    steps, n_steps = token_steps(group, lengths, size, (lesson.order_seed, epoch, number))
    return token_steps_of(batch, lesson.targets, steps[kept], n_steps)


def read_examples(
    network: Network,
    data: Batches,
    documents: NDArray[np.int64],
    device: torch.device,
    targets: Targets | None = None,
) -> Iterator[Examples]:
    """Documents to judge, those of like length together.

    Args:
        network: says whether an example is a document or a token.
        data: the activations.
        documents: indices.
        device: where to.
        targets: if given, tokens whose label is unknown are left out.
    """
    by_token = is_by_token(network, data)
    size = network.settings.read_documents
    for batch in data.batches(reading_groups(documents, data.lengths, size)):
        moved = _on(batch, device)
        yield tokens_of(moved, targets) if by_token else documents_of(moved)


def is_by_token(network: Network, data: Batches) -> bool:
    """Whether every token is an example: the data has tokens, the probe reads single vectors.

    Raises:
        ValueError: the probe reads tokens, the data has none.
    """
    if network.needs_tokens and data.lengths is None:
        raise ValueError(f"{network.kind} reads tokens, but there is one vector per document")
    return data.lengths is not None and not network.needs_tokens


def _on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    mask = None if batch.mask is None else batch.mask.to(device)
    return Batch(batch.documents, batch.x.to(device), mask)
