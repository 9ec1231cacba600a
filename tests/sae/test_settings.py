"""Settings of a sweep: which flag belongs to which architecture, and what the rest follows from."""

import pytest

from sdlms.errors import UserError
from sdlms.sae.recipe import COEFFICIENTS, KINDS, Kind
from sdlms.sae.settings import (
    COEFFICIENT_DEFAULTS,
    check_k,
    check_positive,
    coefficients_of,
    recipe_of,
    told,
    width_of,
)

NONE: dict[str, tuple[float, ...]] = {"l1": (), "k": (), "l0": ()}


@pytest.mark.parametrize("kind", KINDS)
def test_each_architecture_takes_its_own_flag_and_no_other(kind: Kind) -> None:
    own = COEFFICIENTS[kind]
    assert coefficients_of(kind, {**NONE, own: (3.0, 1.0, 2.0)}) == (1.0, 2.0, 3.0)
    assert coefficients_of(kind, NONE) == tuple(sorted(COEFFICIENT_DEFAULTS[own]))
    for other in NONE.keys() - {own}:
        with pytest.raises(UserError, match=f"--{other} is not for --arch {kind}; .*--{own}"):
            coefficients_of(kind, {**NONE, other: (1.0,)})


@pytest.mark.parametrize(
    ("values", "named"),
    [((0.0,), "0"), ((1.0, -2.0), "1, -2"), ((1.0, 1.0), "1, 1"), ((0.3, 0.30000001), "0.3, 0.3")],
)
def test_values_are_above_0_and_have_different_names(values: tuple[float, ...], named: str) -> None:
    with pytest.raises(UserError, match=f"--l1: values must differ and be above 0, got {named}.$"):
        coefficients_of("standard", {**NONE, "l1": values})


def test_no_more_are_active_than_there_are() -> None:
    check_k("topk", (4.0, 8.0), 8)
    check_k("standard", (9.0,), 8)
    with pytest.raises(UserError, match="--k 8: there are 7 latents only"):
        check_k("matryoshka", (4.0, 8.0), 7)


def test_the_width_is_said_or_follows_from_the_model() -> None:
    assert width_of(None, 2.5, 24) == 60
    assert width_of(7, 2.5, 24) == 7
    with pytest.raises(UserError, match=r"--expansion 0.01: times 24, .* no latent"):
        width_of(None, 0.01, 24)
    with pytest.raises(UserError, match=r"--lr must be above 0, got -1.$"):
        check_positive("lr", -1.0)


@pytest.mark.parametrize("n_steps", [1, 7, 19, 20, 400, 100_000])
def test_a_recipe_fits_any_number_of_steps(n_steps: int) -> None:
    recipe = recipe_of("standard", (8, 32), (n_steps, 64, 1e-3))
    assert (recipe.d_in, recipe.width, recipe.n_steps) == (8, 32, n_steps)
    assert recipe.warm_up_steps == recipe.lr_warm_up_steps <= n_steps / 20
    assert recipe.lr_decay_steps <= n_steps / 5
    assert 1 <= recipe.dead_after_steps <= 1000
    assert all(0 < recipe.lr_at(step) < 1.001 * recipe.lr for step in range(n_steps))


def test_the_help_tells_the_sweeps_that_there_are() -> None:
    assert told("l1") == "by default 1,2,4"
    assert told("k") == "by default 16,32,64"
