"""The documents of a run that statistics read: their tasks, and how many tokens they have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdlms.acts.description import whole
from sdlms.acts.file_source import FileSource
from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.structure.captured import read_counts_of
from sdlms.structure.firing import ALL


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a run that have tokens of mask 1.

    Attributes:
        indices: `[document]` int64, which of the run's.
        ids: of each.
        n_tokens: `[document]` int64 > 0, tokens of mask 1.
        tasks: `[document]` int64, indices into `task_names`.
        task_names: in the order of their first document.
    """

    indices: NDArray[np.int64]
    ids: tuple[str, ...]
    n_tokens: NDArray[np.int64]
    tasks: NDArray[np.int64]
    task_names: tuple[str, ...]

    def by_task(self) -> dict[str, int]:
        """Documents of each task."""
        numbers = np.bincount(self.tasks, minlength=len(self.task_names))
        return dict(zip(self.task_names, numbers.tolist(), strict=True))

    def tokens_by_task(self) -> dict[str, int]:
        """Tokens of each task."""
        numbers = np.zeros(len(self.task_names), dtype=np.int64)
        np.add.at(numbers, self.tasks, self.n_tokens)
        return dict(zip(self.task_names, numbers.tolist(), strict=True))


def documents_of(run: Run, source: FileSource | None) -> Documents:
    """The documents that count, in the order of the run.

    Args:
        run: a capture where there is no source.
        source: the run's activations by token; None where it kept none.

    Raises:
        UserError: none of them has a task, a task has the name of the row of all tasks, or none
            has a token of mask 1.
    """
    ids, tasks, n_tokens = _counted(run) if source is None else _described(source)
    if not any(tasks):
        raise UserError(f"{run.name} says of no document which task it belongs to. Capture anew.")
    if ALL in tasks:
        raise UserError(
            f"{run.name} has a task '{ALL}', which is the name of the row of all tasks here. "
            "Rename it in the manifest, and capture anew."
        )
    indices = np.flatnonzero(n_tokens > 0)
    if not len(indices):
        raise UserError(f"{run.name}: every token is special or skipped. Lower --skip-first.")
    named = [tasks[i] for i in indices.tolist()]
    task_names = tuple(dict.fromkeys(named))
    number = {name: index for index, name in enumerate(task_names)}
    return Documents(
        indices=indices,
        ids=tuple(ids[i] for i in indices.tolist()),
        n_tokens=n_tokens[indices],
        tasks=np.array([number[name] for name in named], dtype=np.int64),
        task_names=task_names,
    )


def _described(source: FileSource) -> tuple[Sequence[str], Sequence[str], NDArray[np.int64]]:
    """Ids, tasks and tokens of all documents; reads their mask."""
    known = source.description
    everything = whole(known, np.arange(known.n_documents))
    running = np.concatenate([[0], np.cumsum(source.mask(everything), dtype=np.int64)])
    return known.document_ids, known.document_tasks, np.diff(running[everything.offsets])


def _counted(run: Run) -> tuple[Sequence[str], Sequence[str], NDArray[np.int64]]:
    """The same from `counts.h5`."""
    ids, tasks = (read_counts_of(run, f"/documents/{name}").tolist() for name in ("id", "task"))
    n_tokens = read_counts_of(run, "/documents/n_tokens").astype(np.int64)
    return [i.decode() for i in ids], [task.decode() for task in tasks], n_tokens
