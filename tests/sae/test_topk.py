import pytest
import torch
from torch import Tensor

from sdlms.sae.initial import initial_weights
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.topk import TopKLearner
from tests.sae.known_dictionary import BATCH, WIDTH, known_batches, recipe_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(("k", "dead_after_steps"), [(8, 1000), (4, 3), (2, 1)])
def test_fifty_updates_are_sae_lens_own(k: int, dead_after_steps: int) -> None:
    """Without dead latents, and with more and fewer of them than the auxiliary loss takes."""
    acts = known_batches(50)
    recipe = recipe_of("topk", k, n_steps=60, dead_after_steps=dead_after_steps)
    initial = initial_weights(recipe, torch.cat(acts).mean(0))
    theirs = LensLearner(recipe, initial, torch.float32, CPU)
    ours = TopKLearner(recipe, initial, torch.float32, CPU)
    n_dead = set()
    for batch in acts:
        theirs.step(batch)
        ours.step(batch)
        assert ours.n_dead() == theirs.n_dead()
        n_dead.add(ours.n_dead())
    assert (max(n_dead) > recipe.d_in // 2) == (dead_after_steps < 1000)
    for name, wanted in theirs.weights().items():
        assert float((ours.weights()[name] - wanted).norm() / wanted.norm()) < 1e-5
    assert ours.losses() == pytest.approx(theirs.losses(), rel=1e-4)


def loss_of(params: dict[str, Tensor], acts: Tensor, k: int) -> Tensor:
    """The objective without dead latents, as it is written down."""
    norms = params["W_dec"].norm(dim=1)
    scores = ((acts - params["b_dec"]) @ params["W_enc"] + params["b_enc"]) * norms
    best = scores.topk(k)
    latents = torch.zeros_like(scores).scatter(1, best.indices, best.values.relu())
    error = (latents / norms) @ params["W_dec"] + params["b_dec"] - acts
    return error.square().sum(1).mean()


@pytest.mark.parametrize("shift", [0.0, -0.35])  # so far down that fewer than k are above 0
def test_the_gradient_is_autograds(shift: float) -> None:
    acts = known_batches(1)[0][:100]
    recipe = recipe_of("topk", 16, n_steps=50)
    initial = initial_weights(recipe, acts.mean(0))
    generator = torch.Generator().manual_seed(1)
    initial["b_enc"] += shift + 0.05 * torch.randn(WIDTH, generator=generator)
    initial["W_dec"] *= 0.5 + torch.rand(WIDTH, 1, generator=generator)
    learner = TopKLearner(recipe, initial, torch.float32, CPU)
    sums, _ = learner._fill_gradients(acts)
    assert (float(sums[2]) < 16 * len(acts)) == (shift < 0)
    exact = {name: value.double().requires_grad_() for name, value in learner.weights().items()}
    loss_of(exact, acts.double(), 16).backward()
    found = {**learner.adam.grads, "W_enc": learner.adam.grads["W_enc"].T}
    for name, param in exact.items():
        assert param.grad is not None
        gap = (found[name] * 2 / len(acts) - param.grad).norm() / param.grad.norm()
        assert float(gap) < 1e-4  # float32, where biases cancel most of the products


def test_bfloat16_products_learn_the_same() -> None:
    recipe = recipe_of("topk", 8, n_steps=300)
    batches = known_batches(40)
    held_out = torch.cat(known_batches(4, seed=1))
    sums = []
    for products in (torch.float32, torch.bfloat16):
        learner = TopKLearner(
            recipe, initial_weights(recipe, torch.cat(batches).mean(0)), products, CPU
        )
        for step in range(recipe.n_steps):
            learner.step(batches[step % len(batches)])
        sums.append(learner.evaluate(held_out))
    assert sums[1].squared_error == pytest.approx(sums[0].squared_error, rel=5e-3)
    assert sums[1].n_active == sums[0].n_active == 8 * 4 * BATCH
