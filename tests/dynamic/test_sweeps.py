"""All that a study measures is measured, in two phases of the run."""

import math
from pathlib import Path

from sdlms.dynamic.study import Study
from sdlms.dynamic.sweeps import measure_quality, measure_speed
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.dynamic.studies import study_of


def run_of(folder: Path, study: Study) -> Run:
    """A run that measures everything."""
    with RunWriter("dynamic-k", {"seed": 0}, RunOptions(artifacts=folder / "artifacts")) as out:
        out.start({}, {})
        measure_quality(study, out)
        measure_speed(study, out)
    return Run(out.path)


def test_every_sweep_and_every_timing_is_done(tmp_path: Path) -> None:
    study = study_of(tmp_path, rules=("post-norm", "static"), seeds=(3, 4))
    run = run_of(tmp_path, study)
    names = {path.stem for path in (tmp_path / "parts").iterdir()}
    each = [f"{rule}_{n}" for rule in study.settings.rules for n in ("0.25", "0.5", "layer_1")]
    each += ["dense", "post-norm_speed", "static_speed"]
    assert names == {f"{seed}_{name}" for seed in (3, 4) for name in each}
    (done,) = run.all_of("done")
    assert set(done["phase_seconds"]) == {"quality", "speed"}
    assert all(math.isfinite(seconds) for seconds in done["phase_seconds"].values())


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    run_of(tmp_path, study)
    before = {path: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    run_of(tmp_path, study_of(tmp_path))
    assert {path: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == before
