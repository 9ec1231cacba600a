"""`sdlms report` through the real command line, on runs whose tables are chosen."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms.report.pictures import MOST_BYTES
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run, list_runs
from sdlms.storage.files import sha256_of
from tests.conftest import Cli
from tests.report.test_html import Seen
from tests.runs.small_runs import make_partial, make_run
from tests.scaling.small_runs import captured

QUIET = "--quiet"
Refused = Callable[..., None]


def newest(work: Path) -> Run:
    """The report that was made last."""
    return [run for run in list_runs(work / "artifacts") if run.stage == "report"][-1]


def page_of(run: Run) -> str:
    """The report's page."""
    return (run.path / "report.html").read_text("utf-8")


@pytest.fixture
def runs(work: Path) -> list[Run]:
    """Two captures, and a run that read the first."""
    small, medium = captured(work, "small", label="small"), captured(work, "medium")
    return [small, medium, make_run(work / "artifacts", inputs=(small,))]


def test_a_report_is_a_run(cli: Cli, work: Path, runs: list[Run]) -> None:
    names = ",".join(run.name for run in runs[1:])
    assert cli("report", "--runs", names, "--title", "A & B", QUIET) == 0
    report = newest(work)
    assert [record["path"] for record in report.all_of("output")] == ["report.html"]
    assert {record["run"] for record in report.all_of("input")} == {run.name for run in runs}
    hashes = {run.name: sha256_of(run.path / META) for run in runs}
    assert report.start["resolved"]["runs"] == hashes
    seen = Seen(page_of(report))
    assert "A & B" in seen.text
    assert all(run.name in seen.text for run in runs)
    assert seen.tags.count("img") == 3  # both captures beside each other, and each alone
    assert cli("runs", "verify", report.path) == 0


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(cli: Cli, work: Path, runs: list[Run]) -> None:
    for names in ([0, 1, 2], [2, 1, 0, 1], [1, 2]):  # the first is an input of the last
        assert cli("report", "--runs", ",".join(runs[n].name for n in names), QUIET) == 0
    reports = [run for run in list_runs(work / "artifacts") if run.stage == "report"]
    first, second, third = (sha256_of(run.path / "report.html") for run in reports)
    assert first == second
    assert first != third  # it says how many were asked for


def test_latest_is_the_newest_run_that_is_no_report(cli: Cli, work: Path, runs: list[Run]) -> None:
    assert cli("report", QUIET) == 0
    assert cli("report", QUIET) == 0
    read = {record["run"] for record in newest(work).all_of("input")}
    assert read == {runs[0].name, runs[2].name}


@pytest.mark.slow
def test_many_runs_stay_within_bounds(cli: Cli, work: Path) -> None:
    names = [captured(work, "huge", label=f"number-{n}").name for n in range(12)]
    assert cli("report", "--runs", ",".join(names), QUIET) == 0
    content = page_of(newest(work))
    assert len(content) < 1.5 * MOST_BYTES
    assert content.count("<img") >= 12 + 3


def test_runs_that_are_not_at_hand_are_warned_of(
    cli: Cli, work: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runs[0].path.rename(work / "elsewhere")
    assert cli("report", "--runs", runs[2].name, QUIET) == 0
    assert f"{runs[0].name} was read too, but is not at hand" in capsys.readouterr().err
    assert "not at hand" in page_of(newest(work))


def test_what_others_wrote_is_text(cli: Cli, work: Path) -> None:
    model = {"name": "<script>alert(1)</script>", "n_layers": 3, "n_parameters": 9, "weights": {}}
    run = captured(work, "small", model=model, tasks=("<b>qa</b>", "math"))
    assert cli("report", "--runs", run.name, "--title", "</title><img src=x>", QUIET) == 0
    content = page_of(newest(work))
    assert not {"script", "b"} & set(Seen(content).tags)
    assert len(re.findall("<img ", content)) == 1
    assert "<script>alert(1)</script>" in Seen(content).text


def changed(run: Run, name: str, content: bytes) -> None:
    """Write into a published run, as nobody should."""
    make_writable(run.path)
    (run.path / name).write_bytes(content)


@pytest.mark.parametrize("name", ["sparsity.csv", "counts.h5", "logs/run.log", META])
def test_a_changed_file_is_refused_by_name(
    refused_command: Refused, runs: list[Run], name: str
) -> None:
    content = (runs[0].path / name).read_bytes()
    changed(runs[0], name, content[:-2] + b"#\n")
    # Also where the run is read by the one that is named.
    for run in (runs[0], runs[2]):
        refused_command("report", "--runs", run.name, message=name)


def test_a_missing_file_is_refused_by_name(refused_command: Refused, runs: list[Run]) -> None:
    make_writable(runs[0].path)
    (runs[0].path / "sparsity.csv").unlink()
    message = "is damaged (sparsity.csv: missing)"
    refused_command("report", "--runs", runs[0].name, message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", ""], "--runs names no run"),
        (["--runs", "nothing"], "no run 'nothing'"),
        (["--title", " "], "--title must have 1 to 200 characters"),
        (["--title", "x" * 201], "got 201"),
        (["--seed", "-1"], "--seed must be >= 0"),
        (["--titel", "x"], "--title"),
    ],
)
def test_settings_that_cannot_be(
    refused_command: Refused, runs: list[Run], words: list[str], message: str
) -> None:
    refused_command("report", *words, message=message)


def test_runs_that_cannot_be_shown(refused_command: Refused, cli: Cli, work: Path) -> None:
    refused_command("report", message="no completed run under artifacts/")
    partial = make_partial(work / "artifacts")
    refused_command("report", message="no completed run under artifacts/")
    refused_command("report", "--runs", partial.name, message="is not finished")
    make_run(work / "artifacts")
    assert cli("report", QUIET) == 0
    message = "is a 'report' run; name the runs that it shows instead"
    refused_command("report", "--runs", newest(work).name, message=message)


def test_without_matplotlib_it_says_what_to_install(
    refused_command: Refused, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdlms.storage.extras.find_spec", lambda name: None)
    refused_command("report", message="pip install 'sdlms[figures]'")


def test_what_happens_is_logged(
    cli: Cli, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("report") == 0
    err = capsys.readouterr().err
    assert f"shown too, as they were read: {runs[0].name}" in err
    assert "runs: 2, figures: 1" in err
