"""Which runs a notebook shows."""

import shutil
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.figures.newest import artifacts_folder, chosen_run, holds, reader_of, runs_beside
from sdlms.figures.panels import MOST_BESIDE
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.runs.small_runs import make_run
from tests.scaling.small_runs import captured, model_of, modular, written


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
        chosen_run(work / "artifacts", "latest", "sae-train", holds("sae.csv"))


def test_a_model_is_preferred_to_its_controls(work: Path) -> None:
    control = captured(work, "small", control="reinit")
    assert chosen_run(work / "artifacts", "latest", "capture") == control  # there is no other
    first, second = captured(work, "small"), captured(work, "medium")
    captured(work, "medium", control="permute-tokens")
    assert chosen_run(work / "artifacts", "latest", "capture") == second
    assert chosen_run(work / "artifacts", first.name, "capture") == first
    assert chosen_run(work / "artifacts", control.name, "capture").name == control.name


def test_the_run_that_holds_most_of_what_is_wished_is_preferred(work: Path) -> None:
    first, second, third = (captured(work, "small", sites=[site]) for site in ("a", "b", "a"))
    for run in (first, second):
        make_writable(run.path)
        (run.path / "more.csv").touch()
    folder, more, none = work / "artifacts", holds("more.csv"), holds("none.csv")
    of_a, of_both = holds("sparsity.csv", site="a"), holds("sparsity.csv", site="a", task="b")
    for wishes, chosen in {
        (): third,
        (more,): second,
        (none,): third,
        (more, none): second,
        (of_a,): third,
        (of_a, more): first,
        (of_both,): third,
        (holds("sparsity.csv", column="a"), holds("none.csv", site="a"), more): second,
    }.items():
        assert chosen_run(folder, "latest", "capture", *wishes) == chosen


def test_a_control_that_holds_all_is_no_model(work: Path) -> None:
    model = captured(work, "small", sites=["resid_post"])
    captured(work, "small", control="reinit")
    wish = holds("sparsity.csv", site="mlp_act")
    assert chosen_run(work / "artifacts", "latest", "capture", wish) == model


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


def test_only_runs_that_hold_what_is_drawn_stand_beside_it(work: Path) -> None:
    """As in the study, where the newest capture of a model is of the residual stream."""
    small, old = captured(work, "small"), captured(work, "medium", sites=["mlp_act", "resid_post"])
    captured(work, "medium", sites=["resid_post"])
    captured(work, "large", sites=["resid_post"])
    need = holds("sparsity.csv", site="mlp_act")
    assert runs_beside(work / "artifacts", small, need) == [small, old]


def test_only_runs_on_the_same_data_sets_stand_beside_each_other(work: Path) -> None:
    def on(model: str, *digests: str) -> Run:
        read = [{"dataset": "hub/name", "sha256": digest} for digest in digests]
        data = [{"task": "qa", "sources": {}, "datasets": read}]
        resolved = {"model": model_of(model), "data": data, "control": "none"}
        return written(work, "capture", {}, resolved, {})

    small, medium, _, _ = on("small", "a"), on("medium", "a"), on("large", "b"), on("huge")
    assert runs_beside(work / "artifacts", small) == [small, medium]


def test_only_runs_of_as_many_documents_stand_beside_each_other(work: Path) -> None:
    def on(model: str, n_captured: int = 7, **config: int) -> Run:
        data = [{"task": "qa", "sources": {"a": "b"}, "n_captured": n_captured}]
        resolved = {"model": model_of(model), "data": data, "control": "none"}
        return written(work, "capture", {"max_tokens": 100, **config}, resolved, {})

    small, medium = on("small"), on("medium")
    on("large", 8)
    on("huge", max_tokens=101)
    on("large", seed=1)
    assert runs_beside(work / "artifacts", small) == [small, medium]


def test_runs_of_other_runs_are_beside_those_on_the_same_texts(work: Path) -> None:
    def read_by(model: str, digest: str, **changed: str) -> Run:
        data = [{"task": "qa", "sources": {"a": digest}, "n_captured": 7}]
        resolved = {"model": model_of(model), "data": data, "control": "none"}
        return modular(work, model, written(work, "capture", {}, resolved, {}), **changed)

    small, medium = read_by("small", "b"), read_by("medium", "b")
    read_by("large", "c")
    read_by("huge", "b", threshold="fixed:0")
    artifacts = work / "artifacts"
    assert runs_beside(artifacts, small) == [small, medium]
    shutil.rmtree(artifacts / small.start["resolved"]["acts"])
    assert runs_beside(artifacts, small) == [small]  # nobody knows what it has read


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
    with RunWriter(stage, {"seed": 1}, RunOptions(artifacts=folder)) as out:
        out.start({"control": "permute-tokens"}, {})
        out.input(run)
    assert reader_of(folder, run, stage) == readers[1]
    assert reader_of(folder, other, stage) is None
    assert reader_of(folder, run, "another") is None
    assert isinstance(run, Run)
