"""Parquet files: rows in order, only the columns that are asked for, damage in one line."""

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from sdlms.errors import UserError
from sdlms.storage.parquet import read_parquet
from tests.storage.hub_layout import write_parquet

ROWS = [{"text": f"row {number}", "choices": {"text": ["a", "b"]}} for number in range(2500)]


def test_rows_come_in_order_with_their_numbers(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    assert list(read_parquet(path, ["text", "choices.text"])) == list(enumerate(ROWS, start=1))
    columns = [list(row) for _, row in read_parquet(path, ["choices.text"])]
    assert columns == [["choices"]] * len(ROWS)


def test_rows_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=1000)
    content = bytearray(path.read_bytes())
    offset = pyarrow.parquet.read_metadata(path).row_group(2).column(0).data_page_offset
    content[offset : offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    rows = read_parquet(path, ["text"])
    assert [next(rows) for _ in range(1500)][-1] == (1500, {"text": "row 1499"})
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as parquet: "):
        list(rows)


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary("int8", "string")])
def test_text_may_be_stored_in_several_ways(tmp_path: Path, kind: pyarrow.DataType) -> None:
    table = pyarrow.table({"text": pyarrow.array(["a", None, "a"]).cast(kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = [row["text"] for _, row in read_parquet(tmp_path / "a.parquet", ["text"])]
    assert rows == ["a", None, "a"]


def test_an_unknown_column_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(UserError) as error:
        list(read_parquet(path, ["body"]))
    assert str(error.value) == f"{path}: no field 'body'. Known: text, choices."


def test_a_column_that_stands_twice_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table([["a"], ["b"], ["c"]], names=["text", "id", "text"])
    pyarrow.parquet.write_table(table, path)
    assert list(read_parquet(path, ["id"])) == [(1, {"id": "b"})]
    with pytest.raises(UserError) as error:
        list(read_parquet(path, ["id", "text"]))
    assert str(error.value) == f"{path}: 2 columns are named 'text'. Rename them."


@pytest.mark.parametrize(("first", "last"), [(0, -1), (0, 100), (4, None), (0, 3)])
def test_a_part_of_a_file_is_refused(tmp_path: Path, first: int, last: int | None) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[first:last])
    with pytest.raises(UserError) as error:
        list(read_parquet(path, ["text"]))
    assert str(error.value).startswith(f"{path}: cannot be read as parquet: ")
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    wrong = pyarrow.StringArray.from_buffers(
        1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": wrong}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="can't decode"):
        list(read_parquet(tmp_path / "a.parquet", ["text"]))


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what find_spec takes for missing
    with pytest.raises(UserError, match=r"pip install 'sdlms\[datasets\]'"):
        list(read_parquet(path, ["text"]))
