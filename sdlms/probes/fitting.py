"""Where the training of a stack stands: all that a resumed run needs, as named tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlms.probes.adamw import Moments, rows_of
from sdlms.probes.stacked import Params


@dataclass
class Fitting:
    """The state of a stack between two epochs.

    Attributes:
        alive: `[alive]` int64, positions of the members that still train.
        params: `[alive, ...]`, their parameters.
        moments: AdamW's memory, of the same members.
        best: `[member, ...]`, parameters with the lowest validation loss so far.
        best_loss: `[member]` float64, that loss; infinite before the first epoch.
        reference: `[member]` float64, the loss that one must be lower than by the least gain.
        since_best: `[member]` int64, epochs since `reference` was reached.
        epochs: `[member]` int64, epochs trained.
        history: `[epoch, member]` float64 validation losses, NaN after a member has stopped.
    """

    alive: Tensor
    params: Params
    moments: Moments
    best: Params
    best_loss: Tensor
    reference: Tensor
    since_best: Tensor
    epochs: Tensor
    history: Tensor

    @classmethod
    def start(cls, params: Params) -> "Fitting":
        """Before the first epoch, from the initial parameters `[member, ...]`."""
        n_members = len(next(iter(params.values())))
        return cls(
            alive=torch.arange(n_members),
            params=params,
            moments=Moments.zeros(params),
            best={name: param.clone() for name, param in params.items()},
            best_loss=torch.full((n_members,), float("inf"), dtype=torch.float64),
            reference=torch.full((n_members,), float("inf"), dtype=torch.float64),
            since_best=torch.zeros(n_members, dtype=torch.int64),
            epochs=torch.zeros(n_members, dtype=torch.int64),
            history=torch.zeros(0, n_members, dtype=torch.float64),
        )

    def record(self, losses: Tensor, patience: int, least_gain: float) -> None:
        """End an epoch: keep what is best so far, let go of members without hope.

        Args:
            losses: `[alive]` float64 validation losses; NaN is never better.
            patience: epochs without a better loss after which a member stops.
            least_gain: by how much a loss must be lower for that.
        """
        better = losses < self.best_loss[self.alive]
        kept = self.alive[better]
        for name, param in self.params.items():
            self.best[name][kept.to(param.device)] = param[better.to(param.device)]
        self.best_loss[kept] = losses[better]
        self.epochs[self.alive] += 1
        gained = losses < self.reference[self.alive] - least_gain
        self.reference[self.alive[gained]] = losses[gained]
        self.since_best[self.alive] += 1
        self.since_best[self.alive[gained]] = 0
        row = torch.full_like(self.best_loss, float("nan"))
        row[self.alive] = losses
        self.history = torch.cat([self.history, row[None]])
        self._retain(self.since_best[self.alive] < patience)

    def _retain(self, going: Tensor) -> None:
        """Drop the members that are false in `going` `[alive]` from what is trained."""
        if bool(going.all()):
            return
        which = going.nonzero()[:, 0]
        on_device = which.to(self.moments.steps.device)
        self.alive = self.alive[which]
        self.params = rows_of(self.params, on_device)
        self.moments = self.moments.subset(on_device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name; copies, on the CPU."""
        named = {
            "alive": self.alive,
            "best_loss": self.best_loss,
            "reference": self.reference,
            "since_best": self.since_best,
            "epochs": self.epochs,
            "history": self.history,
            "steps": self.moments.steps,
        }
        for group, params in self._groups().items():
            named |= {f"{group}/{name}": param for name, param in params.items()}
        return {name: tensor.detach().cpu().clone() for name, tensor in named.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Return to the state that `tensors` gave.

        Raises:
            ValueError: it belongs to another stack.
        """
        groups = self._groups()
        best = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith("best/")}
        expected = {f"best/{name}": tuple(param.shape) for name, param in self.best.items()}
        if set(tensors) != set(self.tensors()) or best != expected:
            raise ValueError(f"state of another stack: {best} instead of {expected}")
        device = self.moments.steps.device
        for group, params in groups.items():
            for name in params:
                params[name] = tensors[f"{group}/{name}"].to(device, copy=True)
        self.moments.steps = tensors["steps"].to(device, copy=True)
        self.alive, self.best_loss = tensors["alive"].clone(), tensors["best_loss"].clone()
        self.reference = tensors["reference"].clone()
        self.since_best, self.epochs = tensors["since_best"].clone(), tensors["epochs"].clone()
        self.history = tensors["history"].clone()

    def _groups(self) -> dict[str, Params]:
        """The groups of tensors that are shaped as the parameters."""
        moments = self.moments
        return {
            "params": self.params,
            "mean": moments.mean,
            "square": moments.square,
            "best": self.best,
        }
