"""The text of a record: one or several fields, of JSON Lines, parquet and data sets alike."""

from collections.abc import Iterable, Iterator
from typing import Any

from sdlms.errors import UserError, did_you_mean

# How many rows of a table are decoded together: one at a time is slow, all may not fit.
ROWS_AT_ONCE = 1000


def columns_of(where: str, fields: Iterable[str], known: Iterable[str]) -> list[str]:
    """The columns of a table that fields need: `choices` for `choices.text`.

    Raises:
        UserError: the table has no such column.
    """
    names = list(known)
    columns = []
    for field in fields:
        column = field if field in names else field.partition(".")[0]
        if column not in names:
            raise UserError(f"{where}: no field '{field}'.{did_you_mean(field, names)}")
        columns.append(column)
    return list(dict.fromkeys(columns))


def text_of(where: str, record: dict[str, Any], fields: Iterable[str]) -> str:
    """The texts of some fields, each beginning on a new line; lists give one line per item.

    `choices.text` is the field `text` of what stands in `choices`, also of every item where that
    is a list. What is null or empty is left out, so that the text may be empty.

    Raises:
        UserError: there is no such field, or it holds something else than text.
    """
    text = ""
    for field in fields:
        for piece in _texts(where, field, _value(where, record, field)):
            text += f"\n{piece}" if text and piece and not text.endswith("\n") else piece
    return text


def _value(where: str, record: dict[str, Any], field: str) -> Any:
    """What stands at a field; a key that itself holds dots goes first."""
    if field in record:
        return record[field]
    value: Any = record
    for key in field.split("."):
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, dict) or key not in item:
                hint = did_you_mean(field, _names(record))
                raise UserError(f"{where}: no field '{field}'.{hint}")
        value = [item[key] for item in items] if isinstance(value, list) else value[key]
    return value


def _names(record: dict[str, Any]) -> Iterator[str]:
    """The fields of a record, and those inside its objects."""
    for name, value in record.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


def _texts(where: str, field: str, value: Any) -> Iterator[str]:
    """The texts in a value: itself, or the items of a list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(where, field, item)
    elif value is not None:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
        raise UserError(
            f"{where}: field '{field}' must be a string or a list of strings, got {shown}."
        )
