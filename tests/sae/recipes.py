"""Small trainings for tests."""

from dataclasses import replace
from typing import Any

from sdlms.sae.recipe import COEFFICIENTS, Kind, Recipe


def recipe(kind: Kind = "standard", **changes: Any) -> Recipe:
    """32 latents over 8 units, 60 updates of 64 tokens."""
    coefficient = {"l1": 0.3, "k": 4.0, "l0": 0.05}[COEFFICIENTS[kind]]
    small = Recipe(
        kind=kind,
        d_in=8,
        width=32,
        coefficient=coefficient,
        seed=0,
        n_steps=60,
        batch_size=64,
        lr=3e-3,
        lr_warm_up_steps=3,
        lr_decay_steps=12,
        warm_up_steps=3,
        dead_after_steps=20,
    )
    return replace(small, **changes)
