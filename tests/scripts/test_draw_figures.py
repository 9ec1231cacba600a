"""`make figures`: what it captures, what it reuses, and what it says when models are missing."""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from sdlms.cli import main
from sdlms.runs.reading import list_runs
from tests.figures.gated_runs import gated_run
from tests.figures.sae_runs import sae_run
from tests.figures.table_runs import table_run
from tests.figures.test_ablation import ablation_rows
from tests.figures.test_communities import community_tables
from tests.figures.test_probes import probed
from tests.figures.test_scaling import row
from tests.figures.test_sparsity import capture
from tests.figures.test_strongest import LENGTHS, WIDTH, encoded_run, some_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import draw_figures


def test_missing_models_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(draw_figures, "MODELS", ("sdlms-medium", "sdlms-tiny", "sdlms-huge"))
    monkeypatch.setattr(draw_figures, "RUNS", tmp_path / "runs")
    with pytest.raises(SystemExit, match="the package has no sdlms-tiny, no sdlms-huge"):
        draw_figures.main()
    assert not (tmp_path / "runs").exists()


def run_here(stage: str, artifacts: Path, *settings: str) -> Path:
    """The run that a stage makes, in this process: starting one takes longer than a tiny stage."""
    with pytest.raises(SystemExit) as stopped:
        main([stage, "--artifacts", str(artifacts), *settings])
    assert not stopped.value.code
    return list_runs(artifacts)[-1].path


@pytest.mark.slow
def test_a_model_is_captured_once_until_it_changes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw_figures, "SETTINGS", (*draw_figures.SETTINGS, "--max-tokens", "1000"))
    monkeypatch.setattr(draw_figures, "run_stage", run_here)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    targets = (tmp_path / "figures" / "sizes.png", tmp_path / "figures" / "controls.png")
    draw_figures.draw((str(model),), tmp_path / "runs", targets)
    assert all(target.stat().st_size > 5000 for target in targets)
    run, *controls, measured = list_runs(tmp_path / "runs")
    assert [each.start["resolved"]["control"] for each in controls] == ["reinit", "permute-tokens"]
    assert {r["run"] for r in measured.all_of("input")} == {r.name for r in (run, *controls)}
    assert draw_figures.specialized(str(model), tmp_path / "runs").path == measured.path
    assert run.start["decided"]["layers"] == [0, 1, 2, 3]
    assert run.start["decided"]["dtype"] == "float32"
    kept = [(each.path / "activations.h5").exists() for each in (run, *controls)]
    assert kept == [False, True, False]  # of fresh weights, to let them fire as often
    with (measured.path / "controls.csv").open(newline="") as file:
        assert "reinit-matched" in {row["control"] for row in csv.DictReader(file)}
    assert draw_figures.captured(str(model), tmp_path / "runs").path == run.path
    config = model / "config.json"
    config.write_text(config.read_text() + "\n")
    again = draw_figures.captured(str(model), tmp_path / "runs")
    left = {found.path for found in list_runs(tmp_path / "runs")}
    assert left == {again.path, *(control.path for control in controls)}
    assert again.path != run.path


@pytest.mark.slow
def test_a_model_is_gated_once_until_it_changes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--rule", "post-norm,random", "--keep", "0.3,1.0", "--measure", "quality")
    few += ("--layers", "none", "--seeds", "1", "--max-tokens", "200", "--dtype", "float32")
    monkeypatch.setattr(draw_figures, "GATED_SETTINGS", few)
    model, runs = tmp_path / "model", tmp_path / "runs"
    shutil.copytree(tiny_model, model)
    for _ in range(2):
        draw_figures.draw_gated((str(model),), runs, tmp_path / "figures" / "gated.png")
        assert (tmp_path / "figures" / "gated.png").stat().st_size > 5000
    (run,) = list_runs(runs)
    assert run.stage == "dynamic-k"
    config = model / "config.json"
    config.write_text(config.read_text() + "\n")
    again = draw_figures.measured("dynamic-k", str(model), runs, few)
    assert [found.path for found in list_runs(runs)] == [again.path] != [run.path]


def test_a_study_has_a_picture_of_every_stage(tmp_path: Path) -> None:
    tables = community_tables({0: [3, 2]}) | {"ablation.csv": ablation_rows(1)}
    encoded = np.ones((sum(LENGTHS), WIDTH), np.float32)
    joined = [
        row("si-modularity", "SI_adjusted", model, "0.5", 0.1)
        for model in ("pythia-70m", "pythia-1.4b")
    ]
    runs = [
        gated_run(tmp_path, model="another", rules=["post-norm"]),
        gated_run(tmp_path, model="small", rules=["post-norm"]),
        capture(tmp_path),
        sae_run(tmp_path),
        encoded_run(tmp_path, encoded, some_rows()),
        table_run(tmp_path, "si-modularity", tables),
        probed(tmp_path, ("logistic",)),
        table_run(tmp_path, "scaling", {"scaling.csv": joined}),
    ]
    targets = draw_figures.draw_study(runs, "small", tmp_path / "pictures")
    assert all(target.stat().st_size > 5000 for target in targets)
    assert len({target.name for target in targets}) == len(targets) == 9


def test_the_study_that_is_drawn_is_there() -> None:
    assert draw_figures.STUDY.is_file()
