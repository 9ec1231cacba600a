"""What both kinds of training steps promise, whatever they compute."""

import pytest
import torch

from sdlms.sae.own import OwnLearner, column_sums
from sdlms.sae.recipe import Kind
from sdlms.sae.standard import StandardLearner
from sdlms.sae.topk import TopKLearner
from tests.sae.small_saes import BATCH, D_IN, same, small_batches, small_recipe, small_start, teach

CPU = torch.device("cpu")
LEARNERS: dict[Kind, type[OwnLearner]] = {"standard": StandardLearner, "topk": TopKLearner}
TYPES = [torch.float32, torch.bfloat16]

both = pytest.mark.parametrize("kind", list(LEARNERS))
either = pytest.mark.parametrize("products", TYPES)


def learner_of(kind: Kind, products: torch.dtype = torch.float32) -> OwnLearner:
    return LEARNERS[kind](small_recipe(kind), small_start(kind), products, CPU)


def trained(kind: Kind, products: torch.dtype = torch.float32, n_steps: int = 20) -> OwnLearner:
    learner = learner_of(kind, products)
    teach(learner, n_steps)
    return learner


@both
@either
def test_a_state_goes_on_bit_by_bit(kind: Kind, products: torch.dtype) -> None:
    whole, half = trained(kind, products), trained(kind, products, 10)
    copies = {name: value.clone() for name, value in half.state().items()}
    fresh = learner_of(kind, products)
    fresh.load_state(copies)
    assert fresh.n_done == 10
    for acts in small_batches(20)[10:]:
        fresh.step(acts)
    assert same(fresh.state(), whole.state())
    assert fresh.losses() == whole.losses()


@both
@either
def test_learners_that_take_turns_do_not_mix(kind: Kind, products: torch.dtype) -> None:
    """They share scratch; one of them is evaluated between, on fewer tokens."""
    alone = trained(kind, products)
    one, other = learner_of(kind, products), learner_of(kind, products)
    for acts in small_batches(20):
        one.step(acts)
        other.step(acts * 3.0)
        other.evaluate(acts[:7])
    assert same(one.state(), alone.state())
    assert one.losses() == alone.losses()
    assert not same(other.state(), alone.state())


@both
def test_what_it_learns_from_is_not_changed(kind: Kind) -> None:
    acts = small_batches(1)[0]
    before, start = acts.clone(), small_start(kind)
    learner = LEARNERS[kind](small_recipe(kind), start, torch.bfloat16, CPU)
    learner.step(acts)
    learner.calibrate(acts)
    learner.evaluate(acts)
    assert torch.equal(acts, before)
    assert same(start, small_start(kind))


@both
@either
def test_an_evaluation_is_the_losses_of_the_next_update(kind: Kind, products: torch.dtype) -> None:
    learner, acts = trained(kind, products), small_batches(1, seed=3)[0]
    sums = learner.evaluate(acts)
    learner.step(acts)
    losses = learner.losses()
    assert sums.n_tokens == BATCH
    assert sums.squared_error / BATCH == pytest.approx(losses.reconstruction, rel=1e-9)
    assert sums.sparsity / BATCH == pytest.approx(losses.sparsity, rel=1e-6)
    assert sums.n_active / BATCH == losses.n_active


@both
def test_evaluation_goes_in_batches_and_changes_nothing(kind: Kind) -> None:
    learner = trained(kind)
    before = {name: value.clone() for name, value in learner.state().items()}
    acts = torch.cat(small_batches(3, seed=3))[: 2 * BATCH + 5]
    whole = learner.evaluate(acts)
    parts = [learner.evaluate(part) for part in acts.split(BATCH)]
    assert whole.n_tokens == len(acts)
    assert whole.n_active == sum(part.n_active for part in parts)
    assert whole.squared_error == pytest.approx(sum(part.squared_error for part in parts))
    assert whole.sparsity == pytest.approx(sum(part.sparsity for part in parts))
    assert same(learner.state(), before)


@both
@either
def test_nan_shows_in_the_losses(kind: Kind, products: torch.dtype) -> None:
    learner, acts = trained(kind, products), small_batches(1)[0]
    acts[5, 2] = torch.nan
    learner.step(acts)
    assert torch.tensor(learner.losses().reconstruction).isnan()
    learner.step(small_batches(1)[0])
    assert torch.tensor(learner.losses().reconstruction).isnan()


@both
def test_weights_are_float32_by_sae_lens_names_and_the_tensors_themselves(kind: Kind) -> None:
    learner = learner_of(kind, torch.bfloat16)
    weights = learner.weights()
    assert same(weights, small_start(kind))
    before = {name: value.clone() for name, value in weights.items()}
    learner.step(small_batches(1)[0])
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert not any(torch.equal(weights[name], before[name]) for name in before)


@both
def test_a_latent_is_dead_after_enough_silent_updates(kind: Kind) -> None:
    """One that can never fire, by a bias far below 0."""
    start = small_start(kind)
    start["b_enc"][4] = -1e6
    learner = LEARNERS[kind](small_recipe(kind, dead_after_steps=5), start, torch.float32, CPU)
    for step, acts in enumerate(small_batches(8), start=1):
        learner.step(acts)
        assert learner.silent_steps[4] == step
        assert learner.n_dead() == int((learner.silent_steps > 5).sum())
    assert learner.n_dead() >= 1


def test_losses_before_any_update_are_our_bug() -> None:
    with pytest.raises(ValueError, match="no update"):
        learner_of("standard").losses()


@pytest.mark.parametrize("n_rows", [1, 255, 256, 700])
def test_sums_over_rows_count_exactly(n_rows: int) -> None:
    ones = (torch.rand(n_rows, 9) < 0.9).bfloat16()
    assert torch.equal(column_sums(ones), ones.float().sum(0))
    assert column_sums(torch.randn(n_rows, D_IN)).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@both
def test_a_gpu_learns_the_same_and_the_same_again(kind: Kind) -> None:
    """With dead latents, of which there are some after 5 updates; in bfloat16 it must only run."""
    cuda, found = torch.device("cuda"), []
    for products in (torch.float32, torch.float32, torch.bfloat16):
        learner = LEARNERS[kind](small_recipe(kind), small_start(kind), products, cuda)
        for acts in small_batches(20):
            learner.step(acts.to(cuda))
        found.append({name: value.cpu() for name, value in learner.weights().items()})
    assert same(found[0], found[1])
    wanted = trained(kind)
    for name, value in wanted.weights().items():
        assert torch.allclose(found[0][name], value, atol=1e-4)
        assert torch.allclose(found[2][name], value, atol=0.1)
    assert learner.n_dead() == wanted.n_dead()
