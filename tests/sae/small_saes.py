"""Small recipes, starts and activations that the tests of SAEs share."""

import torch
from torch import Tensor

from sdlms.sae.learner import Learner
from sdlms.sae.recipe import KINDS, Kind, Recipe

D_IN, WIDTH, BATCH = 8, 32, 64
COEFFICIENTS: dict[Kind, float] = {kind: 3.0 for kind in KINDS} | {
    "standard": 0.5,
    "gated": 0.5,
    "jumprelu": 0.1,
}


def small_recipe(kind: Kind, n_steps: int = 20, dead_after_steps: int = 5) -> Recipe:
    return Recipe(
        kind=kind,
        d_in=D_IN,
        width=WIDTH,
        coefficient=COEFFICIENTS[kind],
        seed=0,
        n_steps=n_steps,
        batch_size=BATCH,
        lr=0.01,
        lr_warm_up_steps=n_steps // 5,
        lr_decay_steps=n_steps // 4,
        warm_up_steps=n_steps // 2,
        dead_after_steps=dead_after_steps,
    )


def small_start(kind: Kind) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    decoder = torch.randn(WIDTH, D_IN, generator=random)
    decoder = 0.3 * decoder / decoder.norm(dim=1, keepdim=True)
    zeros = torch.zeros(WIDTH)
    start = {"W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_dec": torch.full((D_IN,), 0.1)}
    if kind == "gated":
        return start | {"b_gate": zeros, "b_mag": zeros, "r_mag": zeros}
    return start | {"b_enc": zeros} | ({"threshold": zeros + 0.01} if kind == "jumprelu" else {})


def small_batches(n_batches: int, seed: int = 0) -> list[Tensor]:
    """Sums of a few known directions, of mean squared norm about D_IN."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(2 * D_IN, D_IN, generator=torch.Generator().manual_seed(7))
    chosen = (torch.rand(n_batches, BATCH, 2 * D_IN, generator=random) < 0.15).float()
    strengths = chosen * torch.rand(chosen.shape, generator=random)
    noise = 0.05 * torch.randn(n_batches, BATCH, D_IN, generator=random)
    return list(strengths @ directions + noise + 0.2)


def teach(learner: Learner, n_steps: int) -> None:
    """The first updates of twenty."""
    for acts in small_batches(20)[:n_steps]:
        learner.step(acts)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether the same names have the same bits."""
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
