"""The whole study through `sdlms pipeline`: the embedded model, and one of Pythia's shape."""

from pathlib import Path

import pytest

from sdlms.cli import NAMED
from sdlms.runs.reading import Run, list_runs
from sdlms.storage.tables import read_table
from sdlms.tools.pipeline import RESULTS
from tests.conftest import Cli
from tests.integration.studies import (
    REPORT,
    SCALING,
    SMALL,
    STEPS,
    TEXTS,
    Study,
    carried_out,
    cheaper,
    linked,
    save_pythia,
    write_texts,
)

pytestmark = pytest.mark.slow
ALONE = {"sae-evaluate"}  # somebody else's SAE: no part of a study of one's own


@pytest.fixture(scope="module")
def pythia(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same of a random model of Pythia's shape at one layer, joined with the small one."""
    folder: Path = tmp_path_factory.mktemp("pythia")
    write_texts(folder)
    save_pythia(folder / "EleutherAI/pythia-70m-deduped")
    small = {name.replace("-", "_"): run for name, run in study.runs.items()}
    linked([small["capture"], small["si_modularity"]], folder / "artifacts")
    model = "./EleutherAI/pythia-70m-deduped"
    steps = cheaper(STEPS.format(model=model, texts=TEXTS, layers="50%"))
    names = {name: run.name for name, run in small.items()}
    report = REPORT.format(runs='"{scaling}", "{sae-latents}", "{logit-lens}", "{probe}"')
    return carried_out(folder, "steps.toml", steps + SCALING.format(**names) + report)


def check(study: Study) -> None:
    """Every step made a complete, undamaged run that read what it was told to read."""
    runs = study.runs
    for step in study.steps:
        run = Run(runs[step.name])
        assert (run.stage, run.complete) == (step.stage, True)
        assert (run.path / RESULTS[step.stage]).stat().st_size > 0
        read = {record["run"] for record in run.all_of("input")}
        assert {runs[name].name for name in step.reads} <= read
    assert study.result.stderr.count(" made ") == len(study.steps)


def test_the_small_study(study: Study, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    check(study)
    for run in study.runs.values():
        assert cli("runs", "verify", run) == 0
    capsys.readouterr()


def becoming(study: Study) -> dict[str, str]:
    """What the last lines say of each step: `made`, `resumed` or `reused`."""
    lines = study.result.stderr.splitlines()[-len(study.steps) :]
    return {step: how for step, how, *_ in (line.split() for line in lines)}


def test_nothing_is_made_twice(study: Study, tmp_path: Path) -> None:
    """Of no stage; and where a setting changed, that step and those that read it."""
    linked(list(study.runs.values()), tmp_path / "artifacts")
    write_texts(tmp_path)
    again = carried_out(tmp_path, "again.toml", SMALL)
    assert becoming(again) == dict.fromkeys(study.runs, "reused")
    assert [run.name for run in again.runs.values()] == [run.name for run in study.runs.values()]
    assert len(list_runs(tmp_path / "artifacts")) == len(study.runs)
    changed = carried_out(tmp_path, "changed.toml", SMALL.replace("k = [8]", "k = [4]"))
    made = {"sae-train", "sae-latents", "report"}
    assert {step for step, how in becoming(changed).items() if how == "made"} == made
    assert list(becoming(changed).values()).count("reused") == len(study.runs) - len(made)


def test_a_study_of_pythias_shape(pythia: Study) -> None:
    check(pythia)
    model = Run(pythia.runs["capture"]).start["resolved"]["model"]
    assert (model["n_layers"], model["n_parameters"]) == (6, 70426624)
    sparsity = read_table(pythia.runs["capture"] / "sparsity.csv")
    assert {row["layer"] for row in sparsity} == {"3"}
    assert sum(int(row["n_documents"]) for row in sparsity) == 100
    trends = read_table(pythia.runs["scaling"] / "trends.csv")
    assert "2" in {row["n_models"] for row in trends}


def test_every_stage_has_its_part(pythia: Study) -> None:
    stages = {run.stage for run in list_runs(pythia.folder / "artifacts")}
    assert stages == set(NAMED) - ALONE
