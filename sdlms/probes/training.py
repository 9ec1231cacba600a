"""Train many probes over one pass of the data in each epoch, each with its own early stop."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.numerics.splits import TRAIN, VALIDATION
from sdlms.probes.adamw import step_
from sdlms.probes.evaluating import cross_entropy, logits_of
from sdlms.probes.examples import Examples
from sdlms.probes.fitting import Fitting
from sdlms.probes.lesson import Lesson, read_examples, training_examples
from sdlms.probes.members import Members
from sdlms.probes.network import Network
from sdlms.probes.pieces import Piece, Room
from sdlms.probes.stacked import Dropout, Params
from sdlms.probes.trained import Trained


def say_nothing(_: object) -> None:
    """Ignore what is reported."""


class Trainer:
    """Trains a stack epoch by epoch.

    Between two epochs `state` holds all that the rest depends on; a trainer that is given it
    continues bit by bit as this one would.
    """

    def __init__(
        self, network: Network, lesson: Lesson, on_halved: Callable[[int], None] = say_nothing
    ) -> None:
        """Start from the initial parameters.

        Args:
            network: the kind, with its settings.
            lesson: what to learn.
            on_halved: told how many documents (or tokens) are computed at once from now on,
                whenever memory ran out.
        """
        self.network, self.lesson, self.members = network, lesson, lesson.members()
        self._room = Room(on_halved)
        self._fitting = Fitting.start(_initial(network, lesson, self.members))

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self._fitting.history)

    @property
    def n_active(self) -> int:
        """Members that still train."""
        return len(self._fitting.alive)

    @property
    def finished(self) -> bool:
        """Whether all members have stopped or the limit is reached."""
        return self.n_active == 0 or self.epoch >= self.network.settings.max_epochs

    def state(self) -> dict[str, Tensor]:
        """All that the remaining epochs depend on, as named tensors on the CPU."""
        return self._fitting.tensors()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from the `state` of a trainer with the same network and lesson.

        Raises:
            ValueError: it is the state of another stack.
        """
        self._fitting.load(state)

    def run_epoch(self) -> None:
        """One pass over the training documents, one over those for validation.

        Raises:
            UserError: a document has no token to read, or does not fit into memory.
        """
        members = self.members.subset(self._fitting.alive.numpy())
        for examples in training_examples(self.network, self.lesson, self.epoch):
            self._step(examples, members)
        losses = self._validation_losses(members)
        settings = self.network.settings
        self._fitting.record(losses, settings.patience, settings.least_gain)

    def result(self) -> Trained:
        """The probes as they are best so far."""
        fitting = self._fitting
        stopped = fitting.since_best >= self.network.settings.patience
        params = {name: param.clone() for name, param in fitting.best.items()}
        for param in params.values():
            param[~fitting.best_loss.isfinite().to(param.device)] = torch.nan
        return Trained(
            network=self.network,
            members=self.members,
            params=params,
            best_loss=fitting.best_loss.numpy().copy(),
            epochs=fitting.epochs.numpy().copy(),
            converged=(stopped & fitting.best_loss.isfinite()).numpy(),
            history=fitting.history.numpy().copy(),
        )

    def _step(self, examples: Examples, members: Members) -> None:
        """One step of AdamW for the members that train on any of the examples."""
        settings, fitting = self.network.settings, self._fitting
        chosen = self.lesson.having(TRAIN, examples, members)
        counts = chosen.sum(dim=1, keepdim=True)
        weights = chosen / counts.clamp(min=1)
        truth = self.lesson.truth(examples, members)
        dropout = Dropout(members, self.epoch)
        params = {name: p.detach().requires_grad_() for name, p in fitting.params.items()}

        def gradients(piece: Piece) -> tuple[Tensor, ...]:
            logits = self.network.logits(params, piece, members, dropout)
            loss = (cross_entropy(logits, truth[:, piece.span]) * weights[:, piece.span]).sum()
            if piece.first == 0:
                loss = loss + self.network.penalty(params).sum()
            return torch.autograd.grad(loss, list(params.values()))

        total: list[Tensor] = []
        cells = len(members) * self.network.hidden_units
        for grads in self._room.run(examples, cells, gradients):
            total = [a + b for a, b in zip(total, grads, strict=True)] if total else list(grads)
        rates = (settings.learning_rate, settings.weight_decay)
        grads_of = dict(zip(params, total, strict=True))
        step_(fitting.params, grads_of, fitting.moments, counts[:, 0] > 0, rates)

    def _validation_losses(self, members: Members) -> Tensor:
        """`[alive]` float64, mean cross-entropy over each member's validation examples."""
        lesson, params = self.lesson, self._fitting.params
        totals = torch.zeros(len(members), dtype=torch.float64)
        counts = torch.zeros(len(members), dtype=torch.int64)
        documents = np.flatnonzero(lesson.split.having(VALIDATION))
        data, targets = lesson.data, lesson.targets
        for examples in read_examples(self.network, data, documents, lesson.device, targets):
            chosen = lesson.having(VALIDATION, examples, members)
            truth = lesson.truth(examples, members)
            logits = logits_of(self.network, params, members, examples, self._room)
            terms = cross_entropy(logits, truth) * chosen
            totals += terms.sum(dim=1, dtype=torch.float64).cpu()
            counts += chosen.sum(dim=1).cpu()
        if bool((counts == 0).any()):
            row = int(members.seed[(counts == 0).numpy()][0])
            raise UserError(f"no labelled token to validate on for seed {members.seeds[row]}")
        return totals / counts


def train(
    network: Network,
    lesson: Lesson,
    on_epoch: Callable[[Trainer], None] = say_nothing,
    on_halved: Callable[[int], None] = say_nothing,
    state: dict[str, Tensor] | None = None,
) -> Trained:
    """Train until every member has stopped, or to the limit of epochs.

    Args:
        network: the kind, with its settings.
        lesson: what to learn.
        on_epoch: called after each epoch, with the trainer: its `epoch`, `n_active`, `state`.
        on_halved: see `Trainer`.
        state: of a trainer that was interrupted, to continue with the same bits.

    Raises:
        UserError: a document has no token to read, or does not fit into memory.
    """
    trainer = Trainer(network, lesson, on_halved)
    if state is not None:
        trainer.restore(state)
    while not trainer.finished:
        trainer.run_epoch()
        on_epoch(trainer)
    return trainer.result()


def _initial(network: Network, lesson: Lesson, members: Members) -> Params:
    """Initial parameters `[member, ...]`, the same for all layers and labels of a seed."""
    drawn = [network.initial(lesson.data.n_units, seed) for seed in members.seeds]
    rows = members.seed.tolist()
    return {
        name: torch.stack([drawn[row][name] for row in rows]).to(lesson.device) for name in drawn[0]
    }
