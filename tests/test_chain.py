"""Steps run as processes of their own: what passes between them, and how they end."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms import chain
from sdlms.chain import STOPS, Done, Step, StepFailedError, run_chain
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.runs.verifying import verify
from tests.chain_program import PROGRAM

REAL_PROGRAM = chain.PROGRAM
PIPELINE = """
[[step]]
stage = "small"
name = "first"
[[step]]
stage = "small"
name = "second"
reads = ["{first}"]
until = "go"
"""


@pytest.fixture(autouse=True)
def small_stage(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    monkeypatch.setattr(chain, "PROGRAM", PROGRAM)


def step(name: str, *flags: str) -> Step:
    return Step(name, "small", (f"--seed={len(name)}", *flags))


def done(*steps: Step, artifacts: str = "artifacts") -> list[Done]:
    return list(run_chain(steps, Path(artifacts)))


def how(*steps: Step) -> list[str]:
    return [each.how for each in done(*steps)]


def in_state(status: str) -> Run:
    """The run of the step that waits, as soon as it is of that state."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        for run in list_runs(Path("artifacts"), partial=True):
            waits = (run.path / ".scratch/waiting").exists() or run.complete
            if waits and run.all_of("waiting") and run.status == status:
                return run
        time.sleep(0.01)
    raise AssertionError(f"no run is {status}")


# --- names of runs ---------------------------------------------------------------------------


def test_a_reference_is_the_run_of_that_step_or_its_path() -> None:
    runs = {"a": Path("my runs/1_a"), "b-2": Path("my runs/2_b")}
    reading = step("c", "--reads={a},{b-2}", "--fix={b-2}/table.csv")
    assert reading.reads == ["a", "b-2"]
    words = reading.command(runs)
    assert words == ["small", "--seed=1", "--reads=1_a,2_b", "--fix=my runs/2_b/table.csv"]
    assert reading.command({})[2:] == list(reading.arguments[1:])


@given(st.text())
def test_doubled_braces_are_braces_and_name_no_step(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    written = Step("a", "small", (doubled,))
    assert written.reads == []
    assert written.command({"x": Path("x")}) == ["small", text]


# --- what is done, and done again ------------------------------------------------------------


def test_steps_read_the_runs_before_them_and_are_done_once() -> None:
    steps = [step("a"), step("bb", "--reads={a}"), step("ccc", "--reads={bb},{a}")]
    first = done(*steps)
    assert [each.how for each in first] == ["made"] * 3
    a, b, c = (each.run for each in first)
    assert [record["run"] for record in c.all_of("input")] == [b.name, a.name]
    assert b.start["config"]["reads"] == [a.name]
    assert [verify(run) for run in (a, b, c)] == [[], [], []]
    again = done(*steps)
    assert [each.how for each in again] == ["reused"] * 3
    assert [each.run for each in again] == [a, b, c]
    remove(c)
    assert how(*steps) == ["reused", "reused", "made"]


def test_without_the_run_that_was_read_what_read_it_is_made_anew() -> None:
    steps = [step("a"), step("bb", "--reads={a}")]
    a, b = (each.run for each in done(*steps))
    a.path.rename("elsewhere")  # as no `runs remove` would
    again = done(*steps)
    assert [each.how for each in again] == ["made", "made"]
    assert again[1].run.path != b.path


def test_a_run_that_goes_between_two_steps_is_the_next_ones_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    running = run_chain([step("a"), step("bb", "--reads={a}")], Path("artifacts"))
    remove(next(running).run)
    with pytest.raises(StepFailedError) as failed:
        next(running)
    assert (failed.value.step.name, failed.value.code) == ("bb", 2)
    assert "sdlms: no run '" in capfd.readouterr().err


def test_any_folder_will_do_and_what_lies_about_is_not_imported(work: Path) -> None:
    (work / "sdlms").mkdir()
    (work / "random.py").write_text("raise ImportError('not this one')\n")
    folder = "meine Läufe, 研究 {x}"
    first, second = done(step("a"), step("bb", "--reads={a}"), artifacts=folder)
    assert second.run.path.parent == Path(folder)
    assert [record["run"] for record in second.run.all_of("input")] == [first.run.name]
    result = subprocess.run([*REAL_PROGRAM, "--version"], capture_output=True, check=False)
    assert result.stdout.startswith(b"sdlms ")


# --- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("user-error", 2, "sdlms: the disk is full. Make room.\n"),
        ("bug", 1, "ValueError: a bug of ours\n"),
        ("killed", -signal.SIGKILL, ""),
    ],
)
def test_a_step_that_fails_ends_the_chain_which_goes_on_from_there(
    ends: str, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = step("bb", "--reads={a}", f"--ends={ends}", "--fix=mended")
    steps = [step("a"), failing, step("ccc")]
    with pytest.raises(StepFailedError, match=r"step bb \(small\)") as failed:
        done(*steps)
    assert (failed.value.step, failed.value.code) == (failing, code)
    assert capfd.readouterr().err.endswith(said)
    Path("mended").touch()
    assert how(*steps) == ["reused", "resumed", "made"]


# --- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOPS)
def test_what_asks_for_an_end_reaches_the_step_once(number: signal.Signals) -> None:
    def stop() -> None:
        in_state("writing")
        os.kill(os.getpid(), number)

    before = [signal.getsignal(each) for each in STOPS]
    thread = threading.Thread(target=stop)
    thread.start()
    steps = [step("a", "--until=go"), step("bb")]
    with pytest.raises(KeyboardInterrupt):
        done(*steps)
    thread.join()
    assert [signal.getsignal(each) for each in STOPS] == before
    (run,) = list_runs(Path("artifacts"), partial=True)
    assert [record["event"] for record in run.records] == ["start", "waiting", "interrupted"]
    Path("go").touch()
    assert how(*steps) == ["resumed", "made"]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGHUP)).start()
        assert how(step("a")) == ["made"]
    finally:
        signal.signal(signal.SIGHUP, before)


Pipeline = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def pipeline(work: Path) -> Iterator[Pipeline]:
    """Starts `sdlms pipeline` on two steps, the second of which waits for the file `go`."""
    (work / "steps.toml").write_text(PIPELINE)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        command = [*PROGRAM, "pipeline", "--config", "steps.toml"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, process_group=0, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield start
    (work / "go").touch()
    for process in started:
        process.kill()
        process.communicate()


def test_ctrl_c_at_the_terminal(pipeline: Pipeline) -> None:
    process = pipeline()
    in_state("writing")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(printed.splitlines()) == 1
    assert said.endswith(b"interrupted in step second; the same command goes on from there\n")
    assert b"Traceback" not in said
    assert in_state("interrupted").all_of("interrupted")
    Path("go").touch()
    assert pipeline().wait(timeout=60) == 0


def test_killed_the_pipeline_leaves_its_step_which_ends_by_itself(pipeline: Pipeline) -> None:
    process = pipeline()
    orphan = in_state("writing")
    process.kill()
    process.wait()
    _, said = (second := pipeline()).communicate(timeout=60)
    assert second.returncode == 2
    assert f"{orphan.name} is being written by another process; let it finish" in said.decode()
    Path("go").touch()
    assert in_state("complete").name == orphan.name
    printed, _ = pipeline().communicate(timeout=60)
    assert printed.splitlines()[-1] == f"artifacts/{orphan.name}".encode()


def test_two_at_once_leave_each_other_alone(pipeline: Pipeline) -> None:
    both = [pipeline(), pipeline()]
    in_state("writing")
    Path("go").touch()
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
    for said, code in ended:
        assert code == 0 or (code == 2 and b"is being written by another process" in said)
    assert 0 in [code for _, code in ended]
    runs = list_runs(Path("artifacts"), partial=True)
    assert [(run.status, verify(run)) for run in runs] == [("complete", [])] * len(runs)
    again = pipeline()
    printed, _ = again.communicate(timeout=60)
    assert again.returncode == 0
    assert len(printed.splitlines()) == 2
    assert len(list_runs(Path("artifacts"))) == len(runs)
