"""How often units fire: in each document, at one or several thresholds, and on which tokens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.association import LEAST_JOINT
from sdlms.numerics.sparsity import column_counts
from sdlms.storage.activations import dataset_name
from sdlms.storage.firings import Firings, FiringsWriter, Layout
from sdlms.structure.captured import read_counts_of
from sdlms.structure.firing import DocumentCounts
from sdlms.structure.streaming import scan_documents
from sdlms.structure.subject import Subject
from sdlms.structure.thresholds import curve_thresholds

Thresholds = NDArray[np.float32]


def document_counts(subject: Subject, layer: int, thresholds: Thresholds) -> DocumentCounts:
    """Firings of each unit in each document of the subject.

    Args:
        subject: where a capture counted under the same rule, its counts are taken.
        layer: of its layers.
        thresholds: `[unit]`, of `thresholds_of`.

    Raises:
        UserError: the run is damaged.
    """
    if subject.counts is None:
        return counted(subject, layer, [thresholds])[0]
    stored = read_counts_of(subject.run, f"{dataset_name((subject.site, layer))}/counts")
    return _named(subject, stored[subject.documents.indices].astype(np.uint32))


def threshold_curve_counts(subject: Subject, layer: int) -> dict[str, DocumentCounts]:
    """The same at each threshold of the curve, in one pass over the tokens behind the estimate.

    Raises:
        UserError: the run is damaged.
        ValueError: it kept no activations.
    """
    curve = curve_thresholds(subject, layer)
    return dict(zip(curve, counted(subject, layer, list(curve.values())), strict=True))


def counted(subject: Subject, layer: int, thresholds: Sequence[Thresholds]) -> list[DocumentCounts]:
    """Counts at several thresholds, in one pass over the tokens.

    Args:
        subject: with activations by token.
        layer: of its layers.
        thresholds: `[unit]` each.

    Raises:
        UserError: the run is damaged.
        ValueError: it kept no activations.
    """
    n_documents = len(subject.documents.indices)
    counts = np.zeros((len(thresholds), n_documents, subject.n_units), dtype=np.uint32)

    def take(position: int, acts: Tensor) -> None:
        values = acts.float().numpy()
        for index, limits in enumerate(thresholds):
            counts[index, position] = column_counts(np.greater(values, limits))

    scan_documents(subject, layer, np.arange(n_documents), take)
    return [_named(subject, each) for each in counts]


def _named(subject: Subject, counts: NDArray[np.uint32]) -> DocumentCounts:
    """With what is known of the documents."""
    known = subject.documents
    return DocumentCounts(counts, known.n_tokens, known.tasks, known.task_names)


def graph_units(counts: DocumentCounts) -> NDArray[np.int64]:
    """`[unit]` those that can have an edge: they fire often enough, and not always."""
    totals = counts.task_counts.sum(axis=0)
    return np.flatnonzero((totals >= LEAST_JOINT) & (totals < counts.n_tokens.sum()))


def write_firings(
    subject: Subject, layer: int, thresholds: Thresholds, counts: DocumentCounts, path: Path
) -> Firings:
    """Write on which tokens units fire; what an earlier try has finished is taken as it is.

    Units that fire on fewer than 10 tokens, or on all of them, can have no edge and are left out.

    Args:
        subject: with activations by token.
        layer: of its layers.
        thresholds: `[unit]`, of `thresholds_of`.
        counts: of these.
        path: of the scratch file.

    Raises:
        UserError: the run or the scratch file is damaged, or the disk is full.
        ValueError: the run kept no activations.
    """
    if path.exists():
        return Firings(path)
    order, units = np.argsort(counts.tasks, kind="stable"), graph_units(counts)
    layout = Layout(
        units=units,
        offsets=np.concatenate([[0], np.cumsum(counts.n_tokens[order])]).astype(np.int64),
        task_bounds=np.concatenate([[0], np.cumsum(counts.task_documents)]).astype(np.int64),
        task_names=counts.task_names,
    )
    with FiringsWriter(path, layout) as writer:

        def take(_: int, acts: Tensor) -> None:
            firing = np.greater(acts.float().numpy(), thresholds)
            writer.append(np.take(firing, units, axis=1))  # four times as fast as firing[:, units]

        scan_documents(subject, layer, order, take)
    return Firings(path)
