"""CSV tables: declared columns, every digit, no half-written file."""

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.storage.tables import read_table, write_table

texts = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))


@given(st.lists(st.tuples(texts, st.integers(), st.floats(allow_nan=False))))
def test_every_cell_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, int, float]]
) -> None:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    columns = ["task", "n_tokens", "fraction"]
    write_table(path, columns, (dict(zip(columns, row, strict=True)) for row in cells))
    found = read_table(path)
    assert [(r["task"], int(r["n_tokens"]), float(r["fraction"])) for r in found] == cells


def test_what_is_missing_and_what_is_no_number_differ(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, ["a", "b"], [{"b": math.nan, "a": None}])
    assert path.read_bytes() == b"a,b\n,nan\n"


def test_an_empty_table_has_its_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, ["a", "b"], [])
    assert path.read_bytes() == b"a,b\n"
    assert read_table(path) == []


@pytest.mark.parametrize("row", [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 2}])
def test_other_columns_are_our_bug_and_leave_the_file_alone(
    tmp_path: Path, row: dict[str, int]
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="expected"):
        write_table(path, ["a", "b"], [row])
    assert path.read_text() == "old"


def many_rows(n_rows: int, path: Path, sizes: list[int]) -> Iterator[dict[str, int]]:
    """Rows that are made one by one; what lies on the disk at each thousandth is noted."""
    for number in range(n_rows):
        if number % 1000 == 0:
            sizes.append(path.with_name(f".{path.name}.partial").stat().st_size)
        yield {"a": number, "b": number}


def test_rows_go_to_the_disk_as_they_come(tmp_path: Path) -> None:
    path, sizes = tmp_path / "table.csv", []
    write_table(path, ["a", "b"], many_rows(1, path, []))  # what is imported once is
    tracemalloc.start()
    write_table(path, ["a", "b"], many_rows(40_000, path, sizes))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000 < path.stat().st_size / 2
    assert sizes[0] < sizes[20] < sizes[-1]
    assert sizes[20] > 0.45 * path.stat().st_size
    assert path.read_bytes().endswith(b"39999,39999\n")


def test_rows_that_fail_leave_the_file_and_the_folder_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_table(path, ["a"], rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
