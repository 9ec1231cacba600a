"""What a finished sparse autoencoder does on tokens that it has not learned from.

FVU, the fraction of variance unexplained, has one definition here and in every table: the squared
error over the squared distance from the *mean of the training rows*, both summed over held-out rows
and units. Explained variance is 1 - FVU. sae-lens' `ExplainedVarianceCalculator` is the same but
for the mean, which it takes from the rows that it measures; its values are lower, by little where
the two means are near.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.dictionary import Dictionary
from sdlms.sae.latent_tables import Firing, LatentTables, TableSums
from sdlms.sae.reconstruction import (
    RowValues,
    fvu_interval,
    reason_of,
    reconstruction_of,
    row_values,
)

BLOCK_BYTES = 64 << 20  # of latents, or of float64 rows, that are there at a time
DENSE_PERCENT = 10  # a latent that fires on more of the rows is dense


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Tokens of one layer, documents one after another.

    Attributes:
        rows: `[row, unit]` in the stored type, finite, on the CPU.
        offsets: `[document + 1]` int64, the rows of each document; all are used.
        positions: `[row]` int64, token of its document, those that are no rows counted.
        document_tasks: of each document.
    """

    rows: Tensor
    offsets: NDArray[np.int64]
    positions: NDArray[np.int64]
    document_tasks: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an autoencoder does, as `sae.csv` has it; x is a row, y its reconstruction.

    Attributes:
        n_tokens: rows that were seen.
        fvu: sum |x - y|^2 / sum |x - m|^2, m the mean of the training rows.
        fvu_low: lower end of its 95 % interval over documents; NaN for fewer than two.
        fvu_high: upper end.
        explained_variance: 1 - fvu.
        bias_only_fvu: the same where no latent is active.
        l0: mean number of active latents per row.
        l0_p5: quantiles of that number over rows, between two of them by linear interpolation.
        l0_p50: the median.
        l0_p95: what nineteen in twenty rows do not exceed.
        n_dead: latents that fire on none of these rows.
        n_dense: latents that fire on more than 10 % of them.
        shrinkage: mean of |y - m| / |x - m| over rows with x != m; below 1 where y is too short.
        reconstruction_bias: sum |y - m|^2 / sum (x - m)(y - m), what y - m would have to be divided
            by to lie nearest to x - m; below 1 where y is too short.
        cosine: mean of cos(x - m, y - m) over rows where both have a direction.
        reason: why something is NaN; empty where nothing is, but for the interval.

    Source of the reconstruction bias: Rajamanoharan et al. (2024), "Improving Dictionary Learning
    with Gated Sparse Autoencoders" (arXiv 2404.16014), there about 0.
    """

    n_tokens: int
    fvu: float
    fvu_low: float
    fvu_high: float
    explained_variance: float
    bias_only_fvu: float
    l0: float
    l0_p5: float
    l0_p50: float
    l0_p95: float
    n_dead: int
    n_dense: int
    shrinkage: float
    reconstruction_bias: float
    cosine: float
    reason: str


class Measured(NamedTuple):
    """Both results of one pass."""

    evaluation: Evaluation
    tables: LatentTables


@torch.no_grad()
def measure(dictionary: Dictionary, held_out: HeldOut, mean: Tensor, seed: int) -> Measured:
    """Encode and decode every row once.

    Args:
        dictionary: on the device to compute on.
        held_out: tokens of documents that it has not learned from.
        mean: `[unit]` float64, of the training rows, on the CPU.
        seed: of the documents that the interval draws.

    Raises:
        UserError: a latent or a reconstruction is not finite.
        ValueError: there are not as many positions or tasks as rows or documents.
    """
    measuring = Measuring(dictionary, held_out, mean)
    n_rows = max(1, BLOCK_BYTES // max(4 * dictionary.width, 8 * dictionary.d_in))
    for first in range(0, len(held_out.rows), n_rows):
        measuring.add(held_out.rows[first : first + n_rows])
    return measuring.finish(seed)


class Measuring:
    """One autoencoder on its way through held-out rows.

    What is known of each row alone is kept, and added up in the end: so sums do not depend on how
    rows are cut into blocks.
    """

    def __init__(self, dictionary: Dictionary, held_out: HeldOut, mean: Tensor) -> None:
        """Nothing is read yet.

        Raises:
            ValueError: the parts of `held_out` do not fit together.
        """
        n_rows, n_documents = len(held_out.rows), len(held_out.offsets) - 1
        sizes = int(held_out.offsets[-1]), len(held_out.positions), len(held_out.document_tasks)
        if sizes != (n_rows, n_rows, n_documents):
            raise ValueError(f"{n_rows} rows of {n_documents} documents do not fit {sizes}")
        self._dictionary, self._held_out, self._mean = dictionary, held_out, mean
        self._n_rows = 0
        self._l0 = np.zeros(n_rows, dtype=np.int64)
        self._rows = np.zeros((len(RowValues._fields), n_rows))
        self._tables = TableSums(dictionary.width, n_documents)

    def add(self, acts: Tensor) -> None:
        """Take the next rows, `[row, unit]` in the stored type.

        Raises:
            UserError: a latent or a reconstruction is not finite.
        """
        rows = slice(self._n_rows, self._n_rows + len(acts))
        acts = acts.to(self._dictionary.decoder.device).float()
        latents = self._dictionary.encode(acts)
        outputs = self._dictionary.decode(latents, acts)
        values = row_values(acts, outputs, _silent(self._dictionary, acts), self._mean)
        if not np.isfinite(values).all():  # nor is it where a latent is not
            raise UserError(
                "a latent or a reconstruction is not finite: this SAE cannot be used on these "
                "activations. Leave it out."
            )
        self._rows[:, rows] = values
        where, which = (latents > 0).nonzero(as_tuple=True)
        strengths = latents[where, which].cpu().numpy()
        here = where.cpu().numpy()
        self._l0[rows] = np.bincount(here, minlength=len(acts))
        self._tables.add(self._firing(here + rows.start, which.cpu().numpy(), strengths))
        self._n_rows = rows.stop

    def _firing(
        self, rows: NDArray[np.int64], latents: NDArray[np.int64], values: NDArray[np.float32]
    ) -> Firing:
        """Entries, with documents and positions of their rows."""
        documents = np.searchsorted(self._held_out.offsets, rows, side="right") - 1
        positions = self._held_out.positions[rows].astype(np.int32)
        return Firing(latents, documents, positions, values)

    def finish(self, seed: int) -> Measured:
        """The results, once all rows were added.

        Raises:
            ValueError: rows are missing.
        """
        n_rows, decoder = self._n_rows, self._dictionary.decoder
        if n_rows != len(self._l0):
            raise ValueError(f"{n_rows} of {len(self._l0)} rows were added")
        tables = self._tables.finish(n_rows, self._held_out.document_tasks, decoder)
        counts = tables.firing_count
        l0 = np.quantile(self._l0, (0.05, 0.5, 0.95)) if n_rows else np.full(3, math.nan)
        values = RowValues(*self._rows)
        fvu_low, fvu_high = fvu_interval(values, self._held_out.offsets, seed)
        found = reconstruction_of(values)
        evaluation = Evaluation(
            n_tokens=n_rows,
            fvu_low=fvu_low,
            fvu_high=fvu_high,
            l0=int(self._l0.sum()) / n_rows if n_rows else math.nan,
            l0_p5=float(l0[0]),
            l0_p50=float(l0[1]),
            l0_p95=float(l0[2]),
            n_dead=int((counts == 0).sum()),
            n_dense=int((100 * counts > DENSE_PERCENT * n_rows).sum()),
            **found,
            reason=reason_of(found, n_rows),
        )
        return Measured(evaluation, tables)


def _silent(dictionary: Dictionary, acts: Tensor) -> Tensor:
    """The reconstruction where no latent is active, `[row, unit]` or the same for all rows."""
    if dictionary.normalize_activations == "none":
        return dictionary.bias
    return dictionary.decode(acts.new_zeros(len(acts), dictionary.width), acts)
