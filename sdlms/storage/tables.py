"""CSV tables with declared columns; floats keep every digit, so equal values give equal bytes."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sdlms.storage.files import write_atomically

Cell = str | int | float | None


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write rows in order; each must hold exactly `columns`. NaN is written `nan`, None empty.

    Raises:
        ValueError: a row has other columns.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"row has columns {sorted(row)}, expected {sorted(columns)}")
        writer.writerow(row)
    write_atomically(path, text.getvalue().encode())


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows as text, column by name."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
