"""Labels of a user's: a CSV table `document_id,label`, or `document_id,token,label`."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from sdlms.errors import UserError, did_you_mean

DOCUMENT, TOKEN, LABEL = "document_id", "token", "label"


class Label(NamedTuple):
    """One row.

    Attributes:
        document_id: as `/documents/id` has it.
        token: index from the document's first token, special tokens counted; None for all of it.
        label: any text.
    """

    document_id: str
    token: int | None
    label: str


def read_labels(path: Path) -> list[Label]:
    """The labels of documents, or of single tokens; further columns are left aside.

    Raises:
        UserError: the file cannot be read, lacks a column, or a row is wrong or comes twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = [name.strip() for name in table.fieldnames or []]
            has_tokens = _check_columns(path, columns)
            table.fieldnames = columns
            labels = [_label(f"{path}, line {table.line_num}", row, has_tokens) for row in table]
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV table in UTF-8 ({error}).") from None
    if not labels:
        raise UserError(f"{path} holds no labels.")
    seen: dict[tuple[str, int | None], str] = {}
    for item in labels:
        if seen.setdefault(item[:2], item.label) != item.label:
            where = "" if item.token is None else f", token {item.token},"
            raise UserError(f"{path}: document {item.document_id}{where} has two labels.")
    return list(dict.fromkeys(labels))


def _check_columns(path: Path, columns: list[str]) -> bool:
    """Whether single tokens are labelled; refuse a table without the columns that are needed."""
    for name in (DOCUMENT, LABEL):
        if name not in columns:
            raise UserError(
                f"{path} has no column '{name}', but {', '.join(columns) or 'none'}."
                f"{did_you_mean(name, columns)} Needed: {DOCUMENT},{LABEL} or "
                f"{DOCUMENT},{TOKEN},{LABEL}."
            )
    for name in (DOCUMENT, TOKEN, LABEL):
        if columns.count(name) > 1:
            raise UserError(
                f"{path} has {columns.count(name)} columns '{name}'. Leave one of them."
            )
    return TOKEN in columns


def _label(where: str, row: dict[str, str | None], has_tokens: bool) -> Label:
    """One row, checked."""
    document, label = row[DOCUMENT], row[LABEL]
    if not document or not label:
        raise UserError(f"{where}: {DOCUMENT} or {LABEL} is empty.")
    if "\0" in document + label:
        raise UserError(f"{where}: {DOCUMENT} or {LABEL} holds a NUL byte. Remove it.")
    if not has_tokens:
        return Label(document, None, label)
    token = row[TOKEN] or ""
    if not re.fullmatch("[0-9]{1,15}", token):
        raise UserError(f"{where}: token '{token}' is no index from 0.")
    return Label(document, int(token), label)
