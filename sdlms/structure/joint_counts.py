"""On how many tokens two units of a layer fire together: task by task, and over all tasks."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.association import Strata
from sdlms.numerics.coactivation import add_coactivations_, circular_shift
from sdlms.storage.firings import Firings


def joint_counts(
    firings: Firings, device: str, generator: np.random.Generator | None = None
) -> Iterator[tuple[Tensor, Strata]]:
    """Count once, and give the counts of every graph of a layer.

    Documents are strata, because within a document only are tokens comparable: units that fire in
    the same documents would be an edge otherwise, and rotation leaves such edges as they are.

    Args:
        firings: documents task by task.
        device: that counts, as torch names it.
        generator: if given, in each document every unit's firings are rotated by an offset of
            their own, so that units no longer fire together for any reason but their rates there.
            Strata are the same as without.

    Yields:
        One after the other: each task, and all tasks, with a stratum for each document; all
        tasks as one stratum. Counts are `[unit, unit]` int32, exact on the diagonal and above.
    """
    total = torch.zeros((firings.n_units, firings.n_units), dtype=torch.int32, device=device)
    fired, n_tokens = [], np.diff(firings.offsets)
    for first, last in pairwise(firings.task_bounds.tolist()):
        counts, by_document = torch.zeros_like(total), []
        for block in firings.blocks(first, last):
            rows, offsets = _read(firings, block, generator)
            add_coactivations_(counts, rows)
            by_document.append(_fired(rows, offsets))
        total += counts
        fired += by_document
        yield counts, Strata(_stacked(by_document, firings.n_units), n_tokens[first:last])
    strata = Strata(_stacked(fired, firings.n_units), n_tokens)
    yield total, strata
    of_all = strata.counts.sum(axis=0, dtype=np.int64)
    yield total, Strata(of_all[None], np.array([firings.n_tokens]))


def _read(
    firings: Firings, block: tuple[int, int], generator: np.random.Generator | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`[row, unit]` of a run of documents, as they are or rotated, and its documents' offsets."""
    first, last = block
    rows = firings.read(first, last)
    offsets = firings.offsets[first : last + 1] - firings.offsets[first]
    if generator is not None:
        rows = circular_shift(rows, offsets, generator)
    return rows, offsets


def _fired(rows: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """`[document, unit]` tokens on which each fires."""
    documents = pairwise(offsets.tolist())
    return np.stack([rows[one:end].sum(axis=0, dtype=np.int32) for one, end in documents])


def _stacked(counts: list[NDArray[np.int32]], n_units: int) -> NDArray[np.int32]:
    """`[document, unit]` of all blocks."""
    return np.concatenate([np.zeros((0, n_units), dtype=np.int32), *counts])
