from dataclasses import replace

import pytest

from sdlms.sae.lens_check import without_traces
from tests.sae.known_dictionary import recipe_of

STEPS = 20


@pytest.mark.parametrize("decay", [0, 1, 6])
@pytest.mark.parametrize("warm_up", [0, 1, 2, 7])
def test_the_rates_are_those_of_sae_lens(warm_up: int, decay: int) -> None:
    import torch

    with without_traces():
        from sae_lens.training.optim import get_lr_scheduler

    recipe = replace(
        recipe_of("standard", 1.0, STEPS), lr_warm_up_steps=warm_up, lr_decay_steps=decay
    )
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    scheduler = get_lr_scheduler(
        "constant",
        optimizer=optimizer,
        training_steps=STEPS,
        lr=recipe.lr,
        warm_up_steps=warm_up,
        decay_steps=decay,
        lr_end=recipe.lr / 10,
        num_cycles=1,
    )
    for step in range(STEPS):
        assert recipe.lr_at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("warm_up", [0, 1, 7, 40])
def test_the_coefficients_are_those_of_sae_lens(warm_up: int) -> None:
    with without_traces():
        from sae_lens.training.optim import CoefficientScheduler

    recipe = replace(recipe_of("standard", 1.7, STEPS), warm_up_steps=warm_up)
    theirs = CoefficientScheduler(warm_up_steps=warm_up, final_value=1.7)
    for step in range(STEPS):
        assert recipe.coefficient_at(step) == theirs.value
        theirs.step()


def test_k_has_no_warm_up() -> None:
    recipe = replace(recipe_of("topk", 8.0, STEPS), warm_up_steps=10)
    assert [recipe.coefficient_at(step) for step in (0, 5, 15)] == [8.0, 8.0, 8.0]
