"""Every measurement is made once and kept; what is not gated is the dense model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.dynamic.gains import summary_of
from sdlms.dynamic.quality import measure_quality
from sdlms.models.gated import learn
from tests.dynamic.studies import study_of

BLOCKS = {1: np.arange(40) // 8, 2: np.arange(40) // 5}


def names_in(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "parts").iterdir()}


def test_each_sweep_leaves_a_part_and_none_is_measured_twice(tmp_path: Path) -> None:
    study = study_of(tmp_path, rules=("post-norm", "threshold"), seeds=(3, 4))
    sweeps = list(study.sweeps())
    assert len(sweeps) == 2 * (1 + 2 * (2 + 1))
    for sweep in sweeps:
        sweep()
    own = ["dense"] + [f"{r}_{n}" for r in study.settings.rules for n in ("0.25", "0.5", "layer_1")]
    assert names_in(tmp_path) == {f"{seed}_{name}" for seed in (3, 4) for name in own}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    with torch.no_grad():
        for parameter in study.model.parameters():
            parameter.fill_(float("nan"))  # whoever reads the model again will show it
    again = study_of(tmp_path, rules=("post-norm", "threshold"), seeds=(3, 4))
    assert [sweep() for sweep in study.sweeps()] == [sweep() for sweep in again.sweeps()]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()} == before


def test_keep_one_is_the_dense_model_unless_it_is_forced(tmp_path: Path) -> None:
    study = study_of(tmp_path / "own")
    assert study.quality(3, "post-norm", 1.0) == study.dense(3)
    assert names_in(tmp_path / "own") == {"3_dense"}
    forced = study_of(tmp_path / "forced", force_at_one=True)
    part = forced.quality(3, "post-norm", 1.0)
    assert names_in(tmp_path / "forced") == {"3_post-norm_1"}
    assert part["sums"] != study.dense(3)["sums"]
    assert part["sums"] == pytest.approx(study.dense(3)["sums"], rel=1e-5)
    assert len(list(forced.sweeps())) == 1 + 3 + 1


def test_a_layer_alone_is_that_layer_gated(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    found = study.layer(3, "post-norm", 1)
    assert list(found) == [0.25, 0.5]
    for keep, part in found.items():
        gate = study.gate(3, "post-norm", keep)
        alone = gate._replace(how=gate.how.__class__(layers=(1,)))
        expected = measure_quality(study.model, alone, study.drawn[3].windows, 1000, print)
        assert part["sums"] == pytest.approx(expected["sums"], rel=1e-9)
        assert part["kept_fraction"] == pytest.approx(keep)
    assert found[0.25]["sums"] != found[0.5]["sums"]


def test_blocks_gate_only_layers_whose_blocks_are_known(tmp_path: Path) -> None:
    study = study_of(tmp_path, BLOCKS, rules=("post-norm", "blocks"), layers=(0, 1))
    assert study.gated_layers("post-norm") is None
    assert study.gated_layers("blocks") == study.gated_layers("blocks-random") == (1, 2)
    assert study.single_layers("post-norm") == [0, 1]
    assert study.single_layers("blocks") == [1]
    gate = study.gate(3, "blocks", 0.5)
    assert gate.how.layers == (1, 2)
    assert study.quality(3, "blocks", 0.5)["kept_fraction"] == 0.5


def test_nothing_is_gated_alone_where_everything_is_kept(tmp_path: Path) -> None:
    study = study_of(tmp_path, keeps=(1.0,))
    assert study.single_layers("post-norm") == []
    assert len(list(study.sweeps())) == 1


def test_a_seed_learns_from_its_own_calibration_sample(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=(3, 4), rules=("static",))
    assert study.gate(3, "post-norm", 0.5).learned is None
    first = study.learned(3)
    assert study.learned(3) is first is study.gate(3, "static", 0.5).learned
    second = study.learned(4)
    assert second is not first and study.learned(3) is first  # which is not learned again
    for seed, learned in ((3, first), (4, second)):
        expected = learn(study.model, torch.from_numpy(study.drawn[seed].calibration))
        for layer, own in learned.layers.items():
            assert torch.equal(own.mean_scores, expected.layers[layer].mean_scores)


def test_a_study_learns_what_its_rules_read(tmp_path: Path) -> None:
    for rules, dealt in ((("static",), False), (("static", "input"), True)):
        learned = study_of(tmp_path, rules=rules).learned(3)
        assert all((own.allocation is not None) == dealt for own in learned.layers.values())


def test_random_sets_differ_between_seeds(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=(3, 4), rules=("random",))
    assert [study.gate(seed, "random", 0.5).how.seed for seed in (3, 4)] == [3, 4]


@pytest.mark.parametrize("rule", ["post-norm", "static"])
def test_times_are_of_every_kept_fraction(tmp_path: Path, rule: str) -> None:
    study = study_of(tmp_path, rules=(rule,))
    part = study.speed(3, rule)
    assert list(summary_of(part)) == ["0.25", "0.5", "dense", "forced"]  # JSON sorts
    assert (part["prompt_tokens"], part["decoded_tokens"]) == (5, 4)  # halves of 9 tokens
    assert study.speed(3, rule) == part
    assert names_in(tmp_path) == {f"3_{rule}_speed"}
