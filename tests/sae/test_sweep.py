"""A sweep from its recipes to its folders."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.errors import UserError
from sdlms.sae.lens_check import loaded_by_lens
from sdlms.sae.preparation import Prepared
from sdlms.sae.saving import FILES
from sdlms.sae.standard import StandardLearner
from sdlms.sae.subject import Subject
from sdlms.sae.sweep import Place, pupils_of, saved, trained
from sdlms.sae.training import Course
from tests.acts.samples import rows_with
from tests.sae.sweeps import CPU, prepared_acts, small_members, sparse_acts, weights_of

PLACE = Place(torch.float32, CPU, "auto")
COURSE = Course(n_steps=60, patience=0)
MODEL = {"name": "tiny", "commit": None, "revision": None, "reinit_seed": None, "weights": {}}


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_acts(sparse_acts())


def test_members_start_at_the_mean_of_their_layer(prepared: Prepared) -> None:
    pupils = pupils_of(small_members(seeds=(0, 1)), prepared, PLACE)
    assert [pupil.member.layer for pupil in pupils] == [1] * 4 + [3] * 4
    for pupil in pupils:
        index = (pupil.member.layer - 1) // 2
        mean = prepared.moments[index].mean * float(prepared.scales[index])
        torch.testing.assert_close(pupil.learner.weights()["b_dec"], mean.float())
        assert isinstance(pupil.learner, StandardLearner)
    first, second, *_ = (pupil.learner.weights()["W_dec"] for pupil in pupils)
    assert not torch.equal(first, second)  # another seed
    assert torch.equal(first, pupils[2].learner.weights()["W_dec"])  # the same, another coefficient


def test_what_a_zero_reconstruction_explains_is_counted_from_the_training_mean(
    prepared: Prepared,
) -> None:
    (pupil, *_) = pupils_of(small_members(), prepared, PLACE)
    validation = prepared.validation[0].double()
    distances = (validation - prepared.moments[0].mean).square().sum(dim=1)
    expected = float(distances.mean()) * float(prepared.scales[0]) ** 2
    assert pupil._variance == pytest.approx(expected)


def test_the_same_sweep_gives_the_same_bits(prepared: Prepared, tmp_path: Path) -> None:
    both = [
        weights_of(trained(small_members(), prepared, COURSE, PLACE, tmp_path / name))
        for name in ("a", "b")
    ]
    for one, other in zip(*both, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("place", ["sweep._pupil", "training.read_checkpoint", "pupil.Pupil.saved"])
def test_too_little_memory_is_one_line_wherever_it_fails(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr("sdlms.sae.training.CHECKPOINT_SECONDS", 0.0)
    trained(small_members(), prepared, COURSE, PLACE, tmp_path / "whole")
    folder = tmp_path / ("whole" if place.endswith("read_checkpoint") else "new")
    monkeypatch.setattr(f"sdlms.sae.{place}", lambda *_: torch.empty(2**50))
    with pytest.raises(
        UserError,
        match=r"^4 members with batches of 64 tokens do not fit the memory of cpu\.",
    ):
        trained(small_members(), prepared, COURSE, PLACE, folder)


def n_learners() -> int:
    gc.collect()
    return sum(type(each) is StandardLearner for each in gc.get_objects())


def test_only_the_best_weights_outlive_the_training_and_nothing_the_saving(
    prepared: Prepared, tmp_path: Path
) -> None:
    before = n_learners()
    pupils = trained(small_members(), prepared, COURSE, PLACE, tmp_path / "checkpoint")
    assert prepared.stream._held is None
    assert n_learners() == before
    subject = Subject(MODEL, "attn_out", [1, 3], 8, rows_with([2]))
    for _ in saved(tmp_path, subject, prepared, pupils, {}):
        pass
    assert not weights_of(pupils)


def test_sae_lens_trains_the_same(prepared: Prepared, tmp_path: Path) -> None:
    """Who trains is a matter of speed."""
    lens = Place(torch.float32, CPU, "sae-lens")
    ours, theirs = (
        weights_of(trained(small_members(), prepared, COURSE, place, tmp_path / name))
        for name, place in (("ours", PLACE), ("theirs", lens))
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_every_member_is_saved_with_its_own_origin(prepared: Prepared, tmp_path: Path) -> None:
    pupils = trained(small_members(), prepared, COURSE, PLACE, tmp_path / "checkpoint")
    subject = Subject(MODEL, "attn_out", [1, 3], 8, rows_with([2]))
    files = dict(saved(tmp_path, subject, prepared, pupils, {"tokens": 3840}))
    assert len(files) == len(pupils) * len(FILES)
    assert all((tmp_path / name).is_file() for name in files)
    for pupil, layer in zip(pupils, (1, 1, 3, 3), strict=True):
        folder = tmp_path / f"sae/attn_out/layer_{layer}/{pupil.member.name}"
        theirs = loaded_by_lens(folder)
        metadata = theirs.cfg.metadata.to_dict()
        assert (metadata["layer"], metadata["capture_run"]) == (layer, None)
        assert metadata["training"]["coefficient"] == pupil.member.recipe.coefficient
        assert metadata["training"]["tokens"] == 3840
        index = (layer - 1) // 2
        rows = prepared.measured.acts[index]
        with torch.no_grad():
            error = (theirs(rows) - rows).square().sum(dim=1).mean()
        by_step = {row["step"]: row for row in pupil.progress.curve}
        reached = by_step[pupil.progress.best_step]["validation_reconstruction"]
        scale = float(prepared.scales[index])
        assert float(error) * scale**2 == pytest.approx(reached, rel=1e-4)
        assert np.isfinite(reached)
