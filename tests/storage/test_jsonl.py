"""JSON Lines: what is written is read back; what is malformed is named with its line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage.jsonl import encode_line, read_jsonl

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
records = st.dictionaries(st.text(max_size=8), values, max_size=4)


@given(st.lists(records, max_size=5))
def test_records_come_back_in_order_with_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, object]]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "records.jsonl"
    path.write_bytes(b"".join(encode_line(record) for record in written))
    assert list(read_jsonl(path)) == list(enumerate(written, start=1))


@given(records)
def test_a_record_is_one_line(record: dict[str, object]) -> None:
    line = encode_line(record)
    assert line.endswith(b"\n") and line.count(b"\n") == 1


def test_a_name_that_is_not_utf8_survives() -> None:
    record = {"path": "caf\udce9.txt"}  # os.fsdecode of a Latin-1 name
    line = encode_line(record)
    assert json.loads(line.decode()) == record
    assert encode_line(json.loads(line)) == line


def test_blank_lines_bom_and_crlf_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "\xc3\xa9"}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": "é"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": }', r":2: not valid JSON \(.*column 7\)"),
        (b'{"a": 1} {"b": 2}', r":2: not valid JSON"),
        (b"[1, 2]", r":2: expected a JSON object, got list"),
        (b'"text"', r":2: expected a JSON object, got str"),
        (b"\xff\xfe", r":2: not UTF-8 text; is this a binary file"),
        (b'\xef\xbb\xbf{"a": 1}', r":2: not valid JSON"),
        (b"[" * 100_000, r":2: not valid JSON \(nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", r":2: a number has thousands of digits"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"good": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=message):
        list(read_jsonl(path))
