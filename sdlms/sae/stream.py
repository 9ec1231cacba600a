"""Batches of tokens for training, the same ones for every layer, in a seeded order.

Documents are shuffled and cut into chapters that fit the memory; a chapter is read (or computed by
the model) whole, its tokens of mask 1 are shuffled, and cut into batches. What is left of a chapter
behind its last whole batch is left out; another pass over the documents shuffles anew. Any step can
be gone to without reading what comes before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.flattening import token_counts, token_rows
from sdlms.acts.handle import Acts
from sdlms.errors import UserError

LEAST_ROWS = 1 << 16  # of a chapter: what its last batch leaves over is little
CHAPTER_BYTES = 1 << 30  # of all layers, in the stored type


@dataclass(frozen=True)
class Chapter:
    """Documents that are in memory together.

    Attributes:
        documents: `[n]` int64, in seeded order.
        n_rows: their tokens of mask 1.
        seed: of the order of these tokens.
    """

    documents: NDArray[np.int64]
    n_rows: int
    seed: tuple[int, ...]


class TokenStream:
    """Endless batches of some documents."""

    def __init__(
        self, acts: Acts, batch_size: int, seed: int, chapter_bytes: int = CHAPTER_BYTES
    ) -> None:
        """Count tokens; read nothing else.

        Args:
            acts: of the training documents, with tokens; every layer that is trained on.
            batch_size: tokens in a batch.
            seed: of every order.
            chapter_bytes: activations in memory; but 65,536 tokens, four batches, or a single
                document may be more.

        Raises:
            UserError: there are fewer tokens than a batch takes.
        """
        self._acts, self.batch_size, self._seed = acts, batch_size, seed
        self._counts = token_counts(acts)
        self.n_tokens = int(self._counts.sum())
        check_enough(self.n_tokens, batch_size)
        self._chapter_rows = max(4 * batch_size, rows_within(acts, chapter_bytes))
        self._held: tuple[Chapter, Tensor] | None = None

    def chapters(self, n_pass: int) -> list[Chapter]:
        """What one pass over the documents reads, chapter by chapter."""
        return chapters_of(self._counts, self._chapter_rows, self._seed, n_pass)

    def read(self, chapter: Chapter) -> Tensor:
        """A chapter's tokens, `[layer, row, unit]` in the stored type, unshuffled."""
        held = self._held
        if held is None or not np.array_equal(held[0].documents, chapter.documents):
            self._held = held = None  # before the next one is there
            rows = token_rows(self._acts.slice_batch(chapter.documents))
            self._held = held = chapter, rows.acts
        return held[1]

    def release(self) -> None:
        """Give back the memory of the chapter that was read last; it can be read again."""
        self._held = None

    def batches(self, n_skipped: int = 0) -> Iterator[Tensor]:
        """Batches without end, from the one behind `n_skipped` others on.

        Yields:
            `[layer, token, unit]` in the stored type, on the CPU.
        """
        n_pass, n_before = 0, 0
        while True:
            for chapter in self.chapters(n_pass):
                n_batches = chapter.n_rows // self.batch_size
                first = max(0, n_skipped - n_before)
                if first < n_batches:
                    yield from self._batches_of(chapter, first, n_batches)
                n_before += n_batches
            n_pass += 1

    def _batches_of(self, chapter: Chapter, first: int, n_batches: int) -> Iterator[Tensor]:
        """A chapter's batches."""
        rows = self.read(chapter)
        order = torch.from_numpy(np.random.default_rng(chapter.seed).permutation(chapter.n_rows))
        for batch in range(first, n_batches):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield rows[:, chosen]


def rows_within(acts: Acts, chapter_bytes: int = CHAPTER_BYTES) -> int:
    """How many tokens of all layers take so much memory; not too few to be shuffled."""
    row_bytes = len(acts.layers) * acts.n_units * acts.dtype.itemsize
    return max(LEAST_ROWS, chapter_bytes // row_bytes)


def chapters_of(
    counts: NDArray[np.int64], most_rows: int, seed: int, n_pass: int = 0
) -> list[Chapter]:
    """What one pass over some documents reads, chapter by chapter.

    Args:
        counts: `[document]` tokens of mask 1.
        most_rows: tokens in a chapter, unless a single document has more; where all fit, the
            documents keep their order.
        seed: of every order.
        n_pass: which pass over the documents, from 0.
    """
    order = np.arange(len(counts))
    if counts.sum() > most_rows:
        np.random.default_rng([seed, n_pass]).shuffle(order)
    ends = np.cumsum(counts[order])
    cuts = [0]
    while cuts[-1] < len(order):
        before = ends[cuts[-1] - 1] if cuts[-1] else 0
        last = int(np.searchsorted(ends, before + most_rows, side="right"))
        cuts.append(max(last, cuts[-1] + 1))
    return [
        Chapter(order[first:last], int(counts[order[first:last]].sum()), chapter_seed)
        for number, (first, last) in enumerate(pairwise(cuts))
        for chapter_seed in [(seed, n_pass, number)]
    ]


def check_enough(n_tokens: int, batch_size: int) -> None:
    """Make sure that there is a batch to learn from.

    Raises:
        UserError: there are fewer tokens.
    """
    if n_tokens < batch_size:
        raise UserError(
            f"--batch-size {batch_size}: the training documents have {n_tokens} tokens only. "
            "Read more of them, or take a smaller --batch-size."
        )
