"""A small layout of rows, with one checksum a row and with several, and random content for it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sdlms.storage.row_layout import Column, RowGroup

Rows = dict[str, NDArray[np.generic]]
WHOLE = RowGroup("whole", (Column("ids", "<i4", (3, 2)), Column("entropy", "<f4", (3,))), 1)
PARTS = RowGroup("parts", (Column("values", "<f2", (3, 5)), Column("scale", "<f4", (3,))), 3)
LAYOUT = (WHOLE, PARTS)


def random_rows(group: RowGroup, n_tokens: int, seed: int) -> Rows:
    """Rows of a group."""
    generator = np.random.default_rng(seed)
    return {
        column.name: (100 * generator.normal(size=(n_tokens, *column.shape))).astype(column.dtype)
        for column in group.columns
    }


def are_equal(left: Mapping[str, NDArray[np.generic]], right: Rows) -> bool:
    """Whether all arrays are, bit by bit."""
    return set(left) == set(right) and all(
        left[name].tobytes() == right[name].tobytes() for name in right
    )
