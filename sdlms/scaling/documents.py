"""Which documents a run rests on, so that models are compared on the same text."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sdlms.errors import UserError
from sdlms.runs.meta import META
from sdlms.runs.reading import Run
from sdlms.storage.tables import read_table


class TaskDocument(NamedTuple):
    """A document of a task."""

    task: str
    id: str


def documents_of(run: Run) -> frozenset[TaskDocument] | None:
    """The documents that a run read, or the run that it read; None where that one is gone.

    Raises:
        UserError: the file that lists them cannot be read.
    """
    while True:
        recorded = {record["path"] for record in run.all_of("output")}
        for file, listed in LISTS.items():
            if file in recorded:
                return _read(run.path / file, listed)
        read = run.start["resolved"].get("acts")
        if not read or not (run.path.parent / read / META).is_file():
            return None
        run = Run(run.path.parent / read)


def texts_of(run: Run) -> dict[str, frozenset[str]] | None:
    """Of a run that read texts and lists no documents: task by task, what was read, by sha256.

    Which of them it drew is said by its settings. None where documents are listed, or were read by
    another run.
    """
    resolved, recorded = run.start["resolved"], {record["path"] for record in run.all_of("output")}
    if resolved.get("acts") or recorded & set(LISTS) or not resolved.get("data"):
        return None
    return {
        str(task["task"]): frozenset(
            [*task["sources"].values(), *(read["sha256"] for read in task["datasets"])]
        )
        for task in resolved["data"]
    }


def _read(path: Path, listed: Callable[[Path], list[TaskDocument]]) -> frozenset[TaskDocument]:
    """What a file lists."""
    try:
        return frozenset(listed(path))
    except (OSError, KeyError, UnicodeDecodeError):
        raise UserError(f"{path} is damaged. See: sdlms runs verify {path.parent.name}") from None


def _captured(path: Path) -> list[TaskDocument]:
    """Documents of `counts.h5`."""
    from sdlms.storage.counts import read_counts

    tasks, ids = (read_counts(path, f"/documents/{name}").tolist() for name in ("task", "id"))
    return [TaskDocument(task.decode(), id_.decode()) for task, id_ in zip(tasks, ids, strict=True)]


def _trained_on(path: Path) -> list[TaskDocument]:
    """Documents of `documents.csv`, learned from or held out."""
    return [TaskDocument(row["task"], row["document_id"]) for row in read_table(path)]


LISTS = {"counts.h5": _captured, "documents.csv": _trained_on}  # of a capture, of sae-train
