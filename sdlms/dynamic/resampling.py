"""How far losses would move with other documents: draws that all rules and seeds share.

Several seeds read documents in common. A document is drawn once for all seeds that read it, with
all that they measured in it, so that the interval of a mean over seeds counts no document twice.
Seeds of a run are not drawn: their spread is a number of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.dynamic.losses import DocumentLosses
from sdlms.numerics.document_bootstrap import drawn_documents

N_RESAMPLES = 1000
# Numbers of a block of draws, 8 bytes each.
BLOCK_NUMBERS = 2**23

Floats = NDArray[np.float64]


class _Table(NamedTuple):
    """All documents of several seeds; a seed has 0 and 0 in documents that it has not read."""

    task: NDArray[np.int64]
    sums: Floats
    counts: Floats


@dataclass(frozen=True, eq=False)
class Resampled:
    """Losses of one model in one or several seeds: draw 0 is the data, the others resample them.

    Attributes:
        sums: `[draw, seed, task]` float64, in nats; NaN where a loss is not finite.
        counts: `[draw, seed, task]` float64, tokens scored.
        documents: `[task]` int64, distinct ones that were read.
    """

    sums: Floats
    counts: Floats
    documents: NDArray[np.int64]

    def nats(self, task: int | None) -> Floats:
        """`[draw, seed]` loss per token in a task, or over all tokens of all tasks.

        NaN where a loss is not finite, and where a draw has no token of a seed.
        """
        sums, counts = self._of(self.sums, task), self._of(self.counts, task)
        found: Floats = np.full(sums.shape, np.nan)
        np.divide(sums, counts, out=found, where=counts > 0)
        return found

    def absent(self, task: int | None) -> NDArray[np.bool_]:
        """`[draw, seed]`, where a draw has no token of a seed."""
        found: NDArray[np.bool_] = self._of(self.counts, task) == 0
        return found

    def n_tokens(self, task: int | None) -> int:
        """Tokens scored, those of all seeds together."""
        return int(self._of(self.counts, task)[0].sum())

    def n_documents(self, task: int | None) -> int:
        """Distinct documents that were read."""
        return int(self.documents.sum() if task is None else self.documents[task])

    def has_interval(self, task: int | None) -> bool:
        """Whether every task in question has documents to choose from."""
        own = self.documents if task is None else self.documents[[task]]
        return bool((own > 1).all())

    @staticmethod
    def _of(numbers: Floats, task: int | None) -> Floats:
        """`[draw, seed]` of one task or of all together."""
        found: Floats = numbers.sum(axis=2) if task is None else numbers[:, :, task]
        return found


def resampled(losses: Sequence[DocumentLosses], seed: int) -> Resampled:
    """Draw documents 1,000 times, with replacement within their tasks.

    The draws depend on the seed and the documents only: what different rules lose in the same
    windows is drawn in pairs.

    Args:
        losses: of each seed of the run, one or several.
        seed: of the draws.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 8 (several samples)
    and section 25.2 (a ratio of means); Field and Welsh (2007), "Bootstrapping clustered data".
    """
    return resampled_together([losses], seed)[0]


def resampled_together(models: Sequence[Sequence[DocumentLosses]], seed: int) -> list[Resampled]:
    """The same for several models in the same windows, whose documents are drawn once for all.

    Args:
        models: of each the losses of each seed; all of the same documents.
        seed: of the draws.

    Raises:
        ValueError: a model was measured in other documents.
    """
    tables = [_table(losses) for losses in models]
    task = tables[0].task
    if any(not np.array_equal(table.task, task) for table in tables):
        raise ValueError("models were measured in other documents")
    n_tasks = int(task.max()) + 1
    shape = (N_RESAMPLES + 1, len(models[0]), n_tasks)
    found = [(np.empty(shape), np.empty(shape)) for _ in tables]
    generator = np.random.default_rng(seed)
    at_once = max(1, BLOCK_NUMBERS // len(task))
    for first in range(0, N_RESAMPLES + 1, at_once):
        some = slice(first, first + at_once)
        n_drawn = len(found[0][0][some]) - (first == 0)
        weights = drawn_documents(task, n_drawn, generator)
        if first == 0:
            weights = np.concatenate([np.ones((1, len(task))), weights])
        for table, (sums, counts) in zip(tables, found, strict=True):
            _add(table, weights, sums[some], counts[some])
    documents = np.bincount(task, minlength=n_tasks)
    return [Resampled(sums, counts, documents) for sums, counts in found]


def _table(losses: Sequence[DocumentLosses]) -> _Table:
    """Distinct documents of all seeds, in an order that depends on nothing that was measured."""
    tasks = {name: task for one in losses for name, task in zip(one.ids, one.task, strict=True)}
    places = {name: place for place, name in enumerate(sorted(tasks))}
    sums, counts = np.zeros((2, len(places), len(losses)))
    for seed, one in enumerate(losses):
        own = [places[name] for name in one.ids]
        sums[own, seed] = np.where(np.isfinite(one.sums), one.sums, np.nan)
        counts[own, seed] = one.counts
    return _Table(np.array([tasks[name] for name in places], dtype=np.int64), sums, counts)


def _add(table: _Table, weights: Floats, sums: Floats, counts: Floats) -> None:
    """Fill `[draw, seed, task]` sums and counts of some draws."""
    for task in range(sums.shape[2]):
        own = table.task == task
        sums[:, :, task] = weights[:, own] @ table.sums[own]
        counts[:, :, task] = weights[:, own] @ table.counts[own]
