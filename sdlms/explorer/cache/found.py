"""Rows as the explorer's cache gives them, and the levels that they come from."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.storage.flat import Array
from sdlms.storage.token_rows import StoredRows


class Found(NamedTuple):
    """Rows of a group.

    Attributes:
        arrays: by name, `[position, state, ...]`, zero where a row is not present; of "hidden" one
            array `hidden`, float16 where no scale was needed, else float32.
        present: `[position]` bool.
        source: the slower level that a row came from; "none" where none is present.
        flaw: a row was damaged on the disk, or rows are absent and a file was put aside.
    """

    arrays: dict[str, Array]
    present: NDArray[np.bool_]
    source: Literal["memory", "disk", "none"]
    flaw: bool


def joined(found: Found, stored: StoredRows) -> Found:
    """What memory has, and the rest from the disk."""
    if not stored.present.any():
        return found._replace(flaw=stored.is_damaged)
    absent = np.flatnonzero(~found.present)
    for name, array in found.arrays.items():
        array[absent] = stored.arrays[name]
    found.present[absent] = stored.present
    return found._replace(source="disk", flaw=stored.is_damaged)
