"""Which rows of activations belong to which document."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Which rows belong to which document; the same in every file of a run.

    Attributes:
        ids: `[token]` int32.
        mask: `[token]` uint8, 1 where statistics read.
        offsets: `[document + 1]` int64.
        document_ids: sha256 prefix of each document's text.
        document_tasks: each document's task.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    document_ids: list[str]
    document_tasks: list[str]

    @property
    def n_tokens(self) -> int:
        """Rows in all."""
        return len(self.ids)

    @property
    def n_documents(self) -> int:
        """Documents in all."""
        return len(self.document_ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """`[document]` tokens of each document."""
        return np.diff(self.offsets)

    def subset(self, documents: list[int]) -> "Rows":
        """The rows of some documents, in that order."""
        pieces = [slice(self.offsets[d], self.offsets[d + 1]) for d in documents]
        return Rows(
            ids=np.concatenate([self.ids[piece] for piece in pieces]),
            mask=np.concatenate([self.mask[piece] for piece in pieces]),
            offsets=np.concatenate([[0], np.cumsum(self.lengths[documents])]).astype(np.int64),
            document_ids=[self.document_ids[d] for d in documents],
            document_tasks=[self.document_tasks[d] for d in documents],
        )


def document_blocks(offsets: NDArray[np.int64], block_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut documents into runs `(first, last)` of at most `block_tokens` rows, at least one each."""
    first = 0
    n_documents = len(offsets) - 1
    while first < n_documents:
        limit = offsets[first] + block_tokens
        last = int(np.searchsorted(offsets, limit, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
