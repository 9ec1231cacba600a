"""CSV tables with declared columns; floats keep every digit, so equal values give equal bytes."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sdlms.storage.files import replacing

Cell = str | int | float | None


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write rows in order; each must hold exactly `columns`. NaN is written `nan`, None empty.

    Rows go to the disk as they come, so that a table may be larger than the memory.

    Raises:
        ValueError: a row has other columns.
    """
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            if set(row) != set(columns):
                raise ValueError(f"row has columns {sorted(row)}, expected {sorted(columns)}")
            writer.writerow(row)
        text.detach()


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows as text, column by name."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
