"""What a sparse autoencoder has to beat: principal components, as many as it has active latents."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_BYTES = 64 << 20  # of float64 rows that are there at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of rows.

    Attributes:
        n_rows: how many there were, > 0.
        mean: `[unit]` float64.
        covariance: `[unit, unit]` float64, about the mean, divided by `n_rows`.
    """

    n_rows: int
    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> float:
        """Mean squared distance from the mean, summed over units."""
        return float(self.covariance.trace())

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
        products = torch.zeros(n_units, n_units, dtype=torch.float64)
        for block in _blocks(rows):
            block -= shift
            sums += block.sum(dim=0)
            products.addmm_(block.T, block)
        sums /= n_rows
        products /= n_rows
        return cls(n_rows, shift + sums, products.addr_(sums, sums, alpha=-1))


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
        axes = torch.linalg.eigh(moments.covariance).eigenvectors.flip(1)
        energies = torch.zeros(len(moments.mean), dtype=torch.float64)
        for block in _blocks(rows):
            energies += ((block - moments.mean) @ axes).square().sum(dim=0)
        return cls(energies)

    def fvu(self, k: int) -> float:
        """FVU of the mean and the projection on the k leading axes.

        Returns:
            1 for k = 0, falling to 0 for all axes; NaN where every row is the mean.

        Raises:
            ValueError: there are no k axes.
        """
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


def pca_fvu(moments: Moments, rows: Tensor, k: int) -> float:
    """FVU on held-out rows of the k principal components of the training rows.

    FVU as in `sdlms.sae.evaluation`: about the mean of the training rows. Members of one layer
    share `PrincipalEnergies` instead.

    Args:
        moments: of the training rows.
        rows: `[row, unit]` held-out ones, any float dtype.
        k: components, from 0 to the number of units.
    """
    return PrincipalEnergies.of(moments, rows).fvu(k)


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    """Copies of consecutive rows as float64."""
    n_rows = max(1, BLOCK_BYTES // (8 * max(1, rows.shape[1])))
    for first in range(0, len(rows), n_rows):
        yield rows[first : first + n_rows].to(torch.float64, copy=True)
