"""The real command line with one more stage, `small`, that takes no time; and pipelines of it.

python chain_program.py small --out latest
python chain_program.py pipeline --config steps.toml
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from sdlms import chain, cli
from sdlms.command import StageConfig, add_stage
from sdlms.errors import UserError
from sdlms.runs.reading import find_run
from sdlms.runs.writing import RunWriter
from sdlms.tools import pipeline

PROGRAM = (sys.executable, str(Path(__file__)))
END_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of a stage that takes no time."""

    reads: Annotated[tuple[str, ...], "Runs to read."] = ()
    until: Annotated[Path | None, "Wait in the middle until this file is there."] = None
    ends: Annotated[Literal["well", "user-error", "bug", "killed"], "How."] = "well"
    fix: Annotated[Path | None, "A file; where it is there, all ends well."] = None


def run(config: Config, out: RunWriter) -> None:
    """Write one file."""
    runs = [find_run(out.options.artifacts, name, "small") for name in config.reads]
    out.start({}, {})
    for each in runs:
        out.input(each)
    ends = time.monotonic() + END_SECONDS
    if config.until is not None:
        out.event("waiting")
        (out.scratch / "waiting").touch()
    while config.until is not None and not config.until.exists() and time.monotonic() < ends:
        time.sleep(0.01)
    if config.fix is None or not config.fix.exists():
        end(config.ends)
    (out.path / "table.csv").write_text(f"seed\n{config.seed}\n")
    out.output("table.csv", columns=["seed"])


def end(how: str) -> None:
    """End as it was asked for."""
    if how == "user-error":
        raise UserError("the disk is full. Make room.")
    if how == "bug":
        raise ValueError("a bug of ours")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    chain.PROGRAM = PROGRAM  # type: ignore[assignment]
    pipeline.RESULTS["small"] = "table.csv"
    app = cli.app
    app.registered_commands = [c for c in app.registered_commands if c.name != "pipeline"]
    add_stage(app, "small", Config, run)
    pipeline.add_pipeline(app, {"small": Config})
    cli.main()
