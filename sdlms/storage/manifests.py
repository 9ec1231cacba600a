"""Probe-task manifests: JSON Lines, each naming a task and one source of its documents.

    {"task": "qa", "text": "…"}                                   one document
    {"task": "qa", "file": "qa.jsonl.gz", "field": "body"}        a file beside the manifest
    {"task": "qa", "dataset": "rajpurkar/squad", "config": "plain_text", "split": "validation",
     "revision": "main", "fields": ["context", "question"]}       a hub data set or a local folder

`rows` takes the first so many records only. `"as": "lines"` says that records are the lines of one
text, in which blank ones separate paragraphs; otherwise each record is a document.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sdlms.errors import UserError, did_you_mean
from sdlms.storage.jsonl import read_jsonl

DEFAULT_FIELD = "text"
Kind = Literal["documents", "lines"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Which keys go with each source, and what is no string.
RECORD_KEYS = ("field", "fields", "rows", "as")
KEYS_OF: dict[str, tuple[str, ...]] = {
    "text": (),
    "file": RECORD_KEYS,
    "dataset": ("config", "split", "revision", *RECORD_KEYS),
}
NO_STRINGS = ("fields", "rows")
MANIFEST_KEYS = ("task", *KEYS_OF, *KEYS_OF["dataset"])


@dataclass(frozen=True)
class Selection:
    """How records become documents.

    Attributes:
        fields: whose texts are joined; see `sdlms.storage.fields.text_of`.
        rows: how many records are read, from the first; None for all.
        kind: whether each record is one of the `documents` or the records are `lines` of a text.
    """

    fields: tuple[str, ...] = (DEFAULT_FIELD,)
    rows: int | None = None
    kind: Kind = "documents"


@dataclass(frozen=True)
class ManifestLine:
    """One line, checked.

    Attributes:
        where: opens messages about it: the manifest and the line's number.
        task: the task's name.
        source: `text`, `file` or `dataset`.
        value: the text, or the file or data set as it is written.
        keys: the other keys that are there.
        selection: how records become documents.
    """

    where: str
    task: str
    source: str
    value: str
    keys: dict[str, Any]
    selection: Selection


def read_manifest_lines(path: Path) -> Iterator[ManifestLine]:
    """The lines of a manifest.

    Raises:
        UserError: a line is malformed; the message names it by its number.
    """
    for number, record in read_jsonl(path):
        where = f"{path}:{number}"
        source = _checked_source(where, record)
        _check_values(where, record)
        task = record.get("task", "")
        if not TASK_NAME.fullmatch(task):
            raise UserError(
                f"{where}: 'task' must be a name of letters, digits, '.', '_' and '-', "
                f"got '{task}'."
            )
        others = {key: record[key] for key in record if key not in ("task", source)}
        yield ManifestLine(where, task, source, record[source], others, _selection(record))


def _checked_source(where: str, record: dict[str, Any]) -> str:
    """Which source a line names; its keys must be known and go with that source."""
    for key in record:
        if key not in MANIFEST_KEYS:
            hint = did_you_mean(key, MANIFEST_KEYS)
            raise UserError(f"{where}: unknown key '{key}'.{hint}")
    sources = [key for key in KEYS_OF if key in record]
    if len(sources) != 1:
        raise UserError(f"{where}: needs either 'text' or 'file' or 'dataset'.")
    (source,) = sources
    for key in record:
        if key not in ("task", source, *KEYS_OF[source]):
            raise UserError(f"{where}: '{key}' does not go with '{source}'.")
    if source == "dataset" and "split" not in record:
        raise UserError(f"{where}: a data set needs 'split'.")
    if "field" in record and "fields" in record:
        raise UserError(f"{where}: 'field' and 'fields' exclude each other. Give one of them.")
    return source


def _check_values(where: str, record: dict[str, Any]) -> None:
    """Refuse values of the wrong type."""
    for key, value in record.items():
        if key not in NO_STRINGS and not isinstance(value, str):
            raise UserError(f"{where}: '{key}' must be a string, got {value!r}.")
    fields, rows = record.get("fields", [""]), record.get("rows", 1)
    if not (isinstance(fields, list) and fields and all(isinstance(f, str) for f in fields)):
        raise UserError(f"{where}: 'fields' must be a list of strings, got {fields!r}.")
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise UserError(f"{where}: 'rows' must be an integer >= 1, got {rows!r}.")
    kind = record.get("as", KINDS[0])
    if kind not in KINDS:
        raise UserError(f"{where}: 'as' must be {' or '.join(KINDS)}, got '{kind}'.")


def _selection(record: dict[str, Any]) -> Selection:
    """How a line's records become documents."""
    fields = record.get("fields", [record.get("field", DEFAULT_FIELD)])
    return Selection(tuple(fields), record.get("rows"), record.get("as", KINDS[0]))
