"""How often two tokens would be the same by chance: each drawn from its own frequencies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ID_BITS = 32
Counts = tuple[NDArray[np.int64], NDArray[np.int64]]


class Tally:
    """Counts tokens in some places, keeping only those that were seen."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._keys = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)

    def add(self, places: NDArray[np.int64], token_ids: NDArray[np.integer]) -> None:
        """Count tokens.

        Args:
            places: where each was seen, from 0; broadcast against the tokens.
            token_ids: from 0, below 2**32.
        """
        keys = ((places << ID_BITS) | token_ids.astype(np.int64)).ravel()
        found, counts = np.unique(keys, return_counts=True)
        merged, inverse = np.unique(np.concatenate([self._keys, found]), return_inverse=True)
        counts = np.concatenate([self._counts, counts])
        self._counts = np.zeros(len(merged), dtype=np.int64)
        np.add.at(self._counts, inverse, counts)
        self._keys = merged

    def counts(self, places: Sequence[int]) -> Counts:
        """Tokens that were seen in any of some places, ascending, and how often."""
        pieces = []
        for place in places:
            first, last = np.searchsorted(self._keys, [place << ID_BITS, (place + 1) << ID_BITS])
            pieces.append((self._keys[first:last] & (2**ID_BITS - 1), self._counts[first:last]))
        ids, inverse = np.unique(np.concatenate([ids for ids, _ in pieces]), return_inverse=True)
        counts = np.zeros(len(ids), dtype=np.int64)
        np.add.at(counts, inverse, np.concatenate([counts for _, counts in pieces]))
        return ids, counts


def chance(one: Counts, other: Counts) -> float:
    """The sum over tokens of (share in one) x (share in the other); NaN where one is empty."""
    n_one, n_other = int(one[1].sum()), int(other[1].sum())
    if not (n_one and n_other):
        return float("nan")
    _, mine, theirs = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    together = one[1][mine].astype(np.float64) @ other[1][theirs].astype(np.float64)
    return float(together / n_one / n_other)
