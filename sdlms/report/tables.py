"""The tables of a run: their first rows, every column, and how many rows there are."""

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sdlms.progress import readable_bytes
from sdlms.report.html import Content, Html, element, folded, grid, of_class
from sdlms.runs.meta import Record
from sdlms.runs.reading import Run

FIRST_ROWS = 20
LONGEST_CELL = 120  # characters
DIGITS = 5
FIT_ON_PAPER = 8  # columns
FRACTIONAL = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


class Head(NamedTuple):
    """The beginning of a table.

    Attributes:
        columns: their names.
        rows: the first ones.
        n_rows: of the whole table.
    """

    columns: list[str]
    rows: list[list[str]]
    n_rows: int


def read_head(path: Path) -> Head:
    """The first rows of a CSV file; the others are only counted, and need no memory."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        columns = next(reader, [])
        rows = list(islice(reader, FIRST_ROWS))
        return Head(columns, rows, len(rows) + sum(1 for _ in reader))


def tables_of(run: Run) -> Iterator[Html]:
    """Every table that lies in the run itself; those of folders below are too many."""
    for record in run.all_of("output"):
        if "columns" in record and "/" not in record["path"]:
            head = read_head(run.path / record["path"])
            yield folded(_summary(record["path"], head), _beginning(run, record, head))


def _summary(name: str, head: Head) -> Content:
    """What a table is."""
    size = f" {head.n_rows:,} rows, {len(head.columns):,} columns"
    return [element("code", name), size]


def _beginning(run: Run, record: Record, head: Head) -> Content:
    """The rows, and what is not shown."""
    name = str(record["path"])
    said = [f"Numbers are rounded to {DIGITS} digits."]
    if head.n_rows > len(head.rows):
        size = readable_bytes(record["bytes"])
        said.insert(0, f"The first {len(head.rows)} of {head.n_rows:,} rows; all: {name}, {size}.")
    if timed := record.get("timed"):
        said.append(f"Measured times, which differ from run to run: {', '.join(map(str, timed))}.")
    rows = [[shown(cell) for cell in row] for row in head.rows]
    places = range(len(head.columns))
    numeric = [
        place
        for place in places
        if all(_is_number(cell) for row in head.rows for cell in row[place:][:1])
    ]
    table = grid(f"{name} of {run.name}", head.columns, rows, numeric)
    note: list[Content] = [" ".join(said)]
    if len(head.columns) > FIT_ON_PAPER:
        note.append(of_class("paper", "span", " On paper columns beyond its edge are missing."))
    return [of_class("note", "p", note), table]


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, or has none."""
    return cell in ("", "nan") or FRACTIONAL.fullmatch(cell) is not None


def shown(cell: str) -> str:
    """A cell as it is shown: numbers rounded, long texts cut."""
    if FRACTIONAL.fullmatch(cell) and not cell.lstrip("-").isdigit():
        return f"{float(cell):.{DIGITS}g}"
    return cell if len(cell) <= LONGEST_CELL else f"{cell[:LONGEST_CELL]}…"
