"""Mean and standard deviation of every unit in one pass over blocks of examples."""

import torch
from torch import Tensor

# Rows turned to float64 at once: they stay in the processor's cache.
ROWS_AT_ONCE = 256


class RunningMoments:
    """Population mean and standard deviation per unit, in float64, whatever the offset.

    Each block is centred on its own mean before squaring, and joined to what came before by
    Chan's formula, so a mean of 1e4 costs no digit of a standard deviation of 1. A unit that
    never changes has a sum of squares of exactly 0.

    Attributes:
        n_examples: examples added so far.

    Source: Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", 2.1.
    """

    def __init__(self, n_units: int) -> None:
        self.n_examples = 0
        self._mean = torch.zeros(n_units, dtype=torch.float64)
        self._squares = torch.zeros(n_units, dtype=torch.float64)

    def add(self, block: Tensor) -> None:
        """Take in more examples.

        Args:
            block: `[example, unit]`, any float type; may be empty.

        Raises:
            ValueError: another number of units.
        """
        if block.ndim != 2 or block.shape[1] != len(self._mean):
            raise ValueError(f"block {tuple(block.shape)}, expected [example, {len(self._mean)}]")
        for rows in torch.split(block, ROWS_AT_ONCE):
            if len(rows):
                self._merge(rows.double())

    def _merge(self, rows: Tensor) -> None:
        ones = torch.ones(len(rows), dtype=torch.float64)
        mean = ones @ rows / len(rows)
        squares = ones @ (rows - mean).square_()
        total = self.n_examples + len(rows)
        delta = mean - self._mean
        self._mean += delta * (len(rows) / total)
        self._squares += squares + delta.square() * (self.n_examples * len(rows) / total)
        self.n_examples = total

    @property
    def mean(self) -> Tensor:
        """`[unit]` float64; NaN or infinite where an activation was.

        Raises:
            ValueError: nothing was added.
        """
        self._require_examples()
        return self._mean.clone()

    @property
    def std(self) -> Tensor:
        """`[unit]` float64 > 0, the population's (divided by n); 1 where a unit never changes.

        Raises:
            ValueError: nothing was added.
        """
        self._require_examples()
        std = (self._squares / self.n_examples).sqrt()
        return torch.where(std == 0, 1.0, std)

    def _require_examples(self) -> None:
        if not self.n_examples:
            raise ValueError("moments of no examples")
