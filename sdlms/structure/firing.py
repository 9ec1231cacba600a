"""How often each unit of a layer fires in each document: what specialization is measured from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

ALL = "all"  # the row of a table that is of all tasks; no task may have this name


@dataclass(frozen=True, eq=False)
class DocumentCounts:
    """Firing counts of one layer; documents without a token of mask 1 are left out.

    Attributes:
        counts: `[document, unit]` uint32, tokens of mask 1 on which the unit is above its
            threshold.
        n_tokens: `[document]` int64 > 0, tokens of mask 1.
        tasks: `[document]` int64, each document's index into `task_names`.
        task_names: in the order of their first document; each has a document.
    """

    counts: NDArray[np.uint32]
    n_tokens: NDArray[np.int64]
    tasks: NDArray[np.int64]
    task_names: tuple[str, ...]

    @property
    def n_tasks(self) -> int:
        """Tasks."""
        return len(self.task_names)

    @property
    def n_units(self) -> int:
        """Units of the layer."""
        return int(self.counts.shape[1])

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """`[task, document]`, which documents belong to it."""
        belongs: NDArray[np.bool_] = self.tasks == np.arange(self.n_tasks)[:, None]
        return belongs

    @cached_property
    def task_documents(self) -> NDArray[np.int64]:
        """`[task]` documents of each."""
        return np.bincount(self.tasks, minlength=self.n_tasks)

    @cached_property
    def task_tokens(self) -> NDArray[np.int64]:
        """`[task]` tokens of each."""
        tokens: NDArray[np.int64] = self.members @ self.n_tokens
        return tokens

    @cached_property
    def task_counts(self) -> NDArray[np.int64]:
        """`[task, unit]` tokens on which it fires."""
        return np.stack([self.counts[own].sum(axis=0, dtype=np.int64) for own in self.members])
