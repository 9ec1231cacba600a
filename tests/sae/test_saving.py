"""A member's folder: sae-lens loads what was kept, and knows where it comes from."""

import csv
import json
from pathlib import Path

import pytest
import torch

from sdlms.sae.lens_check import loaded_by_lens
from sdlms.sae.members import Member, member_name
from sdlms.sae.pupil import CURVE_COLUMNS, Pupil
from sdlms.sae.recipe import KINDS, Kind
from sdlms.sae.saving import CURVE, FILES, HOOKS, folder_of, metadata_of, save_member
from sdlms.sae.trainers import learner_of
from tests.sae.small_saes import small_batches, small_recipe, small_start
from tests.sae.sweeps import CPU

SCALE = 0.25
MODEL = {
    "name": "tiny",
    "commit": None,
    "revision": "main",
    "reinit_seed": None,
    "weights": {"model.safetensors": "ab12"},
}
METADATA = metadata_of(MODEL, "mlp_out", 3, "20261120_143022_capture", {"tokens": 1280})


def trained(kind: Kind, n_left: int = 0) -> Pupil:
    own = small_recipe(kind)
    learner = learner_of(own, small_start(kind), torch.float32, CPU, "auto")
    pupil = Pupil(Member(3, member_name(own), own), learner, 8.0)
    for acts in small_batches(own.n_steps):
        learner.step(acts)
        pupil.evaluate(acts, acts, 0)
        if own.n_steps - learner.n_done == n_left:
            break
    return pupil


@pytest.mark.parametrize("kind", KINDS)
def test_sae_lens_reconstructs_raw_activations(tmp_path: Path, kind: Kind) -> None:
    """What was learned on scaled ones: the scale is in the weights."""
    pupil = trained(kind)
    scaled = small_batches(1, seed=9)[0]
    save_member(tmp_path / "sae", pupil, SCALE, METADATA, scaled / SCALE)
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == sorted(FILES)
    theirs = loaded_by_lens(tmp_path / "sae")
    with torch.no_grad():
        outputs = theirs(scaled / SCALE) * SCALE
    error = float((outputs - scaled).square().sum(dim=1).mean())
    assert error < 0.8 * float((scaled - pupil.best["b_dec"]).square().sum(dim=1).mean())
    norms = theirs.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-5, atol=1e-5)


def test_it_is_the_best_weights_that_are_saved(tmp_path: Path) -> None:
    pupil = trained("standard", n_left=1)
    with torch.no_grad():
        for tensor in pupil.learner.weights().values():
            tensor.fill_(7.0)
    save_member(tmp_path, pupil, SCALE, METADATA, torch.randn(5, 8))
    bias = loaded_by_lens(tmp_path).b_dec
    torch.testing.assert_close(bias * SCALE, pupil.best["b_dec"])
    assert not (bias * SCALE == 7).any()


def test_the_origin_is_in_the_configuration(tmp_path: Path) -> None:
    save_member(tmp_path, trained("topk"), SCALE, METADATA, torch.randn(5, 8))
    found = loaded_by_lens(tmp_path).cfg.metadata.to_dict()
    assert METADATA.items() <= found.items()
    assert found["hook_name"] == "blocks.3.hook_mlp_out"
    assert (found["model_name"], found["model_revision"]) == ("tiny", "main")
    assert (found["site"], found["layer"]) == ("mlp_out", 3)
    assert found["capture_run"] == "20261120_143022_capture"
    assert found["model_weights_sha256"] == {"model.safetensors": "ab12"}
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "topk"


@pytest.mark.parametrize("site", HOOKS)
def test_a_commit_says_more_than_a_revision(site: str) -> None:
    found = metadata_of({**MODEL, "commit": "c0ffee"}, site, 5, None, {})
    assert found["model_revision"] == "c0ffee"
    assert ".5." in found["hook_name"]
    assert found["capture_run"] is None
    assert folder_of(site, 5, "k_4_seed0") == Path(f"sae/{site}/layer_5/k_4_seed0")


def test_the_curve_lies_beside_it(tmp_path: Path) -> None:
    pupil = trained("gated")
    save_member(tmp_path, pupil, SCALE, METADATA, torch.randn(5, 8))
    with (tmp_path / CURVE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CURVE_COLUMNS
    found = [{name: float(value) for name, value in row.items()} for row in rows]
    assert found == pupil.progress.curve


def test_the_same_member_gives_the_same_bytes_also_over_an_older_one(tmp_path: Path) -> None:
    acts = torch.randn(5, 8)
    for folder, kind in (("a", "topk"), ("b", "standard"), ("b", "topk")):
        save_member(tmp_path / folder, trained(kind), SCALE, METADATA, acts)  # type: ignore[arg-type]
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_weights_that_are_no_numbers_are_never_written(tmp_path: Path) -> None:
    pupil = trained("standard")
    pupil.best["W_enc"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        save_member(tmp_path / "sae", pupil, SCALE, METADATA, torch.randn(5, 8))
    assert not (tmp_path / "sae").exists()
