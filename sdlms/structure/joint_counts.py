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
    firings: Firings, generator: np.random.Generator | None = None
) -> Iterator[tuple[Tensor, Strata]]:
    """Count once, and give the counts of every graph of a layer.

    Args:
        firings: documents task by task.
        generator: if given, in each document every unit's firings are rotated by an offset of
            their own, so that units no longer fire together for any reason but their rates.

    Yields:
        One after the other: each task with itself as its stratum; all tasks, a stratum each; all
        tasks as one stratum. Counts are `[unit, unit]` int32, exact on the diagonal and above.
    """
    total = torch.zeros((firings.n_units, firings.n_units), dtype=torch.int32)
    fired, n_tokens = [], []
    for first, last in pairwise(firings.task_bounds.tolist()):
        counts = torch.zeros_like(total)
        for block in firings.blocks(first, last):
            add_coactivations_(counts, _read(firings, block, generator))
        total += counts
        fired.append(counts.diagonal().numpy().astype(np.int64))
        n_tokens.append(int(firings.offsets[last] - firings.offsets[first]))
        yield counts, Strata(fired[-1][None], np.array(n_tokens[-1:]))
    yield total, Strata(np.stack(fired), np.array(n_tokens))
    yield total, Strata(np.sum(fired, axis=0)[None], np.array([sum(n_tokens)]))


def _read(
    firings: Firings, block: tuple[int, int], generator: np.random.Generator | None
) -> NDArray[np.uint8]:
    """`[row, unit]` of a run of documents, as they are or rotated."""
    rows = firings.read(*block)
    if generator is None:
        return rows
    first, last = block
    offsets = firings.offsets[first : last + 1] - firings.offsets[first]
    return circular_shift(rows, offsets, generator)
