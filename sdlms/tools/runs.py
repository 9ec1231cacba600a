"""List, show, verify and remove runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sdlms.errors import UserError
from sdlms.progress import readable_bytes, readable_seconds
from sdlms.runs.folder import bytes_on_disk, has_meta
from sdlms.runs.meta import META, Record
from sdlms.runs.reading import Run, find_any, list_runs, removable, remove
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
Artifacts = Annotated[
    Path, typer.Option(help="Folder that holds the runs.", envvar="SDLMS_ARTIFACTS")
]
Reference = Annotated[str, typer.Argument(help="A run's name or path, or 'latest'.")]
DEFAULT = RunOptions().artifacts
LINE_WIDTH = 200


@app.command("list")
def list_command(artifacts: Artifacts = DEFAULT) -> None:
    """List all runs, unfinished ones too, with status, size and time."""
    runs = list_runs(artifacts, partial=True)
    if not runs:
        typer.echo(f"no runs under {artifacts}/. Make one: sdlms capture", err=True)
    width = max((len(run.name) for run in runs), default=0)
    for run in runs:
        size = readable_bytes(bytes_on_disk(run.path))
        typer.echo(f"{run.name:<{width}}  {run.status:<11}  {size:>8}  {_took(run)}".rstrip())


def _took(run: Run) -> str:
    """What the run took; empty while it is unfinished."""
    seconds = run.records[-1].get("seconds") if run.complete else None
    return readable_seconds(seconds) if isinstance(seconds, int | float) else ""


@app.command()
def show(
    run: Reference = "latest",
    artifacts: Artifacts = DEFAULT,
    json_lines: Annotated[bool, typer.Option("--json", help="Print meta.jsonl itself.")] = False,
) -> None:
    """Show where a run came from, what happened and what it holds."""
    found = find_any(artifacts, run)
    if not has_meta(found.path):
        raise UserError(f"{found.path} holds no {META}, so there is nothing to show.")
    if json_lines:
        for record in found.records:
            typer.echo(json.dumps(record, ensure_ascii=False))
        return
    typer.echo(f"{found.path}  ({found.status})")
    for record in found.records:
        if record["event"] == "start":
            _show_start(record)
        else:
            typer.echo(_shortened(_record_line(record)))


def _show_start(start: Record) -> None:
    """Every field of the `start` record; one that holds fields itself is a section."""
    for name, value in start.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, inner in value.items():
                typer.echo(_shortened(f"  {key}: {json.dumps(inner, ensure_ascii=False)}"))
        elif name != "event":
            typer.echo(_shortened(f"{name}: {json.dumps(value, ensure_ascii=False)}"))


def _record_line(record: Record) -> str:
    """One event in a line."""
    event = record["event"]
    if event in ("output", "log") and {"path", "bytes", "sha256"} <= set(record):
        size = readable_bytes(record["bytes"])
        columns = f"  columns {', '.join(record['columns'])}" if "columns" in record else ""
        return f"{event}: {record['path']}  {size}  sha256 {record['sha256'][:16]}…{columns}"
    rest = {key: value for key, value in record.items() if key != "event"}
    return f"{event}: {json.dumps(rest, ensure_ascii=False)}"


def _shortened(line: str) -> str:
    """At most `LINE_WIDTH` characters; `--json` has the rest."""
    return line if len(line) <= LINE_WIDTH else f"{line[: LINE_WIDTH - 1]}…"


@app.command("verify")
def verify_command(run: Reference = "latest", artifacts: Artifacts = DEFAULT) -> None:
    """Check every byte against meta.jsonl; exit 3 on a difference."""
    found = find_any(artifacts, run)
    differences = verify(found)
    for difference in differences:
        typer.echo(f"{found.name}: {difference}")
    if differences:
        raise typer.Exit(3)
    typer.echo(f"{found.name}: verified; outputs unchanged: {len(found.all_of('output'))}")


@app.command("remove")
def remove_command(
    runs: Annotated[list[str], typer.Argument(help="Names or paths of runs.")],
    artifacts: Artifacts = DEFAULT,
) -> None:
    """Delete runs; refused while another run lists one as input."""
    for found in removable([find_any(artifacts, reference) for reference in runs]):
        remove(found)
        typer.echo(f"removed {found.name}")
