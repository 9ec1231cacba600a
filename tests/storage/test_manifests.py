"""Manifest lines: what each says, and how a malformed one is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdlms.errors import UserError
from sdlms.storage.manifests import ManifestLine, Selection, read_manifest_lines

SQUAD = {"task": "qa", "dataset": "rajpurkar/squad", "split": "validation"}


def lines(folder: Path, *records: object) -> list[ManifestLine]:
    path = folder / "m.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return list(read_manifest_lines(path))


def test_each_source_is_read_with_its_keys(tmp_path: Path) -> None:
    text, file, data = lines(
        tmp_path,
        {"task": "a", "text": "A text."},
        {"task": "b", "file": "b.jsonl.gz", "field": "body", "rows": 7},
        {**SQUAD, "revision": "main", "fields": ["context", "question"], "as": "lines"},
    )
    assert text == ManifestLine(
        where=f"{tmp_path}/m.jsonl:1",
        task="a",
        source="text",
        value="A text.",
        keys={},
        selection=Selection(("text",), None, "documents"),
    )
    assert (file.source, file.value) == ("file", "b.jsonl.gz")
    assert file.selection == Selection(("body",), 7, "documents")
    assert (data.source, data.value) == ("dataset", "rajpurkar/squad")
    assert (data.keys["split"], data.keys["revision"]) == ("validation", "main")
    assert "config" not in data.keys
    assert data.selection == Selection(("context", "question"), None, "lines")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**SQUAD, "splits": "test"}, "unknown key 'splits'. Did you mean 'split'?"),
        ({"task": "a"}, "needs either 'text' or 'file' or 'dataset'."),
        ({**SQUAD, "file": "a.txt"}, "needs either 'text' or 'file' or 'dataset'."),
        ({"task": "a", "dataset": "b/c"}, "a data set needs 'split'."),
        ({"task": "a", "text": "b", "field": "c"}, "'field' does not go with 'text'."),
        ({"task": "a", "file": "b", "split": "c"}, "'split' does not go with 'file'."),
        ({**SQUAD, "field": "a", "fields": ["b"]}, "'field' and 'fields' exclude each other."),
        ({**SQUAD, "field": ["a"]}, "'field' must be a string, got ['a']."),
        ({**SQUAD, "config": None}, "'config' must be a string, got None."),
        ({**SQUAD, "as": ["lines"]}, "'as' must be a string, got ['lines']."),
        ({**SQUAD, "as": "text"}, "'as' must be documents or lines, got 'text'."),
        *(
            ({**SQUAD, "fields": fields}, f"'fields' must be a list of strings, got {fields!r}.")
            for fields in ("a", [], ["a", 1], None)
        ),
        *(
            ({**SQUAD, "rows": rows}, f"'rows' must be an integer >= 1, got {rows!r}.")
            for rows in (0, -1, 1.5, "5", True, None)
        ),
    ],
)
def test_a_malformed_line_is_named_by_its_number(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        lines(tmp_path, {"task": "a", "text": "fine"}, record)
    assert str(error.value).startswith(f"{tmp_path}/m.jsonl:2: {message}")
