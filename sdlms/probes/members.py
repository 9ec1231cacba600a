"""Which probes are trained together: the grid of layers x seeds x labels, or what is left of it."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Run:
    """Neighbouring members that share a row of something: `first:last` of the member axis."""

    row: int
    first: int
    last: int


@dataclass(frozen=True)
class Members:
    """The members of a stack, sorted by layer, then seed, then label.

    Attributes:
        seeds: values of the seeds, one per row of the split.
        layer: `[member]` int64, row of the layer in the data.
        seed: `[member]` int64, index into `seeds`.
        label: `[member]` int64, row of the label in the targets.
    """

    seeds: tuple[int, ...]
    layer: NDArray[np.int64]
    seed: NDArray[np.int64]
    label: NDArray[np.int64]

    @classmethod
    def grid(cls, n_layers: int, seeds: tuple[int, ...], n_labels: int) -> "Members":
        """All; layer l, seed s, label k is member (l * n_seeds + s) * n_labels + k."""
        cells = product(range(n_layers), range(len(seeds)), range(n_labels))
        layer, seed, label = np.array(list(cells), dtype=np.int64).reshape(-1, 3).T
        return cls(seeds, layer, seed, label)

    def subset(self, which: NDArray[np.int64]) -> "Members":
        """The members at ascending positions `which`."""
        return Members(self.seeds, self.layer[which], self.seed[which], self.label[which])

    def __len__(self) -> int:
        """How many members there are."""
        return len(self.layer)

    @cached_property
    def layers(self) -> list[int]:
        """The layers (rows of the data) that have a member, ascending."""
        return [int(layer) for layer in np.unique(self.layer)]

    @cached_property
    def layer_runs(self) -> list[Run]:
        """One run per layer; `row` is the position in `layers`."""
        return _runs([self.layers.index(layer) for layer in self.layer.tolist()])

    @cached_property
    def seed_runs(self) -> list[Run]:
        """Runs of members that share a seed; `row` is the index of the seed."""
        return _runs(self.seed.tolist())

    @cached_property
    def seed_rows(self) -> torch.Tensor:
        """`[member]` int64, index of the seed, to pick rows of a mask with."""
        return torch.from_numpy(self.seed)


def _runs(rows: list[int]) -> list[Run]:
    """Maximal runs of equal neighbours."""
    runs, first = [], 0
    for row, group in groupby(rows):
        last = first + len(list(group))
        runs.append(Run(row, first, last))
        first = last
    return runs
