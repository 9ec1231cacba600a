"""What each latent fires on: counts, its strongest documents, and its nearest neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.storage.flat import Array
from sdlms.storage.latents import (
    LOG_DENSITY_EDGES,
    N_DENSITIES,
    N_NEIGHBOURS,
    N_TOP,
    task_names,
)

BLOCK_BYTES = 64 << 20  # of cosines that are there at a time


@dataclass(frozen=True, eq=False)
class LatentTables:
    """Arrays of one autoencoder, named and shaped as in `latents.h5`.

    Attributes:
        firing_count: `[latent]` int64, rows on which it is above 0.
        firing_rate: `[latent]` float64, of all rows; NaN without rows.
        mean_activation: `[latent]` float64, over the rows on which it fires; NaN without such.
        document_counts: `[document, latent]` uint32.
        task_counts: `[task, latent]` int64, tasks in the order of their first document.
        top_activation: `[latent, 10]` float32, the largest of a document, falling; 0 for none.
        top_document: `[latent, 10]` int32, all different, of equal ones the first; -1 for none.
        top_position: `[latent, 10]` int32, where in the document, first of equal; -1 for none.
        neighbour: `[latent, 5]` int32, other latents by cosine of decoder rows; -1 for none.
        neighbour_cosine: `[latent, 5]` float32, falling; NaN for none.
        log_density_count: `[25]` int64: never firing, then bins of log10(firing rate).
    """

    firing_count: NDArray[np.int64]
    firing_rate: NDArray[np.float64]
    mean_activation: NDArray[np.float64]
    document_counts: NDArray[np.uint32]
    task_counts: NDArray[np.int64]
    top_activation: NDArray[np.float32]
    top_document: NDArray[np.int32]
    top_position: NDArray[np.int32]
    neighbour: NDArray[np.int32]
    neighbour_cosine: NDArray[np.float32]
    log_density_count: NDArray[np.int64]

    def arrays(self) -> dict[str, Array]:
        """By name, as `sdlms.storage.latents.write_member` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Firing(NamedTuple):
    """Where latents are above 0, rows ascending.

    Attributes:
        latents: `[entry]` int64.
        documents: `[entry]` int64, ascending, over all that is added.
        positions: `[entry]` int32, token in its document.
        values: `[entry]` float32 > 0.
    """

    latents: NDArray[np.int64]
    documents: NDArray[np.int64]
    positions: NDArray[np.int32]
    values: NDArray[np.float32]

    def at(self, which: Array) -> "Firing":
        """Some entries."""
        return Firing(*(array[which] for array in self))

    def after(self, other: "Firing") -> "Firing":
        """The entries of another, then these."""
        return Firing(
            np.concatenate([other.latents, self.latents]),
            np.concatenate([other.documents, self.documents]),
            np.concatenate([other.positions, self.positions]),
            np.concatenate([other.values, self.values]),
        )


class TableSums:
    """What tables are made of, entries added block by block in the order of rows."""

    def __init__(self, width: int, n_documents: int) -> None:
        self._counts = np.zeros((n_documents, width), dtype=np.uint32)
        self._sums = np.zeros(width)
        self._top = TopDocuments(width)

    def add(self, firing: Firing) -> None:
        """Count entries; what is summed does not depend on how they were cut into blocks."""
        cells = firing.documents * self._counts.shape[1] + firing.latents
        np.add.at(self._counts.reshape(-1), cells, np.uint32(1))
        np.add.at(self._sums, firing.latents, firing.values.astype(np.float64))
        self._top.add(firing)

    def finish(self, n_rows: int, document_tasks: Sequence[str], decoder: Tensor) -> LatentTables:
        """The tables.

        Args:
            n_rows: how many there were, silent ones too.
            document_tasks: of each document.
            decoder: `[latent, unit]` float32.
        """
        names = np.array(document_tasks, dtype=object)
        by_task = [
            self._counts[names == task].sum(axis=0, dtype=np.int64)
            for task in task_names(document_tasks)
        ]
        firing_count = self._counts.sum(axis=0, dtype=np.int64)
        nan = np.full(len(firing_count), np.nan)
        rate = firing_count / n_rows if n_rows else nan
        mean = np.divide(self._sums, firing_count, out=nan.copy(), where=firing_count > 0)
        top = self._top.finish()
        neighbour, cosine = nearest_neighbours(decoder)
        return LatentTables(
            firing_count=firing_count,
            firing_rate=rate,
            mean_activation=mean,
            document_counts=self._counts,
            task_counts=np.array(by_task, dtype=np.int64).reshape(-1, len(firing_count)),
            top_activation=top.values,
            top_document=top.documents,
            top_position=top.positions,
            neighbour=neighbour,
            neighbour_cosine=cosine,
            log_density_count=log_density_count(rate[firing_count > 0], len(firing_count)),
        )


class Top(NamedTuple):
    """The strongest documents of some latents, `[latent, 10]`, the strongest first."""

    values: NDArray[np.float32]
    documents: NDArray[np.int32]
    positions: NDArray[np.int32]

    @classmethod
    def empty(cls, n_latents: int) -> "Top":
        """None yet."""
        shape = (n_latents, N_TOP)
        none = np.full(shape, -1, dtype=np.int32)
        return cls(np.zeros(shape, dtype=np.float32), none, none.copy())


class TopDocuments:
    """The documents on which each latent has its largest activations."""

    def __init__(self, width: int) -> None:
        self._top = Top.empty(width)
        self._waiting: Firing | None = None  # of a document that may go on in the next block

    def add(self, firing: Firing) -> None:
        """Take entries whose documents are not before those that were added."""
        if not len(firing.latents):
            return
        if self._waiting is not None:
            firing = firing.after(self._waiting)
        largest = _largest_of_documents(firing)
        goes_on = largest.documents == firing.documents[-1]
        self._waiting = largest.at(goes_on)
        self._merge(largest.at(~goes_on))

    def finish(self) -> Top:
        """What was found; nothing can be added after it."""
        if self._waiting is not None:
            self._merge(self._waiting)
        return self._top

    def _merge(self, found: Firing) -> None:
        """Let documents compete, one entry for each; of equal ones the earlier wins."""
        touched, rows = np.unique(found.latents, return_inverse=True)
        order = np.lexsort((-found.values, rows))
        ranks = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
        order, ranks = order[ranks < N_TOP], ranks[ranks < N_TOP]
        new = Top.empty(len(touched))
        at = rows[order], ranks
        new.values[at] = found.values[order]
        new.documents[at] = found.documents[order]
        new.positions[at] = found.positions[order]
        both = [np.hstack([old[touched], own]) for old, own in zip(self._top, new, strict=True)]
        best = np.argsort(-both[0], axis=1, kind="stable")[:, :N_TOP]
        for old, candidates in zip(self._top, both, strict=True):
            old[touched] = np.take_along_axis(candidates, best, axis=1)


def _largest_of_documents(firing: Firing) -> Firing:
    """The largest entry of each latent in each document, the first of equal ones.

    Documents stay in order. Nothing is sorted: there may be ten million entries.
    """
    is_next = np.diff(firing.documents, prepend=firing.documents[0]) > 0
    cells = np.cumsum(is_next) * (int(firing.latents.max()) + 1) + firing.latents
    largest = np.zeros(int(cells.max()) + 1, dtype=np.float32)
    np.maximum.at(largest, cells, firing.values)
    candidates = np.flatnonzero(firing.values == largest[cells])[::-1]
    first = np.full(len(largest), -1)
    first[cells[candidates]] = candidates  # of equal ones the last that is written stays
    return firing.at(first[first >= 0])


def nearest_neighbours(decoder: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The latents whose decoder rows point the same way, block by block.

    Args:
        decoder: `[latent, unit]` float32; a row of zeros points nowhere and is left out.

    Returns:
        `[latent, 5]` the latents, -1 for none, and their cosines, falling, NaN for none.
    """
    width = len(decoder)
    norms = decoder.norm(dim=1, keepdim=True)
    nowhere = norms[:, 0] == 0
    directions = decoder / torch.where(norms > 0, norms, 1)
    neighbours = np.full((width, N_NEIGHBOURS), -1, dtype=np.int32)
    cosines = np.full((width, N_NEIGHBOURS), np.nan, dtype=np.float32)
    n_columns = min(N_NEIGHBOURS, width)
    n_rows = max(1, BLOCK_BYTES // (4 * width))
    for first in range(0, width, n_rows):
        block = directions[first : first + n_rows]
        found = block @ directions.T
        found[:, nowhere] = -torch.inf
        found[nowhere[first : first + n_rows]] = -torch.inf
        found[torch.arange(len(block)), torch.arange(first, first + len(block))] = -torch.inf
        values, latents = found.topk(n_columns)
        is_one = (values > -torch.inf).cpu().numpy()
        rows = slice(first, first + len(block))
        neighbours[rows, :n_columns] = np.where(is_one, latents.cpu().numpy(), -1)
        cosines[rows, :n_columns] = np.where(is_one, values.clamp(-1, 1).cpu().numpy(), np.nan)
    return neighbours, cosines


def log_density_count(rates: NDArray[np.float64], width: int) -> NDArray[np.int64]:
    """The histogram of firing rates as `latents.h5` has it.

    Args:
        rates: of the latents that fire, in (0, 1].
        width: latents in all.

    Returns:
        `[25]` counts that sum to `width`.
    """
    logs = np.clip(np.log10(rates), LOG_DENSITY_EDGES[0], LOG_DENSITY_EDGES[-1])
    counts = np.zeros(N_DENSITIES, dtype=np.int64)
    counts[0] = width - len(rates)
    counts[1:] = np.histogram(logs, LOG_DENSITY_EDGES)[0]
    return counts
