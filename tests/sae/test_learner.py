"""What the loop relies on, of every learner that there is."""

import pytest
import torch

from sdlms.sae.learner import Learner
from sdlms.sae.recipe import KINDS, Kind
from sdlms.sae.trainers import Trainer, learner_of
from tests.sae.small_saes import small_batches, small_recipe, small_start
from tests.sae.sweeps import CPU

EVERY: list[tuple[Kind, Trainer]] = [
    *((kind, "auto") for kind in KINDS),
    ("standard", "sae-lens"),
    ("topk", "sae-lens"),
]


def learner(kind: Kind, trainer: Trainer, n_steps: int = 0) -> Learner:
    own = learner_of(small_recipe(kind), small_start(kind), torch.float32, CPU, trainer)
    for acts in small_batches(n_steps):
        own.step(acts)
    return own


@pytest.mark.parametrize(("kind", "trainer"), EVERY)
def test_looking_changes_nothing_that_is_learned(kind: Kind, trainer: Trainer) -> None:
    looked, plain = learner(kind, trainer, 8), learner(kind, trainer, 8)
    acts = small_batches(9)[8]
    before = acts.clone()
    looked.losses(), looked.n_dead(), looked.calibrate(acts), looked.evaluate(acts)
    looked.step(acts)
    plain.step(acts)
    assert torch.equal(acts, before)
    assert looked.losses() == plain.losses()
    for one in (looked, plain):
        one.calibrate(acts)
    for name, tensor in plain.weights().items():
        assert torch.equal(looked.weights()[name], tensor)
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize(("kind", "trainer"), EVERY)
def test_sums_add_up(kind: Kind, trainer: Trainer) -> None:
    own = learner(kind, trainer, 8)
    acts = small_batches(1, seed=4)[0]
    own.calibrate(acts)
    whole, first, second = (own.evaluate(a) for a in (acts, acts[:20], acts[20:]))
    for total, *parts in zip(whole, first, second, strict=True):
        assert total == pytest.approx(sum(parts), rel=1e-5)
    assert whole.n_tokens == len(acts)
    assert whole.squared_error > 0 and whole.n_active > 0


@pytest.mark.parametrize(("kind", "trainer"), EVERY)
def test_weights_follow_the_updates(kind: Kind, trainer: Trainer) -> None:
    own = learner(kind, trainer, 8)
    decoder = own.weights()["W_dec"]
    before = decoder.clone()
    own.step(small_batches(9)[8])
    assert own.n_done == 9
    assert torch.equal(own.weights()["W_dec"], decoder)  # the tensor itself
    assert not torch.equal(decoder, before)
