"""Small runs of a stage that does nothing, finished or not."""

import json
from pathlib import Path

import pytest

from sdlms.progress import LOGGER
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter


def make_run(
    artifacts: Path,
    stage: str = "tiny",
    *,
    label: str | None = None,
    inputs: tuple[Run, ...] = (),
) -> Run:
    with RunWriter(stage, {"seed": 0}, RunOptions(artifacts=artifacts, label=label)) as out:
        out.start({}, {})
        LOGGER.warning("a line in the log")
        for run in inputs:
            out.input(run)
        (out.path / "table.csv").write_text("x,y\n1,2\n")
        out.output("table.csv", columns=["x", "y"])
        (out.path / "below").mkdir()
        (out.path / "below/data.bin").write_bytes(bytes(range(256)))
        (out.path / "empty.bin").touch()
    return Run(out.path)


def make_partial(artifacts: Path, label: str | None = None) -> Run:
    out = RunWriter("tiny", {"seed": 0}, RunOptions(artifacts=artifacts, label=label))
    with pytest.raises(RuntimeError), out:
        out.start({}, {})
        raise RuntimeError("stop")
    return Run(out.path)


def lines_of(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.path / META).read_bytes().splitlines()]


def restart(run: Run, time: str) -> Run:
    """Give a run another start time (and break its seal)."""
    make_writable(run.path)
    lines = lines_of(run)
    lines[0]["time"] = time
    (run.path / META).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(run.path)
