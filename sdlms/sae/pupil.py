"""One member on its way: its learner, the best weights so far, and the curve of its losses."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.learner import Learner, Sums
from sdlms.sae.members import Member

# What counts as progress: noise of the validation objective must not keep a training alive.
IMPROVED = 0.999
DIVERGED_FVU = 100.0
CURVE_COLUMNS = (
    "step",
    "tokens",
    "train_loss",
    "train_reconstruction",
    "train_sparsity",
    "validation_loss",
    "validation_reconstruction",
    "validation_sparsity",
    "l0",
    "explained_variance",
    "dead_fraction",
    "lr",
)


@dataclass
class Progress:
    """What is known of a member besides its weights.

    Attributes:
        best_step: updates after which the weights that are kept were there; -1 before any.
        best_loss: their objective on validation tokens.
        reference_loss: the objective from which progress is counted.
        n_waiting: evaluations since then.
        ended: why it learns no more; empty while it does.
        curve: a row per evaluation, by `CURVE_COLUMNS`.
    """

    best_step: int = -1
    best_loss: float = math.inf
    reference_loss: float = math.inf
    n_waiting: int = 0
    ended: str = ""
    curve: list[dict[str, float]] = field(default_factory=list)


class Pupil:
    """A member, and its learner as long as it learns."""

    def __init__(self, member: Member, learner: Learner, variance: float) -> None:
        """Start anew.

        Args:
            member: what is trained.
            learner: who trains it.
            variance: mean squared distance of the scaled validation tokens from the training mean.
        """
        self.member, self._variance = member, variance
        self._learner: Learner | None = learner
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    @property
    def learner(self) -> Learner:
        """Who trains it.

        Raises:
            ValueError: it has ended; its learner is gone, for it takes four times the best weights.
        """
        if self._learner is None:
            raise ValueError(f"{self.key} has ended: {self.progress.ended}")
        return self._learner

    @property
    def learns(self) -> bool:
        """Whether it still does."""
        return not self.progress.ended

    @property
    def key(self) -> str:
        """Names it within the run."""
        return f"layer_{self.member.layer}/{self.member.name}"

    @property
    def point(self) -> tuple[float, float]:
        """L0 and FVU at the last evaluation."""
        row = self.progress.curve[-1]
        return row["l0"], 1 - row["explained_variance"]

    def evaluate(self, calibration: Tensor, validation: Tensor, patience: int) -> None:
        """Note a row of the curve, keep the weights if they are the best, stop if it is time.

        Args:
            calibration: `[token, unit]` float32, scaled: training tokens, always the same.
            validation: `[token, unit]` float32, scaled, of other documents.
            patience: evaluations without progress after which it ends; 0 never ends it.

        Raises:
            UserError: its loss is no number, or far beyond that of doing nothing.
        """
        learner, recipe, now = self.learner, self.member.recipe, self.progress
        losses = learner.losses()
        learner.calibrate(calibration)
        sums = learner.evaluate(validation)
        row = self._row(*losses, sums)
        if (
            not all(map(math.isfinite, row.values()))
            or row["explained_variance"] < 1 - DIVERGED_FVU
        ):
            raise UserError(
                f"layer {self.member.layer}, {self.member.name} diverges: after "
                f"{learner.n_done} of {recipe.n_steps} steps its loss on held-out tokens is "
                f"{row['validation_loss']:g}. Lower --lr (now {recipe.lr:g}) or raise --batch-size."
            )
        now.curve.append(row)
        if learner.n_done < recipe.warm_up_steps and learner.n_done < recipe.n_steps:
            return
        loss = row["validation_loss"]
        if loss < now.best_loss:
            now.best_loss, now.best_step = loss, learner.n_done
            self._keep()
        now.n_waiting += 1
        if loss < IMPROVED * now.reference_loss:
            now.reference_loss, now.n_waiting = loss, 0
        if learner.n_done >= recipe.n_steps:
            self.end("all steps")
        elif patience and now.n_waiting >= patience:
            self.end(f"no progress in {patience} evaluations")

    def _keep(self) -> None:
        """Copy the weights as they are now."""
        for name, tensor in self.learner.weights().items():
            if name in self.best:
                self.best[name].copy_(tensor)
            else:
                self.best[name] = tensor.detach().clone()

    def end(self, reason: str) -> None:
        """Learn no more; without weights to keep it stays what it is now. The learner goes."""
        if not self.best:
            self.progress.best_step = self.learner.n_done
            self._keep()
        self.progress.ended, self._learner = reason, None

    def _row(
        self, reconstruction: float, sparsity: float, n_active: float, sums: Sums
    ) -> dict[str, float]:
        """One row of the curve."""
        recipe, n_done = self.member.recipe, self.learner.n_done
        error, penalty = sums.squared_error / sums.n_tokens, sums.sparsity / sums.n_tokens
        return {
            "step": n_done,
            "tokens": n_done * recipe.batch_size,
            "train_loss": reconstruction + sparsity,
            "train_reconstruction": reconstruction,
            "train_sparsity": sparsity,
            "validation_loss": error + penalty,
            "validation_reconstruction": error,
            "validation_sparsity": penalty,
            "l0": sums.n_active / sums.n_tokens,
            "explained_variance": 1 - error / self._variance,
            "dead_fraction": self.learner.n_dead() / recipe.width,
            "lr": recipe.lr_at(max(0, n_done - 1)),
        }

    def is_finite(self) -> bool:
        """Whether everything that it would be saved with is.

        Between evaluations a training that diverges is yet to be noticed.
        """
        tensors = [*self.best.values(), *(self.learner.state().values() if self.learns else ())]
        # A sum needs no memory. It may overflow where values are finite, and then hardly sane.
        sums = [float(tensor.sum()) for tensor in tensors if tensor.is_floating_point()]
        return all(map(math.isfinite, sums))

    def saved(self) -> tuple[dict[str, NDArray[Any]], str]:
        """Everything that its future depends on: arrays by name, and JSON."""
        tensors = {f"best/{name}": tensor for name, tensor in self.best.items()}
        if self.learns:
            state = self.learner.state()
            tensors |= {f"state/{name}": tensor for name, tensor in state.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        return arrays, json.dumps(asdict(self.progress))

    def restore(self, arrays: dict[str, NDArray[Any]], text: str) -> None:
        """Go on from what was saved."""
        learner, self.progress = self.learner, Progress(**json.loads(text))
        device = next(iter(learner.weights().values())).device
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.best = {n: tensor.to(device) for n, tensor in _below("best/", tensors).items()}
        if self.learns:
            learner.load_state(_below("state/", tensors))
        else:
            self._learner = None


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
