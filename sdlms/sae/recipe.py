"""What one sparse autoencoder is trained with, and how its rates go over the steps."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Which flag holds the coefficient of each kind.
COEFFICIENTS: dict[Kind, Literal["l1", "k", "l0"]] = {
    "standard": "l1",
    "gated": "l1",
    "topk": "k",
    "batchtopk": "k",
    "matryoshka": "k",
    "jumprelu": "l0",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training, whoever runs it.

    Attributes:
        kind: the architecture while it is trained.
        d_in: units of the activations.
        width: latents.
        coefficient: weight of the L1 norm (standard, gated) or of L0 (jumprelu) in the loss; or
            the number of latents that are kept per token (topk; batchtopk and matryoshka: on
            average).
        seed: of the initial weights.
        n_steps: updates in all; the schedules depend on it.
        batch_size: tokens in an update.
        lr: Adam's largest rate.
        lr_warm_up_steps: it rises linearly over the first ones.
        lr_decay_steps: and falls linearly to 0 over the last ones.
        warm_up_steps: the coefficient (not k) rises linearly from 0 over the first ones.
        dead_after_steps: a latent that has not fired for more steps is dead, and topk's auxiliary
            loss trains it.
    """

    kind: Kind
    d_in: int
    width: int
    coefficient: float
    seed: int
    n_steps: int
    batch_size: int
    lr: float
    lr_warm_up_steps: int
    lr_decay_steps: int
    warm_up_steps: int
    dead_after_steps: int = 1000

    def lr_at(self, step: int) -> float:
        """Adam's rate in update `step`, from 0; as sae-lens has it."""
        if step < self.lr_warm_up_steps:
            if self.lr_warm_up_steps == 1:
                return self.lr
            start = 1 / self.lr_warm_up_steps
            return self.lr * (start + (1 - start) * step / (self.lr_warm_up_steps - 1))
        first = self.n_steps - self.lr_decay_steps
        return self.lr * (1 - max(0, step - first) / max(1, self.lr_decay_steps))

    def coefficient_at(self, step: int) -> float:
        """The weight of the sparsity term in update `step`, from 0; as sae-lens has it."""
        if COEFFICIENTS[self.kind] == "k" or step >= self.warm_up_steps:
            return self.coefficient
        return self.coefficient * (step / self.warm_up_steps)
