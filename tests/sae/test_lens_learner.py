import dataclasses

import pytest
import torch

from sdlms.errors import UserError
from sdlms.sae.dictionary import dictionary_of
from sdlms.sae.lens_learner import LensLearner, matryoshka_widths
from sdlms.sae.recipe import KINDS, Kind
from tests.sae.small_saes import (
    BATCH,
    D_IN,
    WIDTH,
    same,
    small_batches,
    small_recipe,
    small_start,
    teach,
)

CPU = torch.device("cpu")
THRESHOLDED: tuple[Kind, ...] = ("batchtopk", "matryoshka")


def learner_of(kind: Kind, products: torch.dtype = torch.float32) -> LensLearner:
    return LensLearner(small_recipe(kind), small_start(kind), products, CPU)


def trained(kind: Kind, n_steps: int = 20, products: torch.dtype = torch.float32) -> LensLearner:
    learner = learner_of(kind, products)
    teach(learner, n_steps)
    return learner


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_learner_goes_on_bit_by_bit(kind: Kind, products: torch.dtype) -> None:
    whole = trained(kind, products=products)
    half = trained(kind, 10, products)
    copies = {name: value.clone() for name, value in half.state().items()}
    fresh = learner_of(kind, products)
    fresh.load_state(copies)
    assert fresh.n_done == 10
    for acts in small_batches(20)[10:]:
        fresh.step(acts)
    assert same(fresh.state(), whole.state())
    assert fresh.losses() == whole.losses()
    assert same(copies, trained(kind, 10, products).state())  # which was copied, not used


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_sae_lens_does_by_itself(kind: Kind) -> None:
    from sae_lens import SAETrainer

    ours, theirs = trained(kind), learner_of(kind)
    trainer = SAETrainer(theirs._trainer.cfg, theirs._sae, iter(small_batches(20)))
    trainer.fit()
    assert same(ours.weights(), theirs.weights())
    assert ours.n_dead() == int(trainer.dead_neurons.sum())


def test_a_state_from_before_the_first_update_can_be_loaded() -> None:
    fresh = learner_of("standard")
    fresh.step(small_batches(1)[0])
    fresh.load_state(learner_of("standard").state())
    for acts in small_batches(20):
        fresh.step(acts)
    assert same(fresh.state(), trained("standard").state())


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_from_what_it_is_given_and_learns(kind: Kind) -> None:
    start = small_start(kind)
    learner = LensLearner(small_recipe(kind), start, torch.float32, CPU)
    assert all(torch.equal(learner.weights()[name], start[name]) for name in start)
    before = learner.evaluate(small_batches(1, seed=5)[0])
    for acts in small_batches(20):
        learner.step(acts)
    learner.calibrate(torch.cat(small_batches(20)))
    after = learner.evaluate(small_batches(1, seed=5)[0])
    assert after.squared_error < before.squared_error
    assert same(start, small_start(kind))
    assert all(w.dtype == torch.float32 for w in learner.weights().values())


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_coefficients_are_those_of_the_recipe(kind: Kind) -> None:
    learner = learner_of(kind)
    for step, acts in enumerate(small_batches(20)):
        rate = learner._trainer.optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(learner.recipe.lr_at(step), rel=1e-9)
        for value in learner._trainer.get_coefficients().values():
            assert value == pytest.approx(learner.recipe.coefficient_at(step))
        learner.step(acts)


@pytest.mark.parametrize(("warm_up", "decay"), [(0, 0), (1, 1), (0, 20), (20, 0)])
def test_rates_at_the_edges(warm_up: int, decay: int) -> None:
    recipe = dataclasses.replace(
        small_recipe("topk"), lr_warm_up_steps=warm_up, lr_decay_steps=decay
    )
    learner = LensLearner(recipe, small_start("topk"), torch.float32, CPU)
    for step, acts in enumerate(small_batches(20)):
        rate = learner._trainer.optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(recipe.lr_at(step), rel=1e-9)
        learner.step(acts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_are_those_of_the_saved_dictionary(kind: Kind) -> None:
    learner = trained(kind)
    acts = small_batches(1, seed=3)[0]
    sums = learner.evaluate(acts)
    dictionary = dictionary_of(learner.recipe, learner.weights(), 1.0)
    latents = dictionary.encode(acts)
    assert sums.n_tokens == BATCH
    assert sums.n_active == int((latents > 0).sum())
    errors = dictionary.decode(latents) - acts
    assert sums.squared_error == pytest.approx(float(errors.square().sum()), rel=1e-5)
    expected = {"standard": 0.5 * float(latents.sum()), "jumprelu": 0.1 * sums.n_active}
    if kind == "gated":  # norms are folded in, as above
        products = (acts - dictionary.bias) @ dictionary.tensors["W_enc"]
        expected["gated"] = 0.5 * float((products + dictionary.tensors["b_gate"]).relu().sum())
    assert sums.sparsity == pytest.approx(expected.get(kind, 0.0), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_equals_the_training_loss_and_changes_nothing(kind: Kind) -> None:
    learner = trained(kind)
    acts = small_batches(1, seed=4)[0]
    before = {name: value.clone() for name, value in learner.state().items()}
    random = torch.get_rng_state()
    sums = learner.evaluate(acts)
    assert same(before, learner.state())
    assert torch.equal(random, torch.get_rng_state())
    learner.step(acts)
    if kind not in THRESHOLDED:  # in training these take the batch's k largest
        losses = learner.losses()
        assert losses.reconstruction == pytest.approx(sums.squared_error / BATCH, rel=1e-4)
        assert losses.sparsity == pytest.approx(sums.sparsity / BATCH, rel=1e-4)
        assert losses.n_active == pytest.approx(sums.n_active / BATCH)
    else:
        assert learner.losses().n_active == learner.recipe.coefficient


@pytest.mark.parametrize("kind", THRESHOLDED)
def test_calibrating_gives_k_latents_per_token(kind: Kind) -> None:
    learner = trained(kind)
    acts = torch.cat(small_batches(20))
    followed = learner.evaluate(acts).n_active / len(acts)
    learner.calibrate(acts)
    assert learner.evaluate(acts).n_active == 3 * len(acts)
    assert followed > 3.5  # what sae-lens itself would save
    learner.calibrate(acts[:BATCH])
    assert learner.evaluate(acts[:BATCH]).n_active == 3 * BATCH


@pytest.mark.parametrize("kind", THRESHOLDED)
def test_no_update_depends_on_calibrating(kind: Kind) -> None:
    learner, plain = trained(kind, 10), trained(kind)
    for acts in small_batches(20)[10:]:
        learner.calibrate(acts)
        learner.step(acts)
    weights, others = learner.weights(), plain.weights()
    assert all(torch.equal(weights[n], others[n]) for n in weights if n != "threshold")


def test_where_too_few_are_positive_all_are_active() -> None:
    start = small_start("batchtopk")
    start["b_enc"] = torch.full((WIDTH,), -100.0)
    start["b_enc"][0] = 100.0
    learner = LensLearner(small_recipe("batchtopk"), start, torch.float32, CPU)
    acts = small_batches(1)[0]
    learner.calibrate(acts)
    assert not learner.weights()["threshold"].any()
    assert learner.evaluate(acts).n_active == BATCH


def test_calibrating_leaves_other_kinds_alone() -> None:
    learner = trained("topk", 2)
    before = {name: value.clone() for name, value in learner.state().items()}
    learner.calibrate(small_batches(1)[0])
    assert same(before, learner.state())


def test_the_dead_are_counted() -> None:
    start = small_start("standard")
    start["b_enc"] = torch.zeros(WIDTH)
    start["b_enc"][:5] = -100.0
    learner = LensLearner(small_recipe("standard"), start, torch.float32, CPU)
    counts = []
    for acts in small_batches(8):
        learner.step(acts)
        counts.append(learner.n_dead())
    assert counts == [0] * 5 + [5] * 3  # dead after more than 5 updates


def test_making_one_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    learner_of("matryoshka")
    assert torch.equal(before, torch.get_rng_state())


def test_matryoshka_levels() -> None:
    assert matryoshka_widths(4096) == [256, 512, 1024, 2048, 4096]
    assert matryoshka_widths(8) == [1, 2, 4, 8]
    assert learner_of("matryoshka")._sae.cfg.matryoshka_widths == [2, 4, 8, 16, 32]


def test_losses_before_the_first_update_are_a_bug() -> None:
    with pytest.raises(ValueError, match="no update yet"):
        learner_of("standard").losses()


def test_products_that_sae_lens_cannot_do_are_a_bug() -> None:
    with pytest.raises(ValueError, match="float32 or bfloat16, not in"):
        learner_of("standard", torch.float16)


def test_k_of_all_latents_takes_what_is_positive() -> None:
    recipe = dataclasses.replace(small_recipe("batchtopk"), coefficient=float(WIDTH))
    learner = LensLearner(recipe, small_start("batchtopk"), torch.float32, CPU)
    learner.calibrate(small_batches(1)[0])
    assert not learner.weights()["threshold"].any()


def test_mps_lacks_what_a_batch_threshold_needs() -> None:
    with pytest.raises(UserError, match="--device mps cannot train batchtopk"):
        LensLearner(small_recipe("batchtopk"), {}, torch.float32, torch.device("mps"))


def test_activations_are_not_changed() -> None:
    acts = small_batches(1)[0]
    copy = acts.clone()
    trained("standard", 1).step(acts)
    assert torch.equal(acts, copy)
    assert acts.shape == (BATCH, D_IN)
