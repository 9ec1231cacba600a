"""Autoencoders in training, by sae-lens' trainer and by ours, and the products they consist of."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from sdlms.models.device import dtype_of
from sdlms.sae.initial import initial_weights
from sdlms.sae.learner import Learner
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.recipe import Kind, Recipe
from sdlms.sae.trainers import learner_of

CPU = torch.device("cpu")
N_ACTIVE = 32  # directions in a token, and k of topk
LENS, LENS_AUTOCAST = "sae-lens fp32", "sae-lens autocast"
OURS, OURS_BF16 = "ours fp32", "ours bf16"
PRODUCTS: dict[str, torch.dtype] = {OURS: torch.float32, OURS_BF16: torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """How large an autoencoder is, and how long it learns."""

    d_in: int
    width: int
    batch_size: int
    n_steps: int

    def recipe(self, kind: Kind, lr: float) -> Recipe:
        """Rates without warm-up, so that every step does the same work."""
        return Recipe(
            kind=kind,
            d_in=self.d_in,
            width=self.width,
            coefficient=1.0 if kind == "standard" else N_ACTIVE,
            seed=0,
            n_steps=1_000_000,
            batch_size=self.batch_size,
            lr=lr,
            lr_warm_up_steps=0,
            lr_decay_steps=0,
            warm_up_steps=0,
        )


@dataclass(frozen=True)
class Data:
    """Sparse sums of directions, of mean squared norm d_in.

    Attributes:
        directions: `[latent, unit]`, of norm 1.
        batches: `[token, unit]` each.
    """

    directions: Tensor
    batches: list[Tensor]

    @classmethod
    def drawn(cls, shape: Shape, n_batches: int, seed: int = 0) -> "Data":
        """The directions do not depend on the seed."""
        directions = torch.randn(
            shape.width, shape.d_in, generator=torch.Generator().manual_seed(99)
        )
        directions /= directions.norm(dim=1, keepdim=True)
        generator = torch.Generator().manual_seed(seed)
        batches = [_batch(directions, shape, generator) for _ in range(n_batches)]
        return cls(directions, batches)


def _batch(directions: Tensor, shape: Shape, generator: torch.Generator) -> Tensor:
    """In each token about `N_ACTIVE` of them, of strengths from 0.5 to 1.5, and a mean of 0.1."""
    size = (shape.batch_size, shape.width)
    strengths = 0.5 + torch.rand(size, generator=generator)
    strengths *= torch.rand(size, generator=generator) < N_ACTIVE / shape.width
    acts = strengths @ directions + 0.1
    return acts * (shape.d_in / acts.square().sum(1).mean()).sqrt()


def start_of(recipe: Recipe, data: Data, trained: bool) -> dict[str, Tensor]:
    """Fresh weights; or those of one that knows the directions, with about 32 latents active.

    Training for long enough would find such weights; nothing but their sparsity matters here.
    """
    acts = data.batches[0]
    weights = initial_weights(recipe, acts.mean(0))
    if trained:
        weights |= {"W_enc": data.directions.T.contiguous(), "W_dec": data.directions.clone()}
        scores = (acts[:256] - weights["b_dec"]) @ weights["W_enc"]
        kth = scores.flatten().kthvalue(scores.numel() - 256 * N_ACTIVE).values
        weights["b_enc"] = torch.full((recipe.width,), -float(kth))
    return weights


def learners_of(recipe: Recipe, start: dict[str, Tensor]) -> dict[str, Learner]:
    """One of each side; bfloat16 where the machine multiplies it."""
    sides: dict[str, Learner] = {LENS: LensLearner(recipe, start, torch.float32, CPU)}
    sides[OURS] = learner_of(recipe, start, torch.float32, CPU, "auto")
    if dtype_of("auto", CPU) == torch.bfloat16:
        sides[LENS_AUTOCAST] = LensLearner(recipe, start, torch.bfloat16, CPU)
        sides[OURS_BF16] = learner_of(recipe, start, torch.bfloat16, CPU, "auto")
    return sides


def steps_of(learner: Learner, data: Data, n_steps: int) -> Callable[[], None]:
    """The next updates, each by the next batch."""
    batches = cycle(data.batches)

    def learn() -> None:
        for _ in range(n_steps):
            learner.step(next(batches))

    return learn


def products_of(shape: Shape, dtype: torch.dtype) -> Callable[[], None]:
    """The five products of a step, alone: encode, decode, and the gradients of three factors."""
    acts = torch.randn(shape.batch_size, shape.d_in).to(dtype)
    decoder = torch.randn(shape.width, shape.d_in).to(dtype)
    latents = torch.empty(shape.batch_size, shape.width, dtype=dtype)
    decoded, gradient = torch.empty_like(acts), torch.empty_like(decoder)

    def multiply() -> None:
        for _ in range(shape.n_steps):
            torch.mm(acts, decoder.T, out=latents)
            torch.mm(latents, decoder, out=decoded)
            torch.mm(acts, decoder.T, out=latents)
            torch.mm(latents.T, acts, out=gradient)
            torch.mm(latents.T, acts, out=gradient)

    return multiply


def gap(one: Learner, other: Learner) -> float:
    """The largest relative difference between their weights."""
    theirs = other.weights()
    return max(
        float((weight - theirs[name]).norm() / theirs[name].norm())
        for name, weight in one.weights().items()
    )
