"""Run stages after one another, as a TOML file names them; what is complete is not done again.

Prints the path of each step's run. A step that fails ends the pipeline with its error; the same
command goes on from there.
"""

import inspect
import os
import shlex
import signal
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sdlms.chain import Done, Step, StepFailedError, run_chain
from sdlms.errors import UserError, did_you_mean
from sdlms.progress import LOGGER, readable_seconds, set_up_logging
from sdlms.runs.writing import RunOptions
from sdlms.storage.assets import asset_folder
from sdlms.tools.pipeline_file import read_pipeline

# The file of a stage's run to look into first.
RESULTS = {
    "capture": "sparsity.csv",
    "sae-train": "sae.csv",
    "sae-latents": "sae_latents.csv",
    "sae-evaluate": "sae.csv",
    "probe": "probe.csv",
    "si-modularity": "si_modularity.csv",
    "dynamic-k": "dynamic_k.csv",
    "logit-lens": "logit_lens.csv",
    "scaling": "trends.csv",
    "report": "report.html",
}
DEFAULT = RunOptions().artifacts
GOES_ON = "the same command goes on from there"


def add_pipeline(app: typer.Typer, configs: Mapping[str, type]) -> None:
    """Add the command.

    Args:
        app: gets it.
        configs: the settings of every stage, by its name.
    """

    def command(
        config: Annotated[Path | None, typer.Option(help="TOML file that names the steps.")] = None,
        artifacts: Annotated[
            Path, typer.Option(help="Folder that holds the runs.", envvar="SDLMS_ARTIFACTS")
        ] = DEFAULT,
        only: Annotated[
            str | None,
            typer.Option(metavar="<a,b,...>", help="These steps alone, and those they read."),
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Check the file, print the commands, do nothing.")
        ] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details too.")] = False,
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help="Log warnings only; show no progress.")
        ] = False,
    ) -> None:
        set_up_logging(verbose=verbose, quiet=quiet)
        if config is None:
            demo = asset_folder("configs") / "pipeline" / "demo.toml"
            raise UserError(f"--config names no file of steps. One comes with sdlms: {demo}")
        steps = read_pipeline(config, configs)
        if only is not None:
            steps = _with_what_they_read(steps, [word.strip() for word in only.split(",")])
        if dry_run:
            for step in steps:
                typer.echo(shlex.join(["sdlms", *step.command({})]))
            return
        talk = [flag for flag, given in (("-v", verbose), ("-q", quiet)) if given]
        _carry_out(steps, artifacts, talk)

    text = inspect.cleandoc(__doc__ or "")
    app.command("pipeline", help=text, short_help=text.partition("\n")[0])(command)


def _with_what_they_read(steps: Sequence[Step], names: Collection[str]) -> list[Step]:
    """The named steps and all that they need, in order."""
    known = {step.name: step for step in steps}
    for name in names:
        if name not in known:
            raise UserError(f"--only: there is no step '{name}'.{did_you_mean(name, known)}")
    wanted = set(names)
    for step in reversed(steps):
        if step.name in wanted:
            wanted.update(step.reads)
    return [step for step in steps if step.name in wanted]


def _carry_out(steps: Sequence[Step], artifacts: Path, talk: Sequence[str]) -> None:
    """Do the steps; say what was done, and where a failure leaves things."""
    finished: list[Done] = []
    try:
        for done in run_chain(steps, artifacts, talk):
            finished.append(done)
            typer.echo(os.fsencode(done.run.path))
    except StepFailedError as failed:
        _say_failed(failed)
    except KeyboardInterrupt:
        in_work = steps[min(len(finished), len(steps) - 1)]
        LOGGER.warning(f"interrupted in step {in_work.name}; {GOES_ON}")
        raise typer.Exit(130) from None
    for line in _table(finished):
        LOGGER.info(line)


def _say_failed(failed: StepFailedError) -> None:
    """Say which step failed, and exit as it did; what was wrong it has said itself."""
    step = f"step {failed.step.described}"
    if failed.code < 0:
        name = signal.Signals(-failed.code).name
        why = ": out of memory?" if -failed.code == signal.SIGKILL else ""
        raise UserError(f"{step} was ended by {name}{why}; {GOES_ON}")
    LOGGER.error(f"{step} failed; {GOES_ON}")
    raise typer.Exit(failed.code)


def _table(finished: Sequence[Done]) -> list[str]:
    """A line per step: its name, how it came about, what it took, the file to look into."""
    rows = [("step", "run", "took", "result")]
    for done in finished:
        file = done.run.path / RESULTS[done.step.stage]
        rows.append((done.step.name, done.how, readable_seconds(done.seconds), str(file)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, how, took, result in rows:
        lines.append(f"{name:<{widths[0]}}  {how:<{widths[1]}}  {took:>{widths[2]}}  {result}")
    return lines
