"""Files and data sets give the same documents, whatever they are stored in."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import zstandard

from sdlms.errors import UserError
from sdlms.storage.datasets import DataSplit
from sdlms.storage.manifests import Selection
from sdlms.storage.sources import check_file, dataset_texts, file_texts, holds_records
from sdlms.storage.texts import paragraphs
from tests.storage.hub_layout import write_parquet

ROWS = [{"q": f"question {n}", "a": ["yes", "no"], "text": f"text {n}"} for n in range(20)]
# As WikiText has them: headings, paragraphs of one line, blank rows around headings.
WIKI = ["", " = Title = \n", "", " A first paragraph . \n", " A second . \n", ""]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def texts(path: Path, selection: Selection = Selection()) -> list[str]:  # noqa: B008
    return list(file_texts(path, f"here: {path.name}", selection))


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def refusal(path: Path, selection: Selection = Selection()) -> str:  # noqa: B008
    with pytest.raises(UserError) as error:
        texts(path, selection)
    return str(error.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("packed", list(PACK))
@pytest.mark.parametrize("kind", [".jsonl", ".txt", ".JSONL", ".ndjson", ".jsonlines", ""])
def test_compression_changes_nothing(tmp_path: Path, kind: str, packed: str) -> None:
    plain = write_jsonl(tmp_path / f"a{kind}", ROWS)
    path = tmp_path / f"b{kind}{packed}"
    path.write_bytes(PACK[packed](plain.read_bytes()))
    assert texts(path) == texts(plain)
    assert holds_records(path) == (kind not in (".txt", ""))
    if holds_records(path):
        assert texts(path) == [row["text"] for row in ROWS]
    else:
        assert texts(path) == list(paragraphs(plain.read_text()))


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(("q", "a")),
        Selection(("q",), rows=3),
        Selection(("text",), kind="lines"),
        Selection(("text",), rows=1, kind="lines"),
    ],
)
def test_json_lines_parquet_and_data_sets_agree(tmp_path: Path, selection: Selection) -> None:
    found = texts(write_jsonl(tmp_path / "a.jsonl", ROWS), selection)
    assert texts(write_parquet(tmp_path / "a.parquet", ROWS), selection) == found
    split = DataSplit("here", "default", None, datasets.Dataset.from_list(ROWS))
    assert dataset_texts(split, selection) == (selection.rows or 20, found)
    if selection.kind == "documents":
        assert len(found) == (selection.rows or 20)


def test_lines_are_one_text_whose_blank_rows_part_paragraphs(tmp_path: Path) -> None:
    rows = [{"text": text} for text in WIKI * 3]
    selection = Selection(kind="lines")
    found = texts(write_parquet(tmp_path / "a.parquet", rows), selection)
    assert found == list(paragraphs("".join(text or "\n" for text in WIKI * 3)))
    assert found[0].startswith(" = Title = \n\n A first paragraph . \n A second . \n\n = Title")
    assert texts(write_jsonl(tmp_path / "a.jsonl", rows), selection) == found


def test_blank_rows_of_parquet_are_given_and_those_of_json_lines_refused(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": " "}, {"text": None}, {"text": "b"}]
    assert texts(write_parquet(tmp_path / "a.parquet", rows)) == ["a", " ", "", "b"]
    message = "a.jsonl:2: the text is empty. Take the line out."
    assert refusal(write_jsonl(tmp_path / "a.jsonl", rows)) == message


def test_a_row_without_text_is_named_by_its_number(tmp_path: Path) -> None:
    rows = [{"n": [1]}, {"n": [2]}]
    message = "field 'n' must be a string or a list of strings, got 1."
    assert refusal(write_parquet(tmp_path / "a.parquet", rows), Selection(("n",))) == (
        f"a.parquet, row 1: {message}"
    )
    split = DataSplit("here: data set d", "default", None, datasets.Dataset.from_list(rows))
    with pytest.raises(UserError) as error:
        dataset_texts(split, Selection(("n",)))
    assert str(error.value) == f"here: data set d, row 1: {message}"


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_one_large_json_value_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"[]")
    assert refusal(tmp_path / name).startswith(f"here: {name}: a .json file is not read")


def test_parquet_inside_a_compressed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    assert refusal(tmp_path / "a.parquet.gz") == (
        "here: a.parquet.gz: parquet is compressed inside; decompress the file first."
    )


@pytest.mark.parametrize(
    "selection", [Selection(("q",)), Selection(rows=3), Selection(kind="lines")]
)
def test_plain_text_has_no_records_to_choose_from(tmp_path: Path, selection: Selection) -> None:
    (tmp_path / "a.txt").write_text("words")
    assert refusal(tmp_path / "a.txt", selection) == (
        "here: a.txt: field, fields, rows, as are for data sets, .jsonl and .parquet files."
    )


def test_an_empty_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UserError, match=r"^here: the file is empty\.$"):
        check_file(tmp_path / "a.parquet", "here")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b""))
    assert refusal(tmp_path / "a.txt.gz") == "a.txt.gz: the file holds no text."
