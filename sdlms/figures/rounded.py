"""Rows of a run's table as people read them: three digits, and an interval beside its value."""

from math import isnan

from sdlms.figures.panels import CONFIDENCE_95, Row, table_of
from sdlms.runs.reading import Run
from sdlms.storage.tables import Cell

DIGITS = 3
LOW, HIGH, ERROR = "low", "high", "se"


def rounded(number: float) -> str:
    """A number as it is read: three digits, thousands as people write them."""
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e9 else f"{number:.{DIGITS}g}"


def rounded_rows(run: Run, file: str, stage: str) -> list[dict[str, Cell]]:
    """A table with fewer columns: `value`, `value_low` and `value_high` become one.

    Whole numbers stay what they are, others are rounded to three digits, an empty cell is an
    empty text. A value that has an interval is text, `0.912 [0.874, 0.95]`; a standard error is
    drawn out to an interval of 95 %. The full digits are in the file.

    Args:
        run: whose table.
        file: its name.
        stage: that makes it, for the message.

    Raises:
        UserError: the run has no such table.
    """
    rows = table_of(run, file, stage)
    ends = _intervals(list(rows[0])) if rows else {}
    taken = {name for pair in ends.values() for name in pair}
    return [
        {
            name: _with_interval(row, name, ends[name]) if name in ends else _cell(text)
            for name, text in row.items()
            if name not in taken
        }
        for row in rows
    ]


def _intervals(columns: list[str]) -> dict[str, tuple[str, ...]]:
    """By the column of a value, those of its interval: both ends, or a standard error.

    Ends belong to the column whose name they begin with; where there is none, to the one before
    them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for place, name in enumerate(columns):
        value, _, end = name.rpartition("_")
        if end == ERROR and value in columns:
            found[value] = (name,)
        elif end == LOW:
            high = f"{name.removesuffix(LOW)}{HIGH}"
            found[value if value in columns else columns[place - 1]] = (name, high)
    return found


def _with_interval(row: Row, name: str, ends: tuple[str, ...]) -> Cell:
    """A value and its interval; alone where the table has none for this row."""
    numbers = [float(row[column] or "nan") for column in (name, *ends)]
    if any(map(isnan, numbers)):
        return _cell(row[name])
    value, *others = numbers
    if len(others) == 1:
        reach = CONFIDENCE_95 * others[0]
        others = [value - reach, value + reach]
    return f"{rounded(value)} [{', '.join(map(rounded, others))}]"


def _cell(text: str) -> Cell:
    """A cell as what it is: a whole number, another one, or text."""
    try:
        return int(text) if text.removeprefix("-").isdigit() else float(f"{float(text):.{DIGITS}g}")
    except ValueError:
        return text
