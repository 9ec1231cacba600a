"""Which documents, or tokens, belong to which class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.storage.labels import Label

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Labelled:
    """The documents that carry labels.

    Attributes:
        documents: `[n]` int64, indices into those of the activations, ascending.
        names: of the classes, sorted.
        classes: `[n]` int64, index of each document's class; of the most frequent one where
            tokens carry labels.
        tokens: for each document `[token]` int64 class or -1; None where documents carry labels.
    """

    documents: NDArray[np.int64]
    names: list[str]
    classes: NDArray[np.int64]
    tokens: list[NDArray[np.int64]] | None = None

    @property
    def targets(self) -> list[tuple[str, int]]:
        """Name and class of each thing to tell apart: the second of two, or each of more."""
        everything = list(enumerate(self.names))
        chosen = everything[1:] if len(everything) == 2 else everything
        return [(name, index) for index, name in chosen]

    def subset(self, kept: NDArray[np.bool_]) -> "Labelled":
        """Some of the documents, classes as they were."""
        indices = np.flatnonzero(kept)
        tokens = None if self.tokens is None else [self.tokens[i] for i in indices]
        return Labelled(self.documents[indices], self.names, self.classes[indices], tokens)


def labelled_by_task(tasks: Sequence[str]) -> Labelled:
    """Each document's task is its class.

    Raises:
        UserError: there is only one task.
    """
    names, classes = np.unique(np.array(tasks), return_inverse=True)
    _check_classes([str(name) for name in names])
    return Labelled(
        np.arange(len(tasks), dtype=np.int64),
        [str(name) for name in names],
        classes.astype(np.int64),
    )


def labelled_by_table(
    labels: Sequence[Label], document_ids: Sequence[str], lengths: NDArray[np.int64]
) -> Labelled:
    """Join labels with documents by id; documents without any are left out.

    Args:
        labels: of documents, or of single tokens.
        document_ids: of the activations.
        lengths: `[document]` tokens of each, special ones too.

    Raises:
        UserError: no label belongs to a document, there is one class only, or a token lies behind
            its document's end.
    """
    index = {name: i for i, name in enumerate(document_ids)}
    known = [item for item in labels if item.document_id in index]
    if not known:
        raise UserError(
            f"--labels: none of its {len(labels):,} rows matches a document of the run; "
            f"its ids look like '{labels[0].document_id}', the run's like '{document_ids[0]}'."
        )
    names = sorted({item.label for item in known})
    _check_classes(names)
    by_name = {name: i for i, name in enumerate(names)}
    documents = np.array(sorted({index[item.document_id] for item in known}), dtype=np.int64)
    place = {int(document): i for i, document in enumerate(documents)}
    tokens = [np.full(lengths[d], UNLABELLED, dtype=np.int64) for d in documents]
    for item in known:
        document = place[index[item.document_id]]
        if item.token is None:
            tokens[document][:] = by_name[item.label]
        elif item.token < len(tokens[document]):
            tokens[document][item.token] = by_name[item.label]
        else:
            raise UserError(
                f"--labels: document {item.document_id} has {len(tokens[document])} tokens, "
                f"there is no token {item.token}."
            )
    classes = np.array([_majority(row) for row in tokens], dtype=np.int64)
    return Labelled(documents, names, classes, None if known[0].token is None else tokens)


def _majority(classes: NDArray[np.int64]) -> int:
    """The most frequent class; of equally many the one that comes first."""
    return int(Counter(classes[classes != UNLABELLED].tolist()).most_common(1)[0][0])


def _check_classes(names: Sequence[str]) -> None:
    """Refuse what a probe has nothing to tell apart in."""
    if len(names) < 2:
        raise UserError(
            f"--labels: every document belongs to '{names[0]}'; two classes are needed."
        )
