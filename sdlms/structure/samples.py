"""What thresholds are estimated from: sampled activations of a layer, dense or sparse."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import whole
from sdlms.acts.sparse_source import SparseSource
from sdlms.acts.threads import one_thread
from sdlms.numerics.quantiles import column_quantile, quantile_rank
from sdlms.structure.streaming import scan_documents
from sdlms.structure.subject import Subject

BUFFER_BYTES = 256 << 20  # of dense activations that are there at a time


class Sample(Protocol):
    """Activations of some units on some tokens."""

    def quantile(self, fraction: float) -> NDArray[np.float32]:
        """`[unit]` the smallest own activation at or below which lies at least the fraction."""

    def quantiles(self, fractions: NDArray[np.float64]) -> NDArray[np.float32]:
        """The same with a fraction of its own for each `[unit]`."""

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`[unit]` mean and standard deviation, of the tokens as they are."""


class DenseSample:
    """All of them in memory."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        """Take `[unit, token]`, at least one token; its order is lost."""
        self._values = values

    def quantile(self, fraction: float) -> NDArray[np.float32]:
        """`[unit]`."""
        return column_quantile(self._values, fraction)

    def quantiles(self, fractions: NDArray[np.float64]) -> NDArray[np.float32]:
        """`[unit]`."""
        pairs = zip(self._values, fractions.tolist(), strict=True)
        return np.concatenate([column_quantile(own[None], fraction) for own, fraction in pairs])

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`[unit]` each."""
        with one_thread():
            deviation, mean = torch.std_mean(torch.from_numpy(self._values), dim=1, correction=0)
        return mean.double().numpy(), deviation.double().numpy()


class SparseSample:
    """What is not 0 of them."""

    def __init__(
        self, units: NDArray[np.int32], values: NDArray[np.float32], n_units: int, n_tokens: int
    ) -> None:
        """Take entries in any order.

        Args:
            units: `[entry]`.
            values: `[entry]`, of these.
            n_units: of the layer.
            n_tokens: at least one; no unit has more entries.
        """
        order = np.lexsort((values, units))
        self._units, self._values = units[order], values[order]
        self._n_units, self._n_tokens = n_units, n_tokens

    def quantile(self, fraction: float) -> NDArray[np.float32]:
        """`[unit]`."""
        return self.quantiles(np.full(self._n_units, fraction))

    def quantiles(self, fractions: NDArray[np.float64]) -> NDArray[np.float32]:
        """`[unit]`; each unit's zeros stand between its negative entries and the others."""
        counts = self._sums(None).astype(np.int64)
        n_negative = self._sums(self._values < 0).astype(np.int64)
        n_zeros = self._n_tokens - counts
        rank = np.array([quantile_rank(self._n_tokens, each) for each in fractions.tolist()])
        is_entry = (rank < n_negative) | (rank >= n_negative + n_zeros)
        place = np.cumsum(counts) - counts + np.where(rank < n_negative, rank, rank - n_zeros)
        quantiles = np.zeros(self._n_units, dtype=np.float32)
        quantiles[is_entry] = self._values[place[is_entry]]
        return quantiles

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`[unit]` each."""
        mean = self._sums(self._values) / self._n_tokens
        # Of the entries, then of the zeros.
        squares = self._sums((self._values - mean[self._units]) ** 2)
        squares += (self._n_tokens - self._sums(None)) * mean**2
        return mean, np.sqrt(squares / self._n_tokens)

    def _sums(self, weights: NDArray[np.generic] | None) -> NDArray[np.float64]:
        """`[unit]` how many entries, or the sum of something over them."""
        sums = np.bincount(self._units, weights=weights, minlength=self._n_units)
        return sums.astype(np.float64)


def samples_of(subject: Subject, layer: int) -> Iterator[tuple[slice, Sample]]:
    """Activations of the sampled tokens of a layer: some units, and theirs, until all had a turn.

    Raises:
        UserError: the run is damaged.
        ValueError: it kept no activations.
    """
    if isinstance(subject.source, SparseSource):
        yield slice(0, subject.n_units), _sparse_sample(subject, subject.source, layer)
        return
    sample = subject.sample
    offsets = np.concatenate([[0], np.cumsum(subject.documents.n_tokens[sample])]).tolist()
    group = max(BUFFER_BYTES // (4 * offsets[-1]), 1)
    buffer = np.empty((min(group, subject.n_units), offsets[-1]), dtype=np.float32)
    for first in range(0, subject.n_units, group):
        units = slice(first, min(first + group, subject.n_units))
        values = buffer[: units.stop - first]
        scan_documents(subject, layer, sample, _Transposing(values, units, offsets).take)
        yield units, DenseSample(values)


class _Transposing:
    """Where some units of documents go."""

    def __init__(self, values: NDArray[np.float32], units: slice, offsets: list[int]) -> None:
        self._values, self._units, self._offsets = values, units, offsets

    def take(self, position: int, acts: Tensor) -> None:
        """Copy what is read of a document to its place."""
        place = slice(self._offsets[position], self._offsets[position + 1])
        self._values[:, place] = acts[:, self._units].float().numpy().T


def _sparse_sample(subject: Subject, source: SparseSource, layer: int) -> SparseSample:
    """Entries of the sampled tokens.

    The curve of 8,192 latents, 32 of them active, takes 1.5 s so, and 29 s from dense rows.
    """
    ranges = whole(source.description, subject.documents.indices[subject.sample])
    n_tokens = 0
    units, values = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.float32)]
    for positions, entries in source.entries(layer, ranges):
        mask = source.mask(ranges.at(positions))
        kept = np.repeat(mask, entries.counts)
        n_tokens += int(mask.sum())
        units.append(entries.indices[kept])
        values.append(entries.values[kept])
    return SparseSample(np.concatenate(units), np.concatenate(values), subject.n_units, n_tokens)
