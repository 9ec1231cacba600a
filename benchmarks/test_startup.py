"""How long a first user waits: for help, against importing typer alone; for the main job."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Report, alternate
from benchmarks.workload import Size
from sdlms.runs.reading import list_runs, remove

RUNS_PER_ROUND = 3


def test_help_against_importing_typer(
    size: Size, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Both from compiled files, warm, in alternating child processes."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import typer": [sys.executable, "-c", "import typer"],
        "sdlms --help": [str(script()), "--help"],
        "sdlms capture --help": [str(script()), "capture", "--help"],
    }
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def call(command: list[str]) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def side(command: list[str]) -> Callable[[], None]:
        return lambda: [call(command) for _ in range(RUNS_PER_ROUND)] and None

    for command in commands.values():
        call(command)  # writes the compiled files
    assert "capture" in call(commands["sdlms --help"])
    assert "--max-tokens" in call(commands["sdlms capture --help"])
    rounds = alternate({name: side(found) for name, found in commands.items()}, 3 * size.rounds)
    report = Report("startup", facts={"starts_per_round": RUNS_PER_ROUND})
    for name, seconds in rounds.wall.items():
        report.figures[name] = [value / RUNS_PER_ROUND for value in seconds]
    for name in ("sdlms --help", "sdlms capture --help"):
        typer = report.figures["import typer"]
        report.add_ratio(f"{name} / import typer", report.figures[name], typer, "<= 4")
    publish(report)


def test_main_job(size: Size, tmp_path: Path, publish: Callable[[Report], None]) -> None:
    """What `make demo` runs after installing: the embedded model on its tasks, to disk."""
    few = [] if size.name == "full" else ["--max-tokens", "500"]
    artifacts = tmp_path / "artifacts"
    command = [str(script()), "capture", "--quiet", "--artifacts", str(artifacts), *few]
    seconds = []
    for _ in range(size.rounds):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
        (run,) = list_runs(artifacts)
        assert run.complete
        assert {r["path"] for r in run.all_of("output")} >= {"activations.h5", "sparsity.csv"}
        remove(run)
    report = Report("make demo, after installation", figures={"sdlms capture": seconds})
    report.add_ratio("seconds / 180", seconds, [180.0] * len(seconds), "<= 1")
    publish(report)


def script() -> Path:
    """The `sdlms` command of this environment."""
    found = Path(sys.executable).with_name("sdlms")
    assert found.exists(), f"{found}: install sdlms into this environment first"
    return found
