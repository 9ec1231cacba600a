"""Which documents an autoencoder learns from, and on which it is measured."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.models.tokens import documents_within
from sdlms.numerics.splits import TEST, grouped_split

HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents by role, as indices, each ascending.

    Attributes:
        training: learned from.
        unused: neither: more than the tokens that were asked for.
        held_out: never learned from.
        measured: of the held-out ones, those on which everything is measured.
        scored: of these, those on which cross-entropy is.
    """

    training: NDArray[np.int64]
    unused: NDArray[np.int64]
    held_out: NDArray[np.int64]
    measured: NDArray[np.int64]
    scored: NDArray[np.int64]

    def splits(self) -> list[tuple[int, str]]:
        """Each document that has tokens, ascending, with `train`, `validation` or `unused`."""
        named = {"train": self.training, "validation": self.held_out, "unused": self.unused}
        return sorted((int(d), split) for split, documents in named.items() for d in documents)


class Budgets(NamedTuple):
    """Tokens of mask 1, in whole documents.

    Attributes:
        training: that are learned from; a twentieth more are read, for what no batch takes.
        measured: on which SAEs are measured.
        scored: of these, for cross-entropy; 0 chooses none.
    """

    training: int
    measured: int
    scored: int


def _documents_of(lengths: NDArray[np.int64], tokens: int, seed: int) -> NDArray[np.int64]:
    """A seeded choice of documents that hold `tokens` and a twentieth more, ascending; or all."""
    order = np.random.default_rng([seed, len(lengths)]).permutation(len(lengths))
    n_kept = np.searchsorted(np.cumsum(lengths[order]), tokens + tokens // 20) + 1
    return np.sort(order[:n_kept])


def documents_by_role(
    counts: NDArray[np.int64],
    tasks: Sequence[str],
    seed: int,
    budgets: Budgets,
    known: Collection[int] = (),
) -> Documents:
    """Hold back a fifth of each task's documents, and choose what is learned from and measured.

    Args:
        counts: `[document]` tokens of mask 1.
        tasks: of each document.
        seed: of the split and of every choice.
        budgets: how much of each.
        known: documents that what is measured has learned from elsewhere; none is measured on.

    Raises:
        UserError: too few documents have tokens, or all that are held out are known.
    """
    readable = np.flatnonzero(counts > 0)
    if len(readable) < 2:
        raise UserError(
            f"documents with tokens: {len(readable)}; at least two are needed, one to learn from "
            "and one to measure on. Read more of them."
        )
    names = np.array(list(tasks))[readable]
    roles = grouped_split(np.arange(len(readable)), names, seed, HELD_OUT_FRACTION, 0.0)
    held_out = readable[roles == TEST]
    if not len(held_out):  # every task has one document
        held_out = readable[-1:]
    others = np.setdiff1d(readable, held_out)
    training = others[_documents_of(counts[others], budgets.training, seed)]
    unknown = np.setdiff1d(held_out, np.array(sorted(known), dtype=np.int64))
    if not len(unknown):
        raise UserError(
            f"all {len(held_out)} documents that are held out were learned from by what is to be "
            "measured. Take the --seed that it was trained with, or other --acts."
        )
    measured = unknown[documents_within(counts[unknown], budgets.measured, seed)]
    scored = measured[:0]
    if budgets.scored:
        scored = measured[documents_within(counts[measured], budgets.scored, seed)]
    return Documents(training, np.setdiff1d(others, training), held_out, measured, scored)
