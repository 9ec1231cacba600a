"""The members of a sweep: one autoencoder for each layer, coefficient and seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdlms.sae.recipe import COEFFICIENTS, Recipe


@dataclass(frozen=True)
class Member:
    """One autoencoder of a run.

    Attributes:
        layer: of the activations it learns from.
        name: unique within the layer; the folder that it is written to.
        recipe: how it is trained.
    """

    layer: int
    name: str
    recipe: Recipe


def members_of(
    recipe: Recipe, layers: Sequence[int], coefficients: Sequence[float], seeds: Sequence[int]
) -> list[Member]:
    """Every layer with every coefficient and seed, in this order.

    Args:
        recipe: what all of them share; its coefficient and seed are replaced.
        layers: ascending.
        coefficients: each once.
        seeds: of the initial weights; the order of batches is the same for all.
    """
    return [
        Member(layer, member_name(own), own)
        for layer in layers
        for coefficient in coefficients
        for seed in seeds
        for own in [replace(recipe, coefficient=coefficient, seed=seed)]
    ]


def member_name(recipe: Recipe) -> str:
    """Flag, value and seed: `l1_0.3_seed0`, `k_32_seed1`."""
    return f"{COEFFICIENTS[recipe.kind]}_{recipe.coefficient:g}_seed{recipe.seed}"


def partner_of(name: str, alike: Sequence[str]) -> str:
    """The member with the next seed; the last seed's is the first; empty where there is one only.

    Args:
        name: of a member.
        alike: names of those that differ in nothing but their seed, itself among them.
    """
    after = alike[(alike.index(name) + 1) % len(alike)]
    return "" if after == name else after
