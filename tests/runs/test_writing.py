"""A run is hidden while written, whole when published, and continued wherever it was killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sdlms.errors import UserError
from sdlms.runs import folder as run_folder
from sdlms.runs import open_run, writing
from sdlms.runs import reading as runs
from sdlms.runs.folder import hidden_name, is_partial, make_read_only
from sdlms.runs.meta import META
from sdlms.runs.provenance import package_version, provenance
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions, RunWriter

KILLING = Path(__file__).with_name("killing.py")
CONFIG = {"seed": 0, "layers": (1, 2)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "provenance", lambda: {"version": package_version()})
    monkeypatch.setattr(runs.LOGGER, "propagate", True)


def writer(artifacts: Path, config: Any = None, **options: Any) -> RunWriter:
    return RunWriter("tiny", config or CONFIG, RunOptions(artifacts=artifacts, **options))


def complete(out: RunWriter, resolved: Any = None, decided: Any = None) -> Run:
    with out:
        out.start(resolved or {}, decided or {})
        (out.path / "a.csv").write_text("x\n")
        out.output("a.csv", columns=["x"])
    return Run(out.path)


def fail(out: RunWriter, resolved: Any = None, error: BaseException | None = None) -> Run:
    error = error or RuntimeError("no luck")
    with pytest.raises(type(error)), out:
        out.start(resolved or {}, {"threads": 3})
        (out.path / "a.csv").write_text("x\n")
        raise error
    return Run(out.path)


# --- one run --------------------------------------------------------------------------------


def test_another_device_or_other_packages_do_not_continue_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError), writer(tmp_path) as out:
        out.start({}, {"device": "cuda:0"})
        raise RuntimeError
    with pytest.raises(UserError, match="was begun on cuda:0, here it is cpu"):
        writer(tmp_path, resume=True).start({}, {"device": "cpu"})
    others = {"version": package_version(), "packages": {"torch": "other"}}
    monkeypatch.setattr(writing, "provenance", lambda: others)
    with writer(tmp_path, resume=True) as again:
        again.start({}, {"device": "cuda:0"})
        assert not again.resumed


def test_packages_that_matter_to_some_runs_only_do_not_stop_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by = provenance()
    monkeypatch.setattr(writing, "provenance", lambda: made_by)
    with pytest.raises(RuntimeError), writer(tmp_path) as out:
        out.start({}, {})
        raise RuntimeError
    others = {**made_by, "packages": {**made_by["packages"], "accelerate": None, "pyarrow": "0"}}
    monkeypatch.setattr(writing, "provenance", lambda: others)
    with writer(tmp_path, resume=True) as again:
        again.start({}, {})
        assert again.resumed


def test_a_run_is_hidden_until_it_is_complete(tmp_path: Path) -> None:
    out = writer(tmp_path / "below/artifacts", label="my-label.2")
    assert list(tmp_path.iterdir()) == []
    with out:
        assert out.start({}, {"dtype": "auto"}) == {"dtype": "auto"}
        assert is_partial(out.path)
        assert list_runs(out.path.parent) == []
        assert Run(out.path).status == "writing"
        name = Run(out.path).name
    assert out.path == tmp_path / "below/artifacts" / name
    assert name.endswith("_tiny_my-label.2")
    assert [path.name for path in out.path.parent.iterdir()] == [name]
    assert Run(out.path).complete
    assert verify(Run(out.path)) == []


def test_meta_tells_everything_in_order(tmp_path: Path) -> None:
    first = complete(writer(tmp_path))
    with writer(tmp_path, label="x") as out:
        out.start({"data": ("d",)}, {"threads": 2})
        out.input(first)
        out.input(first)
        out.event("batch_halved", batch_tokens=5)
        (out.scratch / "checkpoint").write_text("1")
        (out.path / "b.bin").write_bytes(b"22")
        (out.path / "a.csv").write_text("x,seconds\n")
        out.output("a.csv", columns=["x", "seconds"], timed=["seconds"])
        with out.phase("work"):
            out.summary["tokens"] = 7
    records = [json.loads(line) for line in (out.path / META).read_bytes().splitlines()]
    events = ["start", "input", "batch_halved", "output", "output", "log", "done"]
    assert [record["event"] for record in records] == events
    start, read, _, table, data, log, done = records
    assert (start["stage"], start["config"], start["label"]) == (
        "tiny",
        {**CONFIG, "layers": [1, 2]},
        "x",
    )
    assert (start["resolved"], start["decided"]) == ({"data": ["d"]}, {"threads": 2})
    meta_hash = hashlib.sha256((first.path / META).read_bytes()).hexdigest()
    assert (read["run"], read["sha256"]) == (first.name, meta_hash)
    assert (table["path"], table["columns"], table["timed"]) == (
        "a.csv",
        ["x", "seconds"],
        ["seconds"],
    )
    assert (data["path"], data["bytes"]) == ("b.bin", 2)
    assert data["sha256"] == hashlib.sha256(b"22").hexdigest()
    assert log["path"] == "logs/run.log"
    assert (done["tokens"], list(done["phase_seconds"])) == (7, ["work"])
    assert sorted(p.name for p in out.path.iterdir()) == ["a.csv", "b.bin", "logs", META]


def test_nothing_can_be_written_through_a_finished_run(tmp_path: Path) -> None:
    out = writer(tmp_path)
    run = complete(out)
    for write in (
        lambda: out.event("late"),
        lambda: out.output("a.csv"),
        lambda: out.scratch,
        lambda: out.input(run),
    ):
        with pytest.raises(ValueError, match="not open"):
            write()
    assert verify(run) == []
    for path in (run.path, run.path / "logs"):
        assert path.stat().st_mode & 0o777 == 0o555
    for path in (run.path / META, run.path / "a.csv", run.path / "logs/run.log"):
        assert path.stat().st_mode & 0o777 == 0o444


def test_before_the_start_there_is_nothing(tmp_path: Path) -> None:
    with writer(tmp_path) as out:
        with pytest.raises(ValueError, match="not open"):
            out.event("early")
        with pytest.raises(ValueError, match="not been started"):
            _ = out.path
    with pytest.raises(UserError, match="bad setting"), writer(tmp_path):
        raise UserError("bad setting")
    assert list(tmp_path.iterdir()) == []


def test_only_complete_runs_are_inputs(tmp_path: Path) -> None:
    failed = fail(writer(tmp_path))
    with writer(tmp_path) as out:
        out.start({}, {})
        with pytest.raises(ValueError, match="not complete"):
            out.input(failed)


def test_an_input_that_changed_meanwhile_is_not_continued_on(tmp_path: Path) -> None:
    first = complete(writer(tmp_path, label="read"))
    earlier = fail_reading(tmp_path, first)
    assert complete_reading(tmp_path, first, resume=True).all_of("resume")
    (first.path / META).chmod(0o644)
    earlier = fail_reading(tmp_path, first)
    with (first.path / META).open("ab") as meta:
        meta.write(b"\n")
    message = f"^{first.name} is not the run that {earlier.name} began with .*without --resume"
    with pytest.raises(UserError, match=message), writer(tmp_path, resume=True) as out:
        out.start({}, {})
        out.input(Run(first.path))
    assert len(Run(out.path).all_of("input")) == 1
    assert not complete_reading(tmp_path, first).all_of("resume")


def fail_reading(folder: Path, first: Run) -> Run:
    with pytest.raises(RuntimeError), writer(folder) as out:
        out.start({}, {})
        out.input(first)
        raise RuntimeError
    return Run(out.path)


def complete_reading(folder: Path, first: Run, resume: bool = False) -> Run:
    with writer(folder, resume=resume) as out:
        out.start({}, {})
        out.input(first)
    run = Run(out.path)
    assert [record["run"] for record in run.all_of("input")] == [first.name]
    return run


def test_a_file_changed_after_it_was_declared_fails_the_run(tmp_path: Path) -> None:
    out = writer(tmp_path)
    with pytest.raises(ValueError, match=r"a\.bin changed after"), out:
        out.start({}, {})
        (out.path / "a.bin").write_bytes(b"1")
        out.output("a.bin")
        (out.path / "a.bin").write_bytes(b"22")
    assert Run(out.path).status == "failed"
    assert "changed after" in Run(out.path).records[-1]["error"]


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (RuntimeError("no luck"), {"event": "failed", "error": "RuntimeError: no luck"}),
        (UserError("one line"), {"event": "failed", "error": "UserError: one line"}),
        (KeyboardInterrupt(), {"event": "interrupted"}),
    ],
)
def test_a_run_that_ends_early_keeps_the_reason(
    tmp_path: Path, error: BaseException, last: dict[str, str]
) -> None:
    run = fail(writer(tmp_path), error=error)
    assert last.items() <= run.records[-1].items()
    assert run.status == last["event"]
    assert list_runs(tmp_path) == []
    assert run.path.stat().st_mode & 0o700 == 0o700


@pytest.mark.parametrize("label", ["", "-x", "a b", "a/b", "ä", "x\n", "y" * 101])
def test_a_label_is_a_word(label: str) -> None:
    with pytest.raises(UserError, match="--label may hold"):
        RunOptions(label=label)


def test_a_label_like_our_own_names_confuses_nothing(tmp_path: Path) -> None:
    run = complete(writer(tmp_path, label="x.partial"))
    assert run.name.endswith("_x.partial")
    assert run.complete
    again = complete(writer(tmp_path, resume=True))
    assert again.name != run.name
    assert verify(run) == []


# --- many runs ------------------------------------------------------------------------------


def test_threads_that_start_together_all_publish(tmp_path: Path) -> None:
    barrier, made = threading.Barrier(10), []

    def one() -> None:
        barrier.wait()
        made.append(complete(writer(tmp_path)))

    threads = [threading.Thread(target=one) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.name for run in made}) == len(made) == 10
    assert [verify(run) for run in made] == [[]] * 10
    assert {run.name for run in list_runs(tmp_path, partial=True)} == {run.name for run in made}


def killing(mode: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, str(KILLING), mode], capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_processes_that_start_in_the_same_second_all_publish() -> None:
    found = killing("together")
    assert set(found["codes"]) == {0}
    stem = "20261120_143022_tiny"
    assert set(found["names"]) == {stem, *(f"{stem}_{number}" for number in range(2, 26))}
    assert found["problems"] == []
    assert found["writers"] == 9


# --- killed ---------------------------------------------------------------------------------


def test_killed_at_any_call_a_run_is_complete_or_can_be_resumed() -> None:
    found = killing("once")
    assert found["problems"] == {}
    assert found["kills"] > 80


def test_killed_again_while_resumed_it_can_still_be_resumed() -> None:
    found = killing("twice")
    assert found["problems"] == {}
    assert found["kills"] > 120


CHILD = """
'''A stage of one step.'''
import sys, time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from sdlms import cli
from sdlms.command import StageConfig, add_stage

@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    wait: Annotated[int, "Seconds."] = 0

def run(config, out):
    out.start({}, {})
    out.event("step")
    print("ready", flush=True)
    if not out.resumed:
        time.sleep(60)
    (out.path / "a.csv").write_text("x")
    out.output("a.csv")

add_stage(cli.app, "waiting", Config, run)
cli.main()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes a run through the command line and waits in the middle of it."""
    command = [sys.executable, "-c", CHILD, "waiting", "--artifacts", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def resume_child(artifacts: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CHILD, "waiting", "--artifacts", str(artifacts), "--resume"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_living_process_keeps_its_run_and_a_killed_one_leaves_it(
    tmp_path: Path, child: "subprocess.Popen[str]"
) -> None:
    (run,) = list_runs(tmp_path, partial=True)
    assert run.status == "writing"
    with pytest.raises(UserError, match="is being written"):
        remove(run)
    refused = resume_child(tmp_path)
    assert refused.returncode == 2
    assert "being written by another process" in refused.stderr
    child.kill()
    child.wait()
    assert run.status == "interrupted"
    resumed = resume_child(tmp_path)
    assert resumed.returncode == 0
    assert resumed.stdout.splitlines()[-1] == str(tmp_path / run.name)
    assert verify(Run(tmp_path / run.name)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_with_130_and_leaves_a_run_to_resume(
    tmp_path: Path, child: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    child.send_signal(number)
    printed, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert printed == ""
    assert "--resume" in said
    assert "Traceback" not in said
    (run,) = list_runs(tmp_path, partial=True)
    assert run.status == run.records[-1]["event"] == "interrupted"
    assert resume_child(tmp_path).returncode == 0
    events = [record["event"] for record in Run(tmp_path / run.name).records]
    assert events == ["start", "step", "interrupted", "resume", "step", "output", "log", "done"]


def test_while_it_is_published_a_run_belongs_to_its_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def look(folder: Path) -> None:
        make_read_only(folder)
        seen.append(Run(folder).status)
        with pytest.raises(UserError, match="being written"):
            remove(Run(folder))
        with pytest.raises(UserError, match="being written"):
            complete(writer(tmp_path, resume=True))

    monkeypatch.setattr(run_folder, "make_read_only", look)
    assert verify(complete(writer(tmp_path))) == []
    assert seen == ["writing"]


# --- resumed --------------------------------------------------------------------------------


def test_resume_takes_up_the_newest_run_that_matches(tmp_path: Path) -> None:
    older, newer = fail(writer(tmp_path, label="a")), fail(writer(tmp_path, label="b"))
    out = writer(tmp_path, {"layers": [1, 2], "seed": 0}, resume=True, label="c")
    run = complete(out, decided={"threads": 99, "new": 1})
    assert out.resumed
    assert run.name == newer.name
    assert older.path.is_dir()
    assert [r["event"] for r in run.records] == [
        "start",
        "failed",
        "resume",
        "output",
        "log",
        "done",
    ]


def test_resume_works_as_was_decided(tmp_path: Path) -> None:
    fail(writer(tmp_path))
    with writer(tmp_path, resume=True) as out:
        assert out.start({}, {"threads": 99, "new": 1}) == {"threads": 3, "new": 1}
        assert (out.path / "a.csv").read_text() == "x\n"


@pytest.mark.parametrize("differing", ["config", "input", "version", "stage"])
def test_resume_begins_anew_and_says_so_where_something_differs(
    tmp_path: Path,
    differing: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    earlier = fail(writer(tmp_path), resolved={"data": "one"})
    config = {**CONFIG, "seed": 1} if differing == "config" else CONFIG
    if differing == "version":
        monkeypatch.setattr(writing, "provenance", lambda: {"version": "other"})
    out = RunWriter(
        "other" if differing == "stage" else "tiny",
        config,
        RunOptions(artifacts=tmp_path, resume=True),
    )
    run = complete(out, resolved={"data": "two" if differing == "input" else "one"})
    assert not out.resumed
    assert run.name != earlier.name
    assert "starting anew" in caplog.text


def test_without_resume_an_unfinished_run_is_left_alone(tmp_path: Path) -> None:
    earlier = fail(writer(tmp_path))
    before = (earlier.path / META).read_bytes()
    assert complete(writer(tmp_path)).name != earlier.name
    assert (earlier.path / META).read_bytes() == before


def test_a_torn_line_and_torn_files_go_when_it_is_resumed(tmp_path: Path) -> None:
    earlier = fail(writer(tmp_path))
    with (earlier.path / META).open("ab") as meta:
        meta.write(b'{"event": "blo')
    (earlier.path / ".a.csv.partial").write_text("half")
    run = complete(writer(tmp_path, resume=True))
    assert run.name == earlier.name
    assert [r["path"] for r in run.all_of("output")] == ["a.csv"]
    assert verify(run) == []


def test_a_read_only_partial_run_is_resumed(tmp_path: Path) -> None:
    earlier = fail(writer(tmp_path))
    make_read_only(earlier.path)
    with writer(tmp_path, resume=True) as out:
        out.start({}, {})
        for path in [out.path, *out.path.rglob("*")]:
            assert path.stat().st_mode & 0o200  # asked of the mode, since root may write anyway
    assert verify(Run(out.path)) == []


def test_a_sealed_run_is_published_without_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(folder: Path) -> NoReturn:
        raise KeyboardInterrupt

    out = writer(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(writing, "publish", killed)
        complete(out)
    sealed = (out.path / META).read_bytes()
    assert Run(out.path).status == "interrupted"
    caplog.set_level("INFO", "sdlms")
    with writer(tmp_path, resume=True) as again:
        again.start({}, {})
        raise AssertionError("nothing is left to do")
    assert again.path.name == Run(out.path).name
    assert (again.path / META).read_bytes() == sealed
    assert verify(Run(again.path)) == []


def test_a_sealed_run_whose_files_changed_is_worked_on_again(tmp_path: Path) -> None:
    run = complete(writer(tmp_path))
    hidden = run.path.rename(tmp_path / hidden_name(run.name))
    (hidden / "a.csv").chmod(0o644)
    (hidden / "a.csv").write_text("changed\n")
    out = writer(tmp_path, resume=True)
    again = complete(out)
    assert out.resumed
    assert again.name == run.name
    assert verify(again) == []


# --- where it goes --------------------------------------------------------------------------


def test_an_artifacts_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write under .*is not a folder"):
        writer(tmp_path / "file")


def test_a_folder_that_turns_out_unwritable_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> NoReturn:
        raise OSError(28, "No space left on device")

    for module, name in ((writing, "OpenRun"), (writing, "acquire"), (writing, "reserve")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: refuse(tmp_path))
            out = writer(tmp_path)
            with pytest.raises(UserError, match=r"cannot write under .*No space left"), out:
                out.start({}, {})
    assert list(tmp_path.iterdir()) == []


def test_too_little_disk_names_both_sizes(tmp_path: Path) -> None:
    out = writer(tmp_path)
    out.check_disk(1000, "")
    with pytest.raises(UserError, match=r"needs 9450\.0 TB .* are free\. Do less\."):
        out.check_disk(9 * 10**15, "Do less.")


def test_what_a_partial_run_holds_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(writer(tmp_path))
    asked: list[int] = []
    monkeypatch.setattr(writing, "bytes_on_disk", lambda folder: 600)
    monkeypatch.setattr(writing, "check_room", lambda _, needed, __: asked.append(needed))
    out = writer(tmp_path, resume=True)
    with out:
        out.check_disk(1000, "")
        assert asked == []
        out.start({}, {})
    assert asked == [450]
    with writer(tmp_path, resume=True) as anew:
        anew.check_disk(1000, "")
        anew.start({}, {})
    assert asked == [450, 1050]


def test_an_error_outweighs_what_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: bytes) -> NoReturn:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="the reason"), writer(tmp_path) as out:
        out.start({}, {})
        monkeypatch.setattr(os, "write", full)
        raise RuntimeError("the reason")


def test_an_interrupt_while_hashing_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> NoReturn:
        raise KeyboardInterrupt

    out = writer(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(open_run, "remove_empty_folders", interrupted)
        complete(out)
    assert Run(out.path).records[-1]["event"] == "interrupted"
    again = writer(tmp_path, resume=True)
    assert verify(complete(again)) == []
    assert again.resumed
