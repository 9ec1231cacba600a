"""Which documents, or tokens, belong to which class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        classes: `[n]` int64, index of each document's class; where tokens carry labels, of the
            one among them that fewest documents have: splits then have some of it on every side.
        tokens: for each document `[token]` int64 class or -1; None where documents carry labels.
        n_unmatched: rows of the table that name no document of the run.
    """

    documents: NDArray[np.int64]
    names: list[str]
    classes: NDArray[np.int64]
    tokens: list[NDArray[np.int64]] | None = None
    n_unmatched: int = 0

    @property
    def targets(self) -> list[tuple[str, int]]:
        """Name and class of each thing to tell apart: the second of two, or each of more."""
        everything = list(enumerate(self.names))
        chosen = everything[1:] if len(everything) == 2 else everything
        return [(name, index) for index, name in chosen]

    def readable(self, masks: Sequence[NDArray[np.bool_]]) -> "Labelled":
        """Without labels of tokens whose mask is 0, and without documents where nothing is left.

        Args:
            masks: of each document, `[token]`.
        """
        if self.tokens is None:
            kept = np.array([bool(mask.any()) for mask in masks], dtype=np.bool_)
            return replace(self, documents=self.documents[kept], classes=self.classes[kept])
        seen = [np.where(m, row, UNLABELLED) for m, row in zip(masks, self.tokens, strict=True)]
        kept = np.array([bool((row != UNLABELLED).any()) for row in seen], dtype=np.bool_)
        tokens = [row for row, is_kept in zip(seen, kept, strict=True) if is_kept]
        classes = rarest_classes(tokens, len(self.names))
        return replace(self, documents=self.documents[kept], classes=classes, tokens=tokens)

    def holding(self) -> NDArray[np.int64]:
        """`[class]` how many documents have it, on one token at least."""
        n_classes = len(self.names)
        counts: NDArray[np.int64] = (
            np.bincount(self.classes, minlength=n_classes)
            if self.tokens is None
            else _present(self.tokens, n_classes).sum(axis=0)
        )
        return counts


def labelled_by_task(tasks: Sequence[str]) -> Labelled:
    """Each document's task is its class.

    Raises:
        UserError: there is only one task.
    """
    names, classes = np.unique(np.array(tasks), return_inverse=True)
    _check_classes([str(name) for name in names], "Capture another task too, or name a table.")
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
    _check_classes(names, "Label some documents otherwise.")
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
    by_token = known[0].token is not None
    return Labelled(
        documents,
        names,
        classes=rarest_classes(tokens, len(names)),
        tokens=tokens if by_token else None,
        n_unmatched=len(labels) - len(known),
    )


def rarest_classes(tokens: Sequence[NDArray[np.int64]], n_classes: int) -> NDArray[np.int64]:
    """`[document]` the class of some of its tokens that fewest documents have.

    Args:
        tokens: of each document `[token]` int64 class or -1.
        n_classes: how many classes there are.
    """
    present = _present(tokens, n_classes)
    commonness = np.where(present, present.sum(axis=0), len(present) + 1)
    rarest: NDArray[np.int64] = commonness.argmin(axis=1)
    return rarest


def _present(tokens: Sequence[NDArray[np.int64]], n_classes: int) -> NDArray[np.bool_]:
    """`[document, class]` whether a document has a token of the class."""
    rows = [np.bincount(row[row != UNLABELLED], minlength=n_classes) > 0 for row in tokens]
    return np.array(rows, dtype=np.bool_).reshape(-1, n_classes)


def _check_classes(names: Sequence[str], remedy: str) -> None:
    """Refuse what a probe has nothing to tell apart in."""
    if len(names) < 2:
        raise UserError(
            f"--labels: all that is labelled is '{names[0]}'; two classes are needed. {remedy}"
        )
