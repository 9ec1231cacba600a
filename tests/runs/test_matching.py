"""A run that was made is not made again: what makes it the same, and what does not."""

from pathlib import Path
from typing import Any, NoReturn

import pytest

from sdlms.errors import UserError
from sdlms.runs import writing
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions, RunWriter

MADE_BY = {"version": "1", "packages": {"torch": "2"}, "git": {"commit": "a" * 40}, "host": "here"}
BEGUN: dict[str, Any] = {
    "stage": "tiny",
    "config": {"seed": 0, "layers": (1, 2)},
    "resolved": {"data": ("d",)},
    "decided": {"device": "cpu", "device_name": "one", "dtype": "float32", "threads": 2},
    "made_by": MADE_BY,
}


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(writing.LOGGER, "propagate", True)
    caplog.set_level("INFO", "sdlms")


class Stage:
    """Writes runs of one file; how they are begun can be varied."""

    def __init__(self, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.artifacts, self.monkeypatch = artifacts, monkeypatch

    def __call__(self, *flags: str, reads: Run | None = None, **begun: Any) -> tuple[Run, bool]:
        """The run, and whether anything was worked out."""
        begun = {**BEGUN, **begun}
        self.monkeypatch.setattr(writing, "provenance", lambda: begun["made_by"])
        options = RunOptions(artifacts=self.artifacts, **dict.fromkeys(flags, True))
        worked = False
        with RunWriter(begun["stage"], begun["config"], options) as out:
            out.check_disk(begun.get("needs", 0), "Do less.")
            out.start(begun["resolved"], begun["decided"])
            worked = True
            if reads is not None:
                out.input(reads)
            if begun.get("fails"):
                raise RuntimeError
            (out.path / "a.csv").write_text("x\n")
        return Run(out.path), worked

    def partial(self, **begun: Any) -> Run:
        before = {run.name for run in list_runs(self.artifacts, partial=True)}
        with pytest.raises(RuntimeError):
            self(fails=True, **begun)
        (run,) = (r for r in list_runs(self.artifacts, partial=True) if r.name not in before)
        return run


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path / "artifacts", monkeypatch)


def test_the_newest_complete_run_is_given_back_and_nothing_is_written(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = stage()[0], stage()[0]
    before = {path: path.stat() for path in stage.artifacts.rglob("*")}
    found, worked = stage("reuse")
    assert (found.path, worked) == (newer.path, False)
    assert older.path != newer.path
    assert {path: path.stat() for path in stage.artifacts.rglob("*")} == before
    assert f"{newer.name} is reused" in caplog.messages
    assert verify(found) == []


def test_without_any_it_is_made(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.partial()
    run, worked = stage("reuse")
    assert worked and run.complete
    assert "no complete tiny run has these settings, inputs and versions" in caplog.messages


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {part: {**BEGUN[part], **values}}


@pytest.mark.parametrize(
    "begun",
    [
        {"stage": "other"},
        changed("config", seed=1),
        changed("resolved", data=("e",)),
        changed("made_by", version="2"),
        changed("made_by", packages={"torch": "3"}),
        *(changed("decided", **{name: "other"}) for name in BEGUN["decided"]),
        changed("decided", backend="torch"),
    ],
    ids=str,
)
def test_what_changes_results_makes_another_run(stage: Stage, begun: dict[str, Any]) -> None:
    run = stage()[0]
    other, worked = stage("reuse", **begun)
    assert worked and other.path != run.path


@pytest.mark.parametrize(
    "begun",
    [
        changed("made_by", host="there", packages={"torch": "2", "accelerate": "1"}),
        changed("decided", device_memory_bytes=5),
        {"config": {"layers": [1, 2], "seed": 0}},
        {"needs": 9 * 10**15},  # more than any disk has
    ],
    ids=str,
)
def test_what_changes_nothing_does_not(stage: Stage, begun: dict[str, Any]) -> None:
    run = stage()[0]
    assert stage("reuse", **begun) == (run, False)


def test_room_is_asked_for_where_a_run_must_be_made(stage: Stage) -> None:
    with pytest.raises(UserError, match=r"needs 9450\.0 TB .* Do less\."):
        stage("reuse", needs=9 * 10**15)


def test_another_commit_is_told(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    run = stage()[0]
    stage("reuse", **changed("made_by", git={"commit": "b" * 40}))
    assert f"{run.name} is reused, made at commit aaaaaaa, not bbbbbbb" in caplog.messages
    stage("reuse", **changed("made_by", git=None))


@pytest.mark.parametrize("there", [True, False])
def test_code_that_is_not_committed_is_told(
    stage: Stage, there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    states = [{"commit": "a" * 40, "dirty": dirty} for dirty in (there, not there)]
    run = stage(**changed("made_by", git=states[0]))[0]
    stage("reuse", **changed("made_by", git=states[1]))
    said = f"{run.name} is reused; the code had or has changes that are not committed"
    assert said in caplog.messages


@pytest.mark.parametrize("damage", ["shorter", "gone", "added", "meta"])
def test_a_damaged_run_is_passed_over_with_a_warning(
    stage: Stage, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound, damaged = stage()[0], stage()[0]
    make_writable(damaged.path)
    if damage == "meta":
        meta = damaged.path / META
        meta.write_bytes(meta.read_bytes().replace(b"a.csv", b"b.csv"))
    else:
        file = damaged.path / ("b.csv" if damage == "added" else "a.csv")
        file.write_text("x" if damage == "shorter" else "x\n")
        if damage == "gone":
            file.unlink()
    assert stage("reuse") == (sound, False)
    (warning,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert f"{damaged.name} is damaged and passed over (" in warning.getMessage()


def test_a_run_of_other_inputs_is_made_anew(stage: Stage, tmp_path: Path) -> None:
    read = stage(stage="read")[0]
    run = stage(reads=read)[0]
    assert stage("reuse", reads=read) == (run, False)
    moved = read.path.rename(tmp_path / read.name)
    assert stage("reuse", reads=Run(moved))[1]  # whose it was cannot be told
    (tmp_path / "other").mkdir()
    elsewhere = Stage(tmp_path / "other", stage.monkeypatch)(stage="read")[0]
    elsewhere.path.rename(read.path)
    assert stage("reuse", reads=Run(read.path))[1]


def test_inputs_elsewhere_are_known_by_the_path_that_names_them(
    stage: Stage, tmp_path: Path
) -> None:
    read = Stage(tmp_path / "elsewhere", stage.monkeypatch)(stage="read")[0]
    named = {"config": {"acts": str(read.path)}}
    run = stage(reads=read, **named)[0]
    assert stage("reuse", reads=read, **named) == (run, False)
    twin = {"config": {"acts": read.name}, "reads": read}  # of this name, nothing is here
    stage(**twin)
    assert stage("reuse", **twin)[1]


# --- with --resume ---------------------------------------------------------------------------


def test_with_both_flags_a_complete_run_comes_first_then_a_partial_one(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    partial = stage.partial()
    resumed, worked = stage("reuse", "resume")
    assert (resumed.name, worked) == (partial.name, True)
    stage.partial()
    assert stage("reuse", "resume") == (resumed, False)
    anew, worked = stage("reuse", "resume", **changed("config", seed=1))
    assert worked and not anew.all_of("resume")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_run_continued_with_other_threads_is_the_same_for_them(stage: Stage) -> None:
    """Cores differ from job to job: what went on is not thrown away when all is asked for again."""
    partial = stage.partial(**changed("decided", threads=32))
    resumed, worked = stage("reuse", "resume")
    assert (resumed.name, worked) == (partial.name, True)
    assert resumed.start["decided"]["threads"] == 32
    for threads in (2, 32):
        assert stage("reuse", "resume", **changed("decided", threads=threads)) == (resumed, False)
    assert stage("reuse", "resume", **changed("decided", threads=4))[1]


def test_with_both_flags_what_cannot_be_continued_is_begun_anew(stage: Stage) -> None:
    stage.partial(**changed("decided", device="cuda:0"))
    run, worked = stage("reuse", "resume")
    assert worked and not run.all_of("resume")
    read = stage(stage="read")[0]
    stage.partial(reads=read, resolved={"acts": "x"})
    for left in stage.artifacts.glob(".*.partial"):
        if Run(left).all_of("input"):
            continue
        remove(Run(left))
    meta = read.path / META
    make_writable(read.path)
    meta.write_bytes(meta.read_bytes() + b"\n")
    run, worked = stage("reuse", "resume", resolved={"acts": "x"})
    assert worked and not run.all_of("resume")


def test_a_run_that_lacked_its_renaming_is_published(stage: Stage) -> None:
    def killed(folder: Path) -> NoReturn:
        raise KeyboardInterrupt

    with stage.monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(writing, "publish", killed)
        stage()
    run, worked = stage("reuse", "resume")
    assert run.complete and not worked


def test_a_run_that_another_process_writes_is_left_to_it(stage: Stage) -> None:
    with RunWriter("tiny", BEGUN["config"], RunOptions(artifacts=stage.artifacts)) as out:
        stage.monkeypatch.setattr(writing, "provenance", lambda: MADE_BY)
        out.start(BEGUN["resolved"], BEGUN["decided"])
        with pytest.raises(UserError, match="is being written by another process; let it finish"):
            stage("reuse", "resume")
        assert stage("reuse")[1]
