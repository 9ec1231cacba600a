"""Published runs of made-up tables, and what a figure drew of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.container import ErrorbarContainer

from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import Cell, write_table

Rows = Sequence[Mapping[str, Cell]]


def table_run(
    artifacts: Path, stage: str, tables: Mapping[str, Rows], resolved: dict[str, Any] | None = None
) -> Run:
    """A run that holds these tables, whose columns are those of their first row."""
    with RunWriter(stage, {}, RunOptions(artifacts=artifacts)) as out:
        out.start(resolved or {}, {})
        for name, rows in tables.items():
            write_table(out.path / name, list(rows[0]), rows)
            out.output(name, columns=list(rows[0]))
    return Run(out.path)


def ends_of(container: ErrorbarContainer, axis: int = 1) -> list[tuple[float, float]]:
    """Where the intervals of a series begin and end; NaN where there is none.

    Args:
        container: what `errorbar` drew.
        axis: 1 of upright intervals, 0 of level ones.
    """
    (lines,) = container[2]
    segments = [np.asarray(segment) for segment in lines.get_segments()]
    return [
        (float(s[:, axis].min()), float(s[:, axis].max())) if len(s) else (np.nan, np.nan)
        for s in segments
    ]


def looks_of(containers: Sequence[ErrorbarContainer]) -> set[str]:
    """What tells series apart without colour: their markers."""
    return {str(container[0].get_marker()) for container in containers}
