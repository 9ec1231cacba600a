"""Who trains a member: our own steps where they pay, sae-lens' training classes otherwise."""

from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from sdlms.sae.learner import Learner
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.recipe import Recipe
from sdlms.sae.standard import StandardLearner
from sdlms.sae.topk import TopKLearner

Trainer = Literal["auto", "sae-lens"]
OWN = {"standard": StandardLearner, "topk": TopKLearner}


def trainer_of(kind: str, wanted: Trainer) -> str:
    """`sdlms` or `sae-lens`: who trains this kind."""
    return "sdlms" if wanted == "auto" and kind in OWN else "sae-lens"


def described(kind: str, wanted: Trainer) -> str:
    """Who trains this kind, with the version; our own steps have that of the run."""
    trainer = trainer_of(kind, wanted)
    return f"{trainer} {version(trainer)}" if trainer == "sae-lens" else trainer


def learner_of(
    recipe: Recipe,
    initial: dict[str, Tensor],
    products: torch.dtype,
    device: torch.device,
    wanted: Trainer,
) -> Learner:
    """A learner, anew.

    Args:
        recipe: what it is trained with.
        initial: as `initial_weights` gives them; copied.
        products: what matrix products run in.
        device: where it learns.
        wanted: as `--trainer` has it.
    """
    if trainer_of(recipe.kind, wanted) == "sae-lens":
        return LensLearner(recipe, initial, products, device)
    return OWN[recipe.kind](recipe, initial, products, device)
