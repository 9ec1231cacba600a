"""What a sparse autoencoder has to beat: principal components, as many as it has active latents."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_UNITS = 8192
BLOCK_BYTES = 64 << 20  # of float64 rows that are there at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of rows.

    Attributes:
        n_rows: how many there were, > 0.
        mean: `[unit]` float64.
        variance: mean squared distance from the mean, summed over units.
        covariance: `[unit, unit]` float64, about the mean, divided by `n_rows`; None of more than
            8,192 units, where it and its axes would cost more than training.
    """

    n_rows: int
    mean: Tensor
    variance: float
    covariance: Tensor | None

    @classmethod
    def of(cls, rows: Tensor) -> "Moments":
        """The moments of rows, read block by block.

        Sums are taken in float64 about the mean of the first block, so that a mean far from 0
        costs no digits.

        Args:
            rows: `[row, unit]`, any float dtype, finite, on the CPU.

        Raises:
            ValueError: there are no rows.
        """
        n_rows, n_units = rows.shape
        if not n_rows:
            raise ValueError("no rows, no moments")
        # As float32, so that rows that are all the same have a variance of exactly 0.
        shift = next(_blocks(rows)).mean(dim=0).float().double()
        sums = torch.zeros(n_units, dtype=torch.float64)
        squares = torch.zeros(n_units, dtype=torch.float64)
        n_axes = n_units if n_units <= MOST_UNITS else 0
        products = torch.zeros(n_axes, n_axes, dtype=torch.float64)
        for block in _blocks(rows):
            block -= shift
            sums += block.sum(dim=0)
            if n_axes:
                products.addmm_(block.T, block)
            else:
                squares += block.square().sum(dim=0)
        sums /= n_rows
        if n_axes:
            covariance = products.div_(n_rows).addr_(sums, sums, alpha=-1)
            return cls(n_rows, shift + sums, float(covariance.trace()), covariance)
        return cls(n_rows, shift + sums, float((squares / n_rows - sums.square()).sum()), None)


@dataclass(frozen=True, eq=False)
class PrincipalEnergies:
    """How the squared distances of some rows from the training mean lie along the training axes.

    Attributes:
        energies: `[axis]` float64, squared coordinates summed over the rows; the axis of the
            largest training variance first. Their sum is the squared distance itself.
    """

    energies: Tensor

    @classmethod
    def of(cls, moments: Moments, rows: Tensor) -> "PrincipalEnergies":
        """Project rows once; every number of components then costs nothing.

        Args:
            moments: of the training rows.
            rows: `[row, unit]` held-out ones, any float dtype, finite, on the CPU.
        """
        if moments.covariance is None:
            return cls(torch.empty(0, dtype=torch.float64))
        axes = torch.linalg.eigh(moments.covariance).eigenvectors.flip(1)
        energies = torch.zeros(len(moments.mean), dtype=torch.float64)
        for block in _blocks(rows):
            energies += ((block - moments.mean) @ axes).square().sum(dim=0)
        return cls(energies)

    def fvu(self, k: int) -> float:
        """FVU of the mean and the projection on the k leading axes.

        Returns:
            1 for k = 0, falling to 0 for all axes; NaN where every row is the mean, or where there
            are too many units to have axes.

        Raises:
            ValueError: there are no k axes.
        """
        if not len(self.energies):
            return math.nan
        if not 0 <= k <= len(self.energies):
            raise ValueError(f"{k} of {len(self.energies)} axes")
        total = float(self.energies.sum())
        # What is left, not 1 - what is taken: exactly 0 for all axes, and no digits are lost.
        return float(self.energies[k:].sum()) / total if total > 0 else math.nan


def components_for(l0: float, n_units: int) -> int:
    """How many components to compare with: the mean L0, rounded half up, at most `n_units`.

    Raises:
        ValueError: `l0` is NaN or negative.
    """
    if not l0 >= 0:
        raise ValueError(f"mean L0 must be >= 0, got {l0}")
    return min(math.floor(l0 + 0.5), n_units)


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    """Copies of consecutive rows as float64."""
    n_rows = max(1, BLOCK_BYTES // (8 * max(1, rows.shape[1])))
    for first in range(0, len(rows), n_rows):
        yield rows[first : first + n_rows].to(torch.float64, copy=True)
