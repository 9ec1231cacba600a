from pathlib import Path

import pytest

from sdlms.report.html import markup_of
from sdlms.report.tables import FIRST_ROWS, LONGEST_CELL, read_head, shown, tables_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import write_table
from tests.report.test_html import Seen

COLUMNS = [f"column_{number}" for number in range(12)]


def run_with(artifacts: Path, n_rows: int, cell: str) -> Run:
    """A run of one wide table, and another one in a folder below."""
    with RunWriter("tiny", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        (out.path / "below").mkdir()
        for name in ("table.csv", "below/table.csv"):
            rows = [{name: cell for name in COLUMNS} | {"column_0": n} for n in range(n_rows)]
            write_table(out.path / name, COLUMNS, rows)
            out.output(name, columns=COLUMNS, timed=["column_3"])
    return Run(out.path)


def test_the_first_rows_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    run = run_with(tmp_path, 1000, "0.123456789")
    head = read_head(run.path / "table.csv")
    assert (head.columns, len(head.rows), head.n_rows) == (COLUMNS, FIRST_ROWS, 1000)
    (table,) = tables_of(run)
    seen = Seen(table.markup)
    assert seen.tags.count("tr") == FIRST_ROWS + 1
    assert seen.tags.count("th") == len(COLUMNS)
    assert f"The first {FIRST_ROWS} of 1,000 rows; all: table.csv" in seen.text
    assert "1,000 rows, 12 columns" in seen.text
    assert "Measured times, which differ from run to run: column_3" in seen.text
    assert "0.12346" in seen.text and "0.123456789" not in seen.text


def test_a_short_table_is_shown_whole(tmp_path: Path) -> None:
    (table,) = tables_of(run_with(tmp_path, 3, "text"))
    seen = Seen(table.markup)
    assert seen.tags.count("tr") == 4
    assert "The first" not in seen.text


def test_a_large_table_takes_no_more_room_than_a_small_one(tmp_path: Path) -> None:
    sizes = [
        len(markup_of(tables_of(run_with(tmp_path / str(n), n, "x" * 1000)))) for n in (25, 250)
    ]
    assert abs(sizes[1] - sizes[0]) < 100
    assert sizes[0] < FIRST_ROWS * len(COLUMNS) * (LONGEST_CELL + 20)


def test_texts_in_cells_stay_texts(tmp_path: Path) -> None:
    (table,) = tables_of(run_with(tmp_path, 1, "<img src=x onerror=alert(1)>"))
    assert "img" not in Seen(table.markup).tags


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("0.1234567", "0.12346"),
        ("-1.5e-12", "-1.5e-12"),
        ("123456789", "123456789"),
        ("-123456789", "-123456789"),
        ("nan", "nan"),
        ("", ""),
        ("1_000.5", "1_000.5"),
        ("mlp_act", "mlp_act"),
        ("x" * 121, "x" * 120 + "…"),
    ],
)
def test_cells(cell: str, expected: str) -> None:
    assert shown(cell) == expected


def test_an_empty_file_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    assert read_head(tmp_path / "empty.csv") == ([], [], 0)
