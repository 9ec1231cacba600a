"""A member on its way: which weights are kept, when it ends, what is noted, and going on."""

import json
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.learner import Losses, Sums
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.members import Member
from sdlms.sae.pupil import CURVE_COLUMNS, IMPROVED, Pupil
from sdlms.sae.recipe import KINDS, Kind, Recipe
from sdlms.sae.trainers import Trainer, learner_of
from tests.sae.recipes import recipe
from tests.sae.small_saes import small_batches, small_recipe, small_start
from tests.sae.sweeps import CPU

VARIANCE = 8.0
NOTHING = torch.zeros(4, 8)


class Scripted:
    """A learner whose validation losses are given; its weights are the number of its updates."""

    def __init__(self, own: Recipe, losses: Sequence[float]) -> None:
        self.recipe, self.n_done, self._losses = own, 0, losses
        self.calibrated: list[int] = []

    def step(self, acts: Tensor) -> None:
        self.n_done += 1

    def losses(self) -> Losses:
        return Losses(2.0, 0.5, 3.0)

    def n_dead(self) -> int:
        return 8

    def calibrate(self, acts: Tensor) -> None:
        self.calibrated.append(self.n_done)

    def evaluate(self, acts: Tensor) -> Sums:
        assert self.calibrated[-1] == self.n_done
        n = len(acts)
        return Sums(n, n * self._losses[self.n_done - 1], n * 0.25, n * 5)

    def weights(self) -> dict[str, Tensor]:
        return {"W_dec": torch.full((2, 2), float(self.n_done))}

    def state(self) -> dict[str, Tensor]:
        return {"n_done": torch.tensor(self.n_done)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.n_done = int(state["n_done"])


def scripted(losses: Sequence[float], **changes: object) -> Pupil:
    own = recipe("standard", n_steps=len(losses), **changes)
    return Pupil(Member(3, "l1_0.3_seed0", own), Scripted(own, losses), VARIANCE)


def run(pupil: Pupil, patience: int, n_steps: int | None = None) -> Pupil:
    """Each update is evaluated."""
    for _ in range(pupil.member.recipe.n_steps if n_steps is None else n_steps):
        if pupil.learns:
            pupil.learner.step(NOTHING)
            pupil.evaluate(NOTHING, NOTHING, patience)
    return pupil


def n_steps(pupil: Pupil) -> float:
    return pupil.progress.curve[-1]["step"]


def kept(pupil: Pupil) -> float:
    return float(pupil.best["W_dec"][0, 0])


def test_the_best_weights_are_kept() -> None:
    pupil = run(scripted([5, 4, 3, 2, 1, 6, 7], warm_up_steps=0), 0)
    assert kept(pupil) == pupil.progress.best_step == 5
    assert pupil.progress.best_loss == 1.25
    assert pupil.progress.ended == "all steps" and not pupil.learns


def test_weights_of_the_warm_up_are_never_kept() -> None:
    """Reconstruction alone is best there: the coefficient is yet to rise."""
    pupil = run(scripted([1, 1, 1, 5, 4, 6], warm_up_steps=4), 0)
    assert kept(pupil) == 5


def test_patience_begins_behind_the_warm_up() -> None:
    pupil = run(scripted([1.0] * 20, warm_up_steps=6), 3)
    assert n_steps(pupil) == 6 + 3
    assert pupil.progress.ended == "no progress in 3 evaluations"
    assert kept(pupil) == 6


def test_what_is_no_better_by_a_thousandth_is_no_progress_but_may_be_kept() -> None:
    losses = [4 * IMPROVED ** (i / 10) - 0.25 for i in range(60)]
    pupil = run(scripted(losses, warm_up_steps=0), 8)
    assert n_steps(pupil) == 9
    assert kept(pupil) == 9
    assert run(scripted(losses, warm_up_steps=0), 12).progress.ended == "all steps"


def test_patience_of_zero_never_ends_it() -> None:
    assert n_steps(run(scripted([1.0] * 50, warm_up_steps=0), 0)) == 50


def test_what_is_given_up_in_the_warm_up_keeps_what_it_is() -> None:
    pupil = run(scripted([3, 2, 9, 9], warm_up_steps=4), 0, 3)
    assert not pupil.best
    pupil.end("screened")
    assert kept(pupil) == pupil.progress.best_step == 3


def test_the_curve_says_what_was_measured() -> None:
    pupil = run(scripted([5, 4, 6], warm_up_steps=0, batch_size=16), 0)
    row = pupil.progress.curve[1]
    assert tuple(row) == CURVE_COLUMNS
    assert (row["step"], row["tokens"], row["l0"]) == (2, 32, 5)
    assert (row["train_reconstruction"], row["train_sparsity"], row["train_loss"]) == (2, 0.5, 2.5)
    assert (row["validation_reconstruction"], row["validation_sparsity"]) == (4, 0.25)
    assert row["validation_loss"] == 4.25
    assert row["explained_variance"] == 1 - 4 / VARIANCE
    assert row["dead_fraction"] == 8 / 32
    assert pupil.point == (5, 6 / VARIANCE)
    assert pupil.key == "layer_3/l1_0.3_seed0"


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 101 * VARIANCE])
def test_what_diverges_is_named_and_nothing_of_it_is_kept(loss: float) -> None:
    pupil = scripted([5, 4, loss, 1], warm_up_steps=0)
    with pytest.raises(UserError, match=r"layer 3, l1_0.3_seed0 diverges: after 3 of 4 steps") as e:
        run(pupil, 0)
    assert f"its loss on held-out tokens is {loss + 0.25:g}. Lower --lr" in str(e.value)
    assert kept(pupil) == 2
    assert len(pupil.progress.curve) == 2


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_it_goes_on_from_what_was_saved(stop: int) -> None:
    losses = [5, 4, 3, 2, 3, 3, 3, 3, 3, 3]
    whole = run(scripted(losses, warm_up_steps=2), 4)
    assert n_steps(whole) == 8
    first = run(scripted(losses, warm_up_steps=2), 4, stop)
    arrays, text = first.saved()
    assert json.loads(text)["ended"] == first.progress.ended
    second = scripted(losses, warm_up_steps=2)
    second.restore(arrays, text)
    assert second.learns == (stop < 8)
    run(second, 4)
    assert second.progress == whole.progress
    assert kept(second) == kept(whole) == 4


@pytest.mark.parametrize("stop", [3, 8])
def test_the_learner_goes_when_it_ends(stop: int) -> None:
    """Then it is four times as large as what is left."""
    pupil = run(scripted([5, 4, 3, 2, 3, 3, 3, 3], warm_up_steps=2), 0, stop)
    learner = weakref.ref(pupil.learner) if pupil.learns else None
    if pupil.learns:
        pupil.end("screened")
    assert learner is None or learner() is None
    with pytest.raises(ValueError, match=r"layer_3/l1_0.3_seed0 has ended: "):
        _ = pupil.learner
    second = scripted([5, 4, 3, 2, 3, 3, 3, 3], warm_up_steps=2)
    second.restore(*pupil.saved())
    with pytest.raises(ValueError, match="has ended"):
        _ = second.learner
    assert kept(second) == kept(pupil) == min(stop, 4)


@pytest.mark.parametrize("trainer", ["auto", "sae-lens"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_noticed_before_an_evaluation(trainer: Trainer, value: float) -> None:
    own = small_recipe("standard")
    learner = learner_of(own, small_start("standard"), torch.float32, CPU, trainer)
    pupil = Pupil(Member(0, "one", own), learner, 8.0)
    assert pupil.is_finite()
    learner.step(small_batches(1)[0])
    assert pupil.is_finite()
    with torch.no_grad():
        learner.weights()["W_enc"][2, 3] = value
    assert not pupil.is_finite()


@pytest.mark.parametrize("kind", KINDS)
def test_real_learners_go_on_bit_by_bit(kind: Kind) -> None:
    """Before and behind the best weights that there are."""

    def pupil() -> Pupil:
        own = small_recipe(kind)
        learner = learner_of(own, small_start(kind), torch.float32, CPU, "auto")
        return Pupil(Member(0, "one", own), learner, 8.0)

    def learn(one: Pupil, first: int, last: int) -> None:
        for acts in small_batches(20)[first:last]:
            one.learner.step(acts)
            one.evaluate(acts, small_batches(1, seed=5)[0], 0)

    whole = pupil()
    learn(whole, 0, 20)
    for stop in (3, 14):
        first, second = pupil(), pupil()
        learn(first, 0, stop)
        second.restore(*first.saved())
        learn(second, stop, 20)
        assert second.progress == whole.progress
        for name, tensor in whole.best.items():
            assert torch.equal(second.best[name], tensor)


def test_what_was_kept_does_not_change_with_what_learns() -> None:
    own = small_recipe("topk")
    learner = LensLearner(own, small_start("topk"), torch.float32, CPU)
    pupil = Pupil(Member(0, "one", own), learner, 8.0)
    batches = small_batches(12)
    for acts in batches[:11]:
        learner.step(acts)
    pupil.evaluate(batches[0], batches[1], 0)
    before = {name: tensor.clone() for name, tensor in pupil.best.items()}
    learner.step(batches[11])
    assert all(torch.equal(before[name], tensor) for name, tensor in pupil.best.items())
    assert all(np.isfinite(array).all() for array in pupil.saved()[0].values())
