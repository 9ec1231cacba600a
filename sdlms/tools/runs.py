"""List, show, verify and remove runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sdlms.progress import readable_bytes, readable_seconds
from sdlms.run_writer import RunOptions
from sdlms.runs import Run, find_run, list_runs, remove, verify

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
Artifacts = Annotated[
    Path, typer.Option(help="Folder that holds the runs.", envvar="SDLMS_ARTIFACTS")
]
Reference = Annotated[str, typer.Argument(help="A run's name or path, or 'latest'.")]
DEFAULT = RunOptions().artifacts


@app.command("list")
def list_command(artifacts: Artifacts = DEFAULT) -> None:
    """List all runs, unfinished ones too: name, status, size, time taken."""
    runs = list_runs(artifacts, partial=True)
    if not runs:
        typer.echo(f"no runs under {artifacts}/. Make one: sdlms capture", err=True)
    width = max((len(run.name) for run in runs), default=0)
    for run in runs:
        typer.echo(f"{run.name:<{width}}  {run.status:<11}  {_size(run):>8}  {_seconds(run)}")


def _size(run: Run) -> str:
    """What the run takes on disk."""
    return readable_bytes(sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file()))


def _seconds(run: Run) -> str:
    """What the run took; empty while it is unfinished."""
    return readable_seconds(run.records[-1]["seconds"]) if run.complete else ""


@app.command()
def show(
    run: Reference = "latest",
    artifacts: Artifacts = DEFAULT,
    json_lines: Annotated[bool, typer.Option("--json", help="Print meta.jsonl itself.")] = False,
) -> None:
    """Show where a run came from, what happened and what it holds."""
    found = find_any(artifacts, run)
    if json_lines:
        for record in found.records:
            typer.echo(json.dumps(record, ensure_ascii=False))
        return
    typer.echo(f"{found.path}  ({found.status})")
    for section in ("config", "resolved", "decided"):
        typer.echo(f"{section}:")
        for key, value in found.start.get(section, {}).items():
            typer.echo(f"  {key}: {json.dumps(value, ensure_ascii=False)}")
    for record in found.records[1:]:
        typer.echo(_record_line(record))


def _record_line(record: dict[str, object]) -> str:
    """One event in a line."""
    event = str(record["event"])
    if event in ("output", "log"):
        size = readable_bytes(float(str(record["bytes"])))
        return f"{event}: {record['path']}  {size}  sha256 {str(record['sha256'])[:16]}…"
    rest = {key: value for key, value in record.items() if key not in ("event", "time")}
    return f"{event}: {json.dumps(rest, ensure_ascii=False)}"


def find_any(artifacts: Path, reference: str) -> Run:
    """A complete run, or an unfinished one that is named in full."""
    for run in list_runs(artifacts, partial=True):
        if reference in (run.name, str(run.path)) and not run.complete:
            return run
    return find_run(artifacts, reference)


@app.command("verify")
def verify_command(run: Reference = "latest", artifacts: Artifacts = DEFAULT) -> None:
    """Compare every byte of a run with its meta.jsonl; exit 3 on any difference."""
    found = find_any(artifacts, run)
    differences = verify(found)
    for difference in differences:
        typer.echo(f"{found.name}: {difference}")
    if differences:
        raise typer.Exit(3)
    typer.echo(f"{found.name}: verified, {len(found.all_of('output'))} outputs unchanged")


@app.command("remove")
def remove_command(
    runs: Annotated[list[str], typer.Argument(help="Names or paths of runs.")],
    artifacts: Artifacts = DEFAULT,
) -> None:
    """Delete runs; refused while another run lists one as input."""
    for found in [find_any(artifacts, reference) for reference in runs]:
        remove(found)
        typer.echo(f"removed {found.name}")
