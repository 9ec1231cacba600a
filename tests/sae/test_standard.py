from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sdlms.sae import standard
from sdlms.sae.initial import initial_weights
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.standard import StandardLearner
from tests.sae.known_dictionary import WIDTH, known_batches, recipe_of

CPU = torch.device("cpu")


@contextmanager
def sparse_below(share: float) -> Iterator[None]:
    """Where fewer latents are active, products are sparse: 0 is nowhere, 2 everywhere."""
    before = dict(standard.SPARSE_BELOW)
    standard.SPARSE_BELOW.update(dict.fromkeys(before, share))
    try:
        yield
    finally:
        standard.SPARSE_BELOW.update(before)


@pytest.mark.parametrize("share", [0.0, 0.3, 2.0])
def test_fifty_updates_are_sae_lens_own(share: float) -> None:
    """With dense products, with sparse ones, and with dense ones that become sparse."""
    acts = known_batches(50)
    recipe = recipe_of("standard", 1.0, n_steps=60)
    initial = initial_weights(recipe, torch.cat(acts).mean(0))
    theirs = LensLearner(recipe, initial, torch.float32, CPU)
    ours = StandardLearner(recipe, initial, torch.float32, CPU)
    with sparse_below(share):
        for batch in acts:
            theirs.step(batch)
            ours.step(batch)
    for name, wanted in theirs.weights().items():
        assert float((ours.weights()[name] - wanted).norm() / wanted.norm()) < 1e-5
    assert ours.losses() == pytest.approx(theirs.losses(), rel=1e-4)
    silent = theirs.state()["n_forward_passes_since_fired"]
    assert torch.equal(ours.silent_steps, silent.long())


def test_whatever_the_seed_the_weights_stay_those_of_sae_lens() -> None:
    """Where rounding turns a latent on here and off there, they part by more than usually."""
    gaps = []
    for seed in range(5):
        acts = known_batches(50, seed)
        recipe = replace(recipe_of("standard", 1.0, n_steps=60), seed=seed)
        initial = initial_weights(recipe, torch.cat(acts).mean(0))
        theirs = LensLearner(recipe, initial, torch.float32, CPU)
        ours = StandardLearner(recipe, initial, torch.float32, CPU)
        for batch in acts:
            theirs.step(batch)
            ours.step(batch)
        pairs = [(ours.weights()[name], wanted) for name, wanted in theirs.weights().items()]
        gaps.append(max(float((one - other).norm() / other.norm()) for one, other in pairs))
    assert sorted(gaps)[3] < 1e-5
    assert max(gaps) < 1e-4


def loss_of(params: dict[str, Tensor], acts: Tensor, l1: float) -> Tensor:
    """The objective, as it is written down."""
    latents = ((acts - params["b_dec"]) @ params["W_enc"] + params["b_enc"]).relu()
    error = latents @ params["W_dec"] + params["b_dec"] - acts
    sparsity = (latents * params["W_dec"].norm(dim=1)).sum(1).mean()
    return error.square().sum(1).mean() + l1 * sparsity


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_the_gradient_is_autograds(share: float) -> None:
    acts = known_batches(1)[0][:100]
    recipe = replace(recipe_of("standard", 0.7, n_steps=50), warm_up_steps=0)
    initial = initial_weights(recipe, acts.mean(0))
    initial["b_enc"] += 0.05 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    learner = StandardLearner(recipe, initial, torch.float32, CPU)
    with sparse_below(share):
        learner._fill_gradients(acts)
    exact = {name: value.double().requires_grad_() for name, value in learner.weights().items()}
    loss_of(exact, acts.double(), 0.7).backward()
    found = {**learner.adam.grads, "W_enc": learner.adam.grads["W_enc"].T}
    for name, param in exact.items():
        assert param.grad is not None
        gap = (found[name] * 2 / len(acts) - param.grad).norm() / param.grad.norm()
        assert float(gap) < 1e-5


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_bfloat16_products_learn_the_same(share: float) -> None:
    recipe = recipe_of("standard", 1.0, n_steps=300)
    batches = known_batches(40)
    held_out = torch.cat(known_batches(4, seed=1))
    sums = []
    for products in (torch.float32, torch.bfloat16):
        learner = StandardLearner(
            recipe, initial_weights(recipe, torch.cat(batches).mean(0)), products, CPU
        )
        with sparse_below(0.0 if products == torch.float32 else share):
            for step in range(recipe.n_steps):
                learner.step(batches[step % len(batches)])
            sums.append(learner.evaluate(held_out))
    assert sums[1].squared_error == pytest.approx(sums[0].squared_error, rel=5e-3)
    assert sums[1].n_active == pytest.approx(sums[0].n_active, rel=1e-2)


def test_a_decoder_row_of_zero_has_the_gradient_of_sae_lens() -> None:
    """Its norm has none."""
    acts = known_batches(1)[0]
    recipe = replace(recipe_of("standard", 1.0, n_steps=10), warm_up_steps=0)
    initial = initial_weights(recipe, torch.zeros(recipe.d_in))
    initial["W_dec"][3] = 0.0
    theirs = LensLearner(recipe, initial, torch.float32, CPU)
    ours = StandardLearner(recipe, initial, torch.float32, CPU)
    for learner in (theirs, ours):
        learner.step(acts)
    assert torch.allclose(ours.weights()["W_dec"], theirs.weights()["W_dec"], atol=1e-6)


def test_nothing_active_is_no_special_case() -> None:
    """All latents are off: the decoder's bias alone learns."""
    recipe = recipe_of("standard", 1.0, n_steps=10)
    initial = initial_weights(recipe, torch.zeros(recipe.d_in))
    initial["b_enc"] -= 1e6
    learner = StandardLearner(recipe, initial, torch.float32, CPU)
    learner.step(known_batches(1)[0])
    assert learner.losses().n_active == 0
    assert torch.equal(learner.weights()["W_dec"], initial["W_dec"])
    assert not torch.equal(learner.weights()["b_dec"], initial["b_dec"])
