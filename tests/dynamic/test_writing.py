"""Tables stand in the run as they were declared."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.dynamic import latent_rows, specialist_rows
from sdlms.dynamic.beside import Beside
from sdlms.dynamic.latents import Autoencoders
from sdlms.dynamic.results import Results
from sdlms.dynamic.specialists import Specialized
from sdlms.dynamic.study import Study
from sdlms.dynamic.tables import COLUMNS, CRITICAL_COLUMNS, TIMED
from sdlms.dynamic.writing import write_beside, write_results
from sdlms.models.gating.costs import costs_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import read_table
from tests.dynamic.studies import study_of
from tests.stages.sae_runs import random_dictionary

NEURONS = np.arange(40)
SPECIALIZED = Specialized(
    "a run", ("math", "qa"), {1: [NEURONS[:2], NEURONS[2:4]]}, {1: NEURONS[4:]}
)


def autoencoders(study: Study) -> Autoencoders:
    """Random ones, of the last layer's neurons."""
    return Autoencoders("another", "mlp_act", {2: "first"}, {2: random_dictionary(0, 40)})


def run_of(folder: Path, study: Study, beside: Beside, *, has_quality: bool = True) -> Run:
    """A run that writes everything."""
    results = Results(
        study, costs_of(study.model.config), ["math", "qa"], 9, 0, has_quality, not has_quality
    )
    with RunWriter("dynamic-k", {"seed": 0}, RunOptions(artifacts=folder / "artifacts")) as out:
        out.start({}, {})
        write_results(results, out)
        write_beside(beside, study, 0, out)
    return Run(out.path)


def declared(run: Run) -> dict[str, list[str]]:
    """The columns of each table, which are those it has."""
    found = {record["path"]: record["columns"] for record in run.all_of("output")}
    for name, columns in found.items():
        assert list(read_table(run.path / name)[0]) == columns
    return found


@pytest.mark.parametrize("has_quality", [True, False])
def test_tables_are_written_with_their_columns(tmp_path: Path, has_quality: bool) -> None:
    study = study_of(tmp_path)
    run = run_of(tmp_path, study, Beside([], None, None, None), has_quality=has_quality)
    expected = {"dynamic_k.csv": COLUMNS, "critical.csv": CRITICAL_COLUMNS}
    assert declared(run) == (expected if has_quality else {"dynamic_k.csv": COLUMNS})
    timed = {record["path"]: record.get("timed") for record in run.all_of("output")}
    assert timed["dynamic_k.csv"] == TIMED


def test_neurons_and_latents_are_measured_at_every_point(tmp_path: Path) -> None:
    study = study_of(tmp_path, rules=("post-norm", "random"), keeps=(0.25, 0.5))
    run = run_of(tmp_path, study, Beside([], SPECIALIZED, None, autoencoders(study)))
    tables = declared(run)
    assert tables["specialized_units.csv"] == specialist_rows.COLUMNS
    assert tables["latents.csv"] == latent_rows.COLUMNS
    points = [(rule, k) for rule in ("post-norm", "random") for k in ("0.25", "0.5")]
    for name in ("specialized_units.csv", "latents.csv"):
        rows = read_table(run.path / name)
        assert list(dict.fromkeys((row["rule"], row["k"]) for row in rows)) == points
        parts = {f"3_{rule}_{k}_{name.removesuffix('.csv')}" for rule, k in points}
        assert parts <= {path.stem for path in (tmp_path / "parts").iterdir()}
    (done,) = run.all_of("done")
    assert set(done["phase_seconds"]) == {"tables", "specialized_units", "latents"}
