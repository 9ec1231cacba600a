"""The loop: what members become depends on nothing but their recipe, data and seed."""

from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.sae.preparation import Prepared
from sdlms.sae.pupil import Pupil
from sdlms.sae.selection import Rule
from sdlms.sae.sweep import Place, pupils_of
from sdlms.sae.training import Course, Training
from tests.sae.sweeps import CPU, prepared_acts, small_members, sparse_acts, weights_of

PLACE = Place(torch.float32, CPU, "auto")
COURSE = Course(n_steps=60, patience=0)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_acts(sparse_acts())


def training_of(prepared: Prepared, course: Course = COURSE, **changes: object) -> Training:
    pupils = pupils_of(small_members(**changes), prepared, PLACE)
    return Training(prepared.stream, prepared.scales, prepared.validation, pupils, course)


def trained(
    prepared: Prepared, path: Path, course: Course = COURSE, **changes: object
) -> list[Pupil]:
    training = training_of(prepared, course, **changes)
    training.run(path / "checkpoint.safetensors")
    return list(training.pupils)


def test_members_learn_and_their_curves_say_so(prepared: Prepared, tmp_path: Path) -> None:
    for pupil in trained(prepared, tmp_path, lr=0.01):
        curve = pupil.progress.curve
        assert [row["step"] for row in curve] == list(range(3, 61, 3))
        assert curve[-1]["validation_loss"] < 0.8 * curve[0]["validation_loss"]
        assert pupil.progress.ended == "all steps"
        assert pupil.progress.best_loss == min(
            r["validation_loss"] for r in curve if r["step"] >= 3
        )
        assert 0 < curve[-1]["l0"] < 32


def test_a_member_does_not_depend_on_its_companions(prepared: Prepared, tmp_path: Path) -> None:
    alone = trained(prepared, tmp_path / "alone", coefficients=(0.5,))
    together = trained(prepared, tmp_path / "all", coefficients=(0.1, 0.5, 2.0), seeds=(0, 1))
    same = [p for p in together if p.member.name == "l1_0.5_seed0"]
    for one, other in zip(weights_of(alone), weights_of(same), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stop", [1, 13, 30, 59])
def test_going_on_from_a_checkpoint_gives_the_same_bits(
    prepared: Prepared, tmp_path: Path, stop: int
) -> None:
    course = Course(n_steps=60, patience=4, screen_by=Rule("knee"))
    changes = {"coefficients": (0.1, 0.5, 2.0), "seeds": (0, 1)}
    whole = trained(prepared, tmp_path, course, **changes)
    first = training_of(prepared, course, **changes)
    batches = first._stream.batches()
    for _ in range(stop):
        batch = next(batches)
        first._step(batch)
        if course.is_evaluation(first.n_done):
            first._evaluate(batch)
    first.save(tmp_path / "checkpoint.safetensors")
    second = trained(prepared, tmp_path, course, **changes)
    assert [p.progress for p in second] == [p.progress for p in whole]
    assert any(p.progress.ended == "screened" for p in whole)
    for one, other in zip(weights_of(whole), weights_of(second), strict=True):
        assert torch.equal(one, other)


def test_patience_ends_what_no_longer_gets_better(prepared: Prepared, tmp_path: Path) -> None:
    pupils = trained(prepared, tmp_path, Course(60, patience=3), lr=1e-9)
    for pupil in pupils:
        assert pupil.progress.ended == "no progress in 3 evaluations"
        assert pupil.learner.n_done == 12  # patience begins behind the warm-up, at step 3


def test_what_diverges_is_named_and_the_last_checkpoint_stays(
    prepared: Prepared, tmp_path: Path
) -> None:
    training = training_of(prepared, lr=1e6)
    checkpoint = tmp_path / "checkpoint.safetensors"
    training.save(checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"layer 1, l1_0.1_seed0 diverges: after \d+ of 60 steps"):
        training.run(checkpoint)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("n_steps", [1, 3, 19, 20, 21, 39, 40, 1003, 100_000])
def test_evaluations_are_at_most_twenty_and_the_last_is_at_the_end(n_steps: int) -> None:
    course = Course(n_steps, patience=0)
    steps = [step for step in range(1, n_steps + 1) if course.is_evaluation(step)]
    assert min(n_steps, 10) <= len(steps) <= 20
    assert steps[-1] == n_steps
    assert steps[:-1] == list(range(course.every, n_steps, course.every))


def test_too_little_memory_is_one_line(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    training = training_of(prepared)
    learner = training.pupils[0].learner
    monkeypatch.setattr(learner, "step", lambda acts: torch.empty(2**50))
    with pytest.raises(
        UserError, match="4 members with batches of 64 tokens do not fit the memory"
    ):
        training._step(next(training._stream.batches()))
