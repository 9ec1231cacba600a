"""A user's table of labels: every row is taken as it is written, or refused in one line."""

from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.storage.labels import Label, read_labels


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_documents_with_a_mark_in_front_and_columns_beside(tmp_path: Path) -> None:
    text = '﻿note,label,document_id\r\n"a, b",yes,d1\r\n,"né ""x""",d2\r\n'
    found = read_labels(write(tmp_path / "t.csv", text))
    assert found == [Label("d1", None, "yes"), Label("d2", None, 'né "x"')]


def test_blanks_around_names_and_further_columns_of_one_name(tmp_path: Path) -> None:
    text = "document_id , label,note,note,,\nd1,yes,1,2,,\n"
    assert read_labels(write(tmp_path / "t.csv", text)) == [Label("d1", None, "yes")]


def test_tokens_in_their_order(tmp_path: Path) -> None:
    text = "document_id,token,label\nd1,10,a\nd1,2,b\nd0,007,a\n"
    found = read_labels(write(tmp_path / "t.csv", text))
    assert found == [Label("d1", 10, "a"), Label("d1", 2, "b"), Label("d0", 7, "a")]


def test_a_row_that_comes_twice_counts_once(tmp_path: Path) -> None:
    text = "document_id,token,label\nd,0,a\nd,0,a\nd,1,b\nd,00,a\n"
    assert read_labels(write(tmp_path / "t.csv", text)) == [Label("d", 0, "a"), Label("d", 1, "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'document_id', but none."),
        ("document_id,label\n", "holds no labels"),
        ("id,label\nd,a\n", "no column 'document_id', but id, label."),
        ("document_id,lable\nd,a\n", "no column 'label', but document_id, lable. Did you mean 'la"),
        ("document_id;label\nd;a\n", "Needed: document_id,label or document_id,token,label."),
        ("document_id,label\nd,\n", "line 2: document_id or label is empty"),
        ('document_id,label\nd,"a\nb"\n,c\n', "line 4: document_id or label is empty"),
        ("document_id,label\nd\n", "line 2: document_id or label is empty"),
        ("document_id,token,label\nd,,a\n", "line 2: token '' is no index from 0"),
        ("document_id,token,label\nd,+1,a\n", "token '+1' is no index"),
        ("document_id,token,label\nd, 1,a\n", "token ' 1' is no index"),
        ("document_id,token,label\nd,1e2,a\n", "token '1e2' is no index"),
        ("document_id,label\nd,a\nd,b\n", "document d has two labels"),
        ("document_id,token,label\nd,3,a\nd,3,b\n", "document d, token 3, has two labels"),
        ("document_id,label,label\nd,a,b\n", "has 2 columns 'label'. Leave one of them."),
        ("document_id, document_id ,label\nd,e,a\n", "has 2 columns 'document_id'"),
        ("document_id,token,token,label\nd,1,2,a\n", "has 2 columns 'token'"),
        ("document_id,label\nd,a\0b\n", "line 2: document_id or label holds a NUL byte"),
        ("document_id,label\nd\0,a\n", "line 2: document_id or label holds a NUL byte"),
        (f"document_id,label\nd,{'a' * 200_000}\n", "is no CSV table in UTF-8 (field larger"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(UserError) as refused:
        read_labels(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_another_encoding_and_no_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "document_id,label\nd,é\n", "latin-1")
    with pytest.raises(UserError, match="is no CSV table in UTF-8"):
        read_labels(path)
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        read_labels(tmp_path)
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_labels(tmp_path / "none.csv")
