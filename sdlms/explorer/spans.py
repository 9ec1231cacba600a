"""Runs of positions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Positions that follow one another: `first` and those below `end`."""

    first: int
    end: int


def spans_of(positions: Sequence[int]) -> list[Span]:
    """Ascending positions as runs without gaps."""
    if not positions:
        return []
    places = np.asarray(positions)
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    runs = np.split(places, breaks)
    return [Span(int(run[0]), int(run[-1]) + 1) for run in runs]
