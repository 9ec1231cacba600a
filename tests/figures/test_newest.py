"""Which runs a notebook shows."""

from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.figures.newest import MOST_BESIDE, artifacts_folder, chosen_run, reader_of, runs_beside
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run
from tests.runs.small_runs import make_run
from tests.scaling.small_runs import captured, model_of


def test_runs_lie_where_the_command_line_writes_them(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "notebooks").mkdir()
    monkeypatch.chdir(work / "notebooks")
    assert artifacts_folder() == Path("../artifacts")
    monkeypatch.setenv("SDLMS_ARTIFACTS", "mine")
    assert artifacts_folder() == Path("../mine")
    (work / "notebooks/mine").mkdir()
    assert artifacts_folder() == Path("mine")
    monkeypatch.setenv("SDLMS_ARTIFACTS", str(work / "nowhere"))
    assert artifacts_folder() == work / "nowhere"


def test_without_a_run_the_command_is_named(work: Path) -> None:
    with pytest.raises(UserError, match=r"^no completed 'sae-train' run .* Make one: sdlms sae-t"):
        chosen_run(work / "artifacts", "latest", "sae-train", holding="sae.csv")


def test_a_model_is_preferred_to_its_controls(work: Path) -> None:
    control = captured(work, "small", control="reinit")
    assert chosen_run(work / "artifacts", "latest", "capture") == control  # there is no other
    first, second = captured(work, "small"), captured(work, "medium")
    captured(work, "medium", control="permute-tokens")
    assert chosen_run(work / "artifacts", "latest", "capture") == second
    assert chosen_run(work / "artifacts", first.name, "capture") == first
    assert chosen_run(work / "artifacts", control.name, "capture").name == control.name


def test_a_run_that_holds_a_file_is_preferred(work: Path) -> None:
    first, second = captured(work, "small"), captured(work, "small")
    make_writable(first.path)
    (first.path / "more.csv").touch()
    folder = work / "artifacts"
    assert chosen_run(folder, "latest", "capture", holding="more.csv") == first
    assert chosen_run(folder, "latest", "capture", holding="none.csv") == second
    assert chosen_run(folder, "latest", "capture") == second


def test_damaged_runs_are_passed_over(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = captured(work, "small"), captured(work, "small")
    make_writable(second.path)
    lines = (second.path / META).read_text().splitlines(keepends=True)
    (second.path / META).write_text("".join(lines[:-1]))
    assert chosen_run(work / "artifacts", "latest", "capture") == first
    assert "damaged" in caplog.text
    assert runs_beside(work / "artifacts", first) == [first]


def test_the_newest_of_each_model_stand_beside_each_other(work: Path) -> None:
    old = captured(work, "small")
    large, small = captured(work, "large"), captured(work, "small")
    captured(work, "huge", control="reinit")
    captured(work, "medium", sites=["resid_post"], label="other")
    medium = captured(work, "medium")
    folder = work / "artifacts"
    assert runs_beside(folder, large) == [small, medium, large]
    assert runs_beside(folder, old) == [old, medium, large]


def test_no_more_runs_than_fit_into_a_picture(work: Path) -> None:
    models = [model_of("small", name=f"small-{n}", n_parameters=100 - n) for n in range(6)]
    runs = [captured(work, "", model=model) for model in models]
    beside = runs_beside(work / "artifacts", runs[0])
    assert beside == [runs[5], runs[4], runs[3], runs[0]]
    assert len(beside) == MOST_BESIDE


def test_the_newest_reader_of_a_run_is_found(work: Path) -> None:
    folder = work / "artifacts"
    run, other = captured(work, "small"), captured(work, "medium")
    readers = [make_run(folder, inputs=(run,)) for _ in range(2)]
    stage = readers[0].stage
    assert reader_of(folder, run, stage) == readers[1]
    assert reader_of(folder, other, stage) is None
    assert reader_of(folder, run, "another") is None
    assert isinstance(run, Run)
