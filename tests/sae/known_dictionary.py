"""Recipes at which sae-lens and our steps are compared, and activations with a known dictionary."""

import torch
from torch import Tensor

from sdlms.sae.recipe import Kind, Recipe

D_IN, WIDTH, BATCH = 32, 256, 256


def recipe_of(kind: Kind, coefficient: float, n_steps: int, dead_after_steps: int = 1000) -> Recipe:
    return Recipe(
        kind=kind,
        d_in=D_IN,
        width=WIDTH,
        coefficient=coefficient,
        seed=0,
        n_steps=n_steps,
        batch_size=BATCH,
        lr=1e-3,
        lr_warm_up_steps=n_steps // 10,
        lr_decay_steps=n_steps // 5,
        warm_up_steps=n_steps // 10,
        dead_after_steps=dead_after_steps,
    )


def known_batches(n_batches: int, seed: int = 0) -> list[Tensor]:
    """Sparse sums of twice as many directions as units, of mean squared norm about D_IN."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2 * D_IN, D_IN, generator=torch.Generator().manual_seed(7))
    shape = (n_batches, BATCH, 2 * D_IN)
    chosen = torch.rand(shape, generator=generator) < 0.06
    strengths = chosen * torch.rand(shape, generator=generator)
    acts = strengths @ directions + 0.2
    return list(acts * (D_IN / acts.square().sum(-1).mean()).sqrt())
