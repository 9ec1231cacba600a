"""Which documents an autoencoder learns from, and on which it is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        held_out: never learned from.
        measured: of the held-out ones, those on which everything is measured.
        scored: of these, those on which cross-entropy is.
    """

    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    measured: NDArray[np.int64]
    scored: NDArray[np.int64]

    def splits(self) -> list[tuple[int, str]]:
        """Each document that has a role, ascending, with `train` or `validation`."""
        named = [(int(document), "train") for document in self.training]
        return sorted(named + [(int(document), "validation") for document in self.held_out])


def documents_by_role(
    counts: NDArray[np.int64], tasks: Sequence[str], seed: int, eval_tokens: int, ce_tokens: int
) -> Documents:
    """Hold back a fifth of each task's documents, and choose those that are measured.

    Args:
        counts: `[document]` tokens of mask 1.
        tasks: of each document.
        seed: of the split and of the choice.
        eval_tokens: on which SAEs are measured, in whole documents.
        ce_tokens: of these, for cross-entropy; 0 chooses none.

    Raises:
        UserError: too few documents have tokens.
    """
    readable = np.flatnonzero(counts > 0)
    if len(readable) < 2:
        raise UserError(
            f"{len(readable)} documents have tokens; at least two are needed, one to learn from "
            "and one to measure on. Capture more."
        )
    names = np.array(list(tasks))[readable]
    roles = grouped_split(np.arange(len(readable)), names, seed, HELD_OUT_FRACTION, 0.0)
    held_out = readable[roles == TEST]
    if not len(held_out):  # every task has one document
        held_out = readable[-1:]
    training = np.setdiff1d(readable, held_out)
    measured = held_out[documents_within(counts[held_out], eval_tokens, seed)]
    scored = measured[documents_within(counts[measured], ce_tokens, seed)] if ce_tokens else []
    return Documents(training, held_out, measured, np.asarray(scored, dtype=np.int64))
