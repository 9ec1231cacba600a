"""Find the runs that a notebook shows: the newest of a stage, and those to be set beside it."""

import os
from collections.abc import Callable
from pathlib import Path

from sdlms.figures.panels import MOST_BESIDE
from sdlms.runs.folder import has_meta
from sdlms.runs.reading import Run, find_run, list_runs
from sdlms.storage.tables import read_table

LATEST = "latest"
Wish = Callable[[Run], bool]


def holds(file: str, **cells: str) -> Wish:
    """Whether a run holds a file and, where cells are named, a row that has them.

    Args:
        file: its name.
        cells: of a table, by column.
    """

    def is_held(run: Run) -> bool:
        path = run.path / file
        if not cells or not path.is_file():
            return path.is_file()
        return any(cells.items() <= row.items() for row in read_table(path))

    return is_held


def artifacts_folder() -> Path:
    """Where runs lie: `SDLMS_ARTIFACTS`, or `artifacts` here or in the folder above.

    A notebook runs in its own folder, so what is relative is looked for in both.
    """
    named = Path(os.environ.get("SDLMS_ARTIFACTS") or "artifacts")
    here, above = named, Path("..") / named
    return here if named.is_absolute() or here.is_dir() else above


def chosen_run(artifacts: Path, reference: str, stage: str, *wishes: Wish) -> Run:
    """The run of a stage that a name, a path or `latest` means.

    Of several, `latest` is the newest that is of the model itself, not of a control, and of
    these the newest for which most wishes come true.

    Args:
        artifacts: the folder that holds the runs.
        reference: as `sdlms runs list` names it, or `latest`.
        stage: whose runs are wanted.
        wishes: what not every run of the stage has.

    Raises:
        UserError: there is no such run; the message names the command that makes one.
    """
    run = find_run(artifacts, reference, stage)
    if reference != LATEST:
        return run
    own = [other for other in _complete(artifacts, stage) if _control(other) == "none"] or [run]
    # Of equals `max` takes the first.
    return max(reversed(own), key=lambda other: sum(wish(other) for wish in wishes))


def runs_beside(artifacts: Path, run: Run, *needs: Wish) -> list[Run]:
    """The run and the newest of the same stage of other models, the smallest model first.

    Only runs on the same texts stand beside each other, and as many as fit into a picture: the
    newest.

    Args:
        artifacts: the folder that holds the runs.
        run: of a stage that looks at one model.
        needs: what all must have that stand beside it: what is drawn of them.
    """
    found = {_model(run): run}
    for other in reversed(_complete(artifacts, run.stage)):
        alike = _control(other) == _control(run) and _texts(other) == _texts(run)
        if alike and all(need(other) for need in needs):
            found.setdefault(_model(other), other)
    return sorted(list(found.values())[:MOST_BESIDE], key=_size)


def reader_of(artifacts: Path, run: Run, stage: str) -> Run | None:
    """The newest complete run of a stage that has read this run and the same control, if any."""
    readers = [
        other
        for other in _complete(artifacts, stage)
        if any(record.get("run") == run.name for record in other.all_of("input"))
    ]
    return next((other for other in reversed(readers) if _control(other) == _control(run)), None)


def _complete(artifacts: Path, stage: str) -> list[Run]:
    """Complete runs of a stage, oldest first."""
    return [run for run in list_runs(artifacts) if run.complete and run.stage == stage]


def _control(run: Run) -> str:
    """What was done to the model or its texts; `none` where nothing was."""
    return str(run.start["resolved"].get("control") or "none")


def _model(run: Run) -> tuple[str, str]:
    """What tells models apart."""
    model = run.start["resolved"]["model"]
    return str(model["name"]), str(model["revision"])


def _size(run: Run) -> int:
    """Parameters of the model."""
    return int(run.start["resolved"]["model"]["n_parameters"])


def _texts(run: Run) -> object:
    """What says on which texts a run looked, at which units, and when these fire."""
    resolved = run.start["resolved"]
    units = [resolved.get(key) for key in ("tasks", "site", "kind", "threshold")]
    return _documents(run), units


def _documents(run: Run) -> object:
    """What says which documents a run read, or the run that it read."""
    resolved, config = run.start["resolved"], run.start["config"]
    if not (read := resolved.get("acts")):
        data = [
            (
                *(task["task"], task["sources"], task.get("n_captured")),
                *(each["sha256"] for each in task.get("datasets", [])),
            )
            for task in resolved.get("data", [])
        ]
        return data, [config.get(key) for key in ("max_tokens", "skip_first", "seed")]
    # Where that run is gone, its name is all that is known of what it read.
    captured = run.path.parent / read
    return _documents(Run(captured)) if has_meta(captured) else read
