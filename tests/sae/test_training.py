"""The loop: what members become depends on nothing but their recipe, data and seed."""

import os
import signal
from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.sae import training as module
from sdlms.sae.checkpoint import has_checkpoint
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
    return Training(prepared, pupils, course, CPU)


def trained(
    prepared: Prepared, path: Path, course: Course = COURSE, **changes: object
) -> list[Pupil]:
    training = training_of(prepared, course, **changes)
    training.run(path / "checkpoint")
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
            first._evaluate()
    first.save(tmp_path / "checkpoint")
    second = trained(prepared, tmp_path, course, **changes)
    assert [p.progress for p in second] == [p.progress for p in whole]
    assert any(p.progress.ended == "screened" for p in whole)
    for one, other in zip(weights_of(whole), weights_of(second), strict=True):
        assert torch.equal(one, other)


def test_patience_ends_what_no_longer_gets_better(prepared: Prepared, tmp_path: Path) -> None:
    pupils = trained(prepared, tmp_path, Course(60, patience=3), lr=1e-9)
    for pupil in pupils:
        assert pupil.progress.ended == "no progress in 3 evaluations"
        assert (
            pupil.progress.curve[-1]["step"] == 12
        )  # patience begins behind the warm-up, at step 3


def test_what_diverges_is_named_and_the_last_checkpoint_stays(
    prepared: Prepared, tmp_path: Path
) -> None:
    training = training_of(prepared, lr=1e6)
    checkpoint = tmp_path / "checkpoint"
    training.save(checkpoint)
    before = contents(checkpoint)
    with pytest.raises(UserError, match=r"layer 1, l1_0.1_seed0 diverges: after \d+ of 60 steps"):
        training.run(checkpoint)
    assert contents(checkpoint) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def breaking(training: Training, step: int) -> None:
    """Plant a NaN in the weights of one member right after an update."""
    do_step = training._step

    def broken(batch: torch.Tensor) -> None:
        do_step(batch)
        if training.n_done == step:
            with torch.no_grad():
                training.pupils[2].learner.weights()["b_enc"][0] = float("nan")

    training._step = broken  # type: ignore[method-assign]


def test_a_checkpoint_never_holds_what_is_no_number(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations notice it three steps apart; the last one that is finite stays."""
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    training = training_of(prepared)
    breaking(training, 13)
    with pytest.raises(UserError, match=r"diverges: after 15 of 60 steps"):
        training.run(tmp_path / "checkpoint")
    found = training_of(prepared)
    found.run(tmp_path / "checkpoint")
    whole = trained(prepared, tmp_path / "whole")
    assert found._n_saved == 60
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} >= {"60_0.safetensors"}
    for one, other in zip(weights_of(whole), weights_of(found.pupils), strict=True):
        assert torch.equal(one, other)


def interrupting(training: Training, step: int, n_times: int) -> None:
    """Ctrl-C in the middle of an update, once or more often."""
    update = training.pupils[2].learner.step

    def interrupted(acts: torch.Tensor) -> None:
        update(acts)
        for _ in range(n_times * (training.n_done == step - 1)):
            os.kill(os.getpid(), signal.SIGINT)

    training.pupils[2].learner.step = interrupted  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [1, 13, 15, 60])
def test_an_interrupt_waits_for_the_step_and_is_saved(
    prepared: Prepared, tmp_path: Path, step: int
) -> None:
    checkpoint = tmp_path / "checkpoint"
    training = training_of(prepared)
    interrupting(training, step, 1)
    with pytest.raises(KeyboardInterrupt):
        training.run(checkpoint)
    assert (checkpoint / f"{step}_3.safetensors").exists()
    found, whole = trained(prepared, tmp_path), trained(prepared, tmp_path / "whole")
    assert [pupil.progress for pupil in found] == [pupil.progress for pupil in whole]
    for one, other in zip(weights_of(whole), weights_of(found), strict=True):
        assert torch.equal(one, other)


def test_what_is_broken_by_a_second_interrupt_is_not_saved(
    prepared: Prepared, tmp_path: Path
) -> None:
    training = training_of(prepared)
    interrupting(training, 13, 2)
    with pytest.raises(KeyboardInterrupt):
        training.run(tmp_path / "checkpoint")
    assert training.n_done == 12
    assert not has_checkpoint(tmp_path / "checkpoint")


def test_nothing_is_saved_twice(prepared: Prepared, tmp_path: Path) -> None:
    """An interrupt while the next chapter is read, right behind a checkpoint."""
    training = training_of(prepared)
    batches = training._stream.batches

    def interrupted(n_skipped: int = 0) -> object:
        yield next(batches(n_skipped))
        training.save(tmp_path / "checkpoint")
        (tmp_path / "checkpoint" / "note").touch()  # which another one would not leave
        raise KeyboardInterrupt

    stream = type("Stream", (), {"batches": staticmethod(interrupted), "batch_size": 64})
    training._stream = stream  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        training.run(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "note").exists()


@pytest.mark.parametrize(("seconds", "n_saved"), [(0.0, 60), (1e9, 0)])
def test_checkpoints_do_not_wait_for_evaluations(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float,
    n_saved: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", seconds)
    steps, write = [], module.write_checkpoint

    def noting(folder: Path, n_done: int, pupils: list[Pupil]) -> None:
        steps.append(n_done)
        write(folder, n_done, pupils)

    monkeypatch.setattr(module, "write_checkpoint", noting)
    trained(prepared, tmp_path)
    assert steps == list(range(1, n_saved + 1))


@pytest.mark.parametrize("n_steps", [1, 3, 19, 20, 21, 39, 40, 1003, 100_000])
def test_evaluations_are_at_most_twenty_and_the_last_is_at_the_end(n_steps: int) -> None:
    course = Course(n_steps, patience=0)
    steps = [step for step in range(1, n_steps + 1) if course.is_evaluation(step)]
    assert min(n_steps, 10) <= len(steps) <= 20
    assert steps[-1] == n_steps
    assert steps[:-1] == list(range(course.every, n_steps, course.every))
