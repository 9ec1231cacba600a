"""Finished runs: found by path, name or `latest`; every change is found; removed only when safe."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs import reading as runs
from sdlms.runs.folder import acquire, hidden_name, make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import (
    Run,
    find_any,
    find_run,
    list_runs,
    removable,
    remove,
)
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions, RunWriter
from tests.runs.small_runs import make_partial, make_run, restart

# --- list -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00\x01", b"[]\n", b'{"event": 3}\n', b"x" * 99]
)
def test_garbage_is_listed_as_broken_and_breaks_nothing(tmp_path: Path, content: bytes) -> None:
    good = make_run(tmp_path)
    bad = tmp_path / "20991231_000000_bad"
    bad.mkdir()
    (bad / META).write_bytes(content)
    assert [run.status for run in list_runs(tmp_path)] == ["complete", "broken"]
    assert find_run(tmp_path, "latest").name == good.name
    with pytest.raises(UserError, match="is no complete run"):
        find_run(tmp_path, bad.name)


def test_nothing_to_list(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / ".cache").mkdir()
    for artifacts in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        assert list_runs(artifacts, partial=True) == []


def test_an_unreadable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        list_runs(tmp_path)


def test_runs_are_listed_by_start_time_and_ties_by_name(tmp_path: Path) -> None:
    made = [make_run(tmp_path) for _ in range(3)]
    restart(made[0], "2026-11-20T14:30:22.000002+00:00")
    restart(made[1], "2026-11-20T14:30:22.000001+00:00")
    restart(made[2], "2026-11-20T14:30:22.000001+00:00")
    names = [run.name for run in made]
    expected = [*sorted(names[1:]), names[0]]
    assert [run.name for run in list_runs(tmp_path)] == expected
    assert find_run(tmp_path, "latest").name == names[0]


def test_partial_runs_are_listed_only_on_request(tmp_path: Path) -> None:
    complete, failed = make_run(tmp_path), make_partial(tmp_path)
    assert [run.name for run in list_runs(tmp_path)] == [complete.name]
    listed = list_runs(tmp_path, partial=True)
    assert [(run.name, run.status) for run in listed] == [
        (complete.name, "complete"),
        (failed.name, "failed"),
    ]


# --- find -----------------------------------------------------------------------------------


def test_a_run_is_found_by_name_and_by_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = tmp_path / "artifacts"
    run = make_run(artifacts)
    monkeypatch.chdir(artifacts)
    relative = f"../artifacts/{run.name}"
    for reference in (run.name, str(run.path), f"{run.path}/", f"./{run.name}", relative):
        for place in (artifacts, Path("elsewhere")):
            if reference != run.name or place == artifacts or Path(run.name).is_dir():
                assert find_run(place, reference).path.samefile(run.path)
    monkeypatch.chdir(run.path)
    assert find_run(artifacts, ".").name == run.name


def test_a_bare_name_means_the_run_rather_than_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "artifacts")
    (tmp_path / run.name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_run(Path("artifacts"), run.name).path.samefile(run.path)


def test_a_name_does_not_lead_out_of_the_artifacts_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(UserError, match="no run"):
        find_run(tmp_path / "artifacts", f"../{run.name}")


@pytest.mark.parametrize("reference", ["", "..", "/", "\0", "x" * 5000, "no/such/run", "nothing"])
def test_what_is_no_run_is_one_line(tmp_path: Path, reference: str) -> None:
    make_run(tmp_path)
    with pytest.raises(UserError):
        find_run(tmp_path, reference)


@pytest.mark.parametrize("reference", ["", " "])
def test_no_name_is_said_to_be_none(tmp_path: Path, reference: str) -> None:
    make_run(tmp_path)
    for find in (find_run, find_any):
        with pytest.raises(UserError, match="no run is named"):
            find(tmp_path, reference)


def test_a_file_of_a_run_leads_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    monkeypatch.chdir(run.path)
    for reference in (str(run.path / "meta.jsonl"), "meta.jsonl", f"../{run.name}/meta.jsonl"):
        with pytest.raises(UserError, match=f"lies in one. Give the run's folder: .*{run.name}$"):
            find_run(tmp_path, reference)
    for reference in (str(run.path / "nothing.h5"), "x" * 5000):
        with pytest.raises(UserError, match="no run '"):
            find_run(tmp_path, reference)


def test_an_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(UserError, match=f"Did you mean '{run.name}'"):
        find_run(tmp_path, run.name[:-1])
    with pytest.raises(UserError, match="See: sdlms runs list"):
        find_run(tmp_path, "zzz")


def test_another_stage_or_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    run, partial = make_run(tmp_path), make_partial(tmp_path)
    with pytest.raises(UserError, match="is a 'tiny' run; a 'capture' run is needed"):
        find_run(tmp_path, run.name, "capture")
    with pytest.raises(UserError, match="a 'capture' or 'sae-latents' run is needed here"):
        find_run(tmp_path, run.name, "capture", "sae-latents")
    for reference in (partial.name, str(partial.path), f"{tmp_path}/{partial.name}"):
        with pytest.raises(UserError, match=r"is not finished \(failed\)"):
            find_run(tmp_path, reference)
        assert find_any(tmp_path, reference).path.samefile(partial.path)


def test_latest_is_the_newest_complete_run_of_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no completed run under .* sdlms capture"):
        find_run(tmp_path, "latest")
    old, new = make_run(tmp_path, "first"), make_run(tmp_path, "first")
    other = make_run(tmp_path, "second")
    make_partial(tmp_path)
    assert old.age_key < new.age_key < other.age_key
    assert find_run(tmp_path, "latest", "first").name == new.name
    assert find_run(tmp_path, "latest").name == other.name
    assert find_run(tmp_path, "latest", "first", "second").name == new.name  # only of the first
    assert find_run(tmp_path, other.name, "first", "second").name == other.name
    for stages in (["third"], ["third", "first"]):
        with pytest.raises(UserError, match=r"no completed 'third' run .*sdlms third"):
            find_run(tmp_path, "latest", *stages)


def test_a_damaged_newest_run_is_passed_over_aloud_but_shown_to_verify(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.LOGGER, "propagate", True)
    old, new = make_run(tmp_path), make_run(tmp_path)
    make_writable(new.path)
    (new.path / META).write_bytes(b"#" + (new.path / META).read_bytes()[1:])
    assert find_run(tmp_path, "latest", "tiny").name == old.name
    assert f"{new.name} is damaged" in caplog.text
    assert find_any(tmp_path, "latest").name == new.name


# --- remove ---------------------------------------------------------------------------------


def test_a_read_only_run_is_removed_without_a_trace(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    remove(run)
    assert list(tmp_path.iterdir()) == []


def test_an_input_stays_while_its_reader_does(tmp_path: Path) -> None:
    first = make_run(tmp_path, "first")
    second = make_run(tmp_path, "second", inputs=(first,))
    with pytest.raises(UserError, match=f"is an input of {second.name}"):
        remove(first)
    assert [run.name for run in removable([first, second, first])] == [second.name, first.name]
    for run in removable([first, second]):
        remove(run)
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_known_by_its_content_when_renamed(tmp_path: Path) -> None:
    first = make_run(tmp_path, "first")
    make_run(tmp_path, "second", inputs=(first,))
    with pytest.raises(UserError, match="is an input of"):
        remove(Run(first.path.rename(tmp_path / "renamed")))


def test_an_input_of_an_unfinished_run_stays(tmp_path: Path) -> None:
    first = make_run(tmp_path, "first")
    out = RunWriter("second", {}, RunOptions(artifacts=tmp_path))
    with pytest.raises(RuntimeError), out:
        out.start({}, {})
        out.input(first)
        raise RuntimeError("stop")
    with pytest.raises(UserError, match="is an input of"):
        remove(first)


def test_a_folder_that_is_no_run_is_never_removed(tmp_path: Path) -> None:
    plain = tmp_path / "20261120_143022_mine"
    plain.mkdir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / META).write_text('{"event": "something else"}\n')
    alike = tmp_path / ".notes.partial"
    alike.mkdir()
    for folder in (plain, foreign, alike):
        with pytest.raises(UserError, match="is no run"):
            remove(Run(folder))
        assert folder.is_dir()


def test_a_link_to_a_run_is_not_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(run.path)
    with pytest.raises(UserError, match="is a link"):
        remove(Run(tmp_path / "link"))
    assert verify(run) == []


def test_a_damaged_run_and_the_remains_of_a_start_can_be_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_writable(run.path)
    (run.path / META).write_bytes(b"\xff")
    remains = tmp_path / hidden_name("20261120_143022_tiny")
    remains.mkdir()
    for found in list_runs(tmp_path, partial=True):
        remove(found)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_being_written_is_not_removed(tmp_path: Path) -> None:
    with RunWriter("tiny", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
        assert Run(out.path).status == "writing"
        with pytest.raises(UserError, match="is being written"):
            remove(Run(out.path))


def test_a_run_that_is_taken_up_between_check_and_removal_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = make_partial(tmp_path)
    descriptors: list[int | None] = []
    monkeypatch.setattr(runs, "removable", lambda found: descriptors.append(acquire(partial.path)))
    with pytest.raises(UserError, match="taken up by another process"):
        remove(partial)
    assert (partial.path / META).is_file()
    os.close(descriptors[0] or -1)


def test_a_removal_that_was_killed_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(run)
    monkeypatch.undo()
    (left,) = list_runs(tmp_path, partial=True)
    assert (left.name, left.status, left.start) == (run.name, "interrupted", {})
    remove(left)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_resists_removal_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"cannot remove .*Permission denied"):
        remove(run)
    assert verify(run) == []


def test_listing_while_runs_come_and_go(tmp_path: Path) -> None:
    stop = threading.Event()
    errors: list[Exception] = []

    def look() -> None:
        while not stop.is_set():
            try:
                [(run.status, run.stage) for run in list_runs(tmp_path, partial=True)]
            except OSError as error:
                errors.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(10):
            remove(make_run(tmp_path))
    finally:
        stop.set()
        looking.join()
    assert errors == []
