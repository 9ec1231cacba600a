"""Files and data sets as texts: JSON Lines, parquet, plain text, and what compresses them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from sdlms.errors import UserError
from sdlms.storage.compressed import content_name, is_compressed
from sdlms.storage.datasets import DataSplit
from sdlms.storage.fields import text_of
from sdlms.storage.jsonl import read_jsonl
from sdlms.storage.manifests import RECORD_KEYS, Selection
from sdlms.storage.parquet import read_parquet
from sdlms.storage.texts import paragraphs, read_text

JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")
RECORD_FILES = (*JSON_LINES, ".parquet")


def holds_records(path: Path) -> bool:
    """Whether a file holds records with fields, by its name."""
    return content_name(path).suffix.lower() in RECORD_FILES


def check_file(path: Path, where: str) -> None:
    """Refuse what cannot be read; `where` opens the message.

    Raises:
        UserError: it is missing, empty, locked, a folder, or no ordinary file.
    """
    try:
        if path.is_dir():
            raise UserError(f"{where}: is a folder; a file is needed.")
        if path.exists() and not path.is_file():
            raise UserError(f"{where}: is no ordinary file; it must be possible to read it twice.")
        with path.open("rb") as file:
            if not file.read(1):
                raise UserError(f"{where}: the file is empty.")
    except (FileNotFoundError, ValueError):  # ValueError: no file can have such a name
        raise UserError(f"{where}: no such file.") from None
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}.") from None


def file_texts(path: Path, where: str, selection: Selection) -> Iterator[str]:
    """The documents of one file, blank rows of parquet files among them.

    Args:
        path: JSON Lines (`JSON_LINES`) or parquet (`.parquet`); any other file is plain text.
        where: opens the message when the file cannot be read.
        selection: how records become documents.

    Raises:
        UserError: the file is missing, empty, binary, damaged or malformed.
    """
    check_file(path, where)
    kind = content_name(path).suffix.lower()
    if kind == ".json":
        raise UserError(f"{where}: a .json file is not read; write JSON Lines, named .jsonl.")
    if kind == ".parquet" and is_compressed(path):
        raise UserError(f"{where}: parquet is compressed inside; decompress the file first.")
    if kind in RECORD_FILES:
        read = _jsonl_texts if kind in JSON_LINES else _parquet_texts
        yield from _documents(read(path, selection), selection)
    elif selection != Selection():
        raise UserError(
            f"{where}: {', '.join(RECORD_KEYS)} are for data sets, .jsonl and .parquet files."
        )
    else:
        yield from paragraphs(read_text(path))


def dataset_texts(split: DataSplit, selection: Selection) -> tuple[int, list[str]]:
    """The number of rows that were read, and the documents they make, blank ones among them.

    Raises:
        UserError: a field is missing or holds no text.
    """
    rows = [
        text_of(f"{split.where}, row {number}", record, selection.fields)
        for number, record in split.read(selection.fields, selection.rows)
    ]
    return len(rows), list(_documents(rows, selection))


def checked_text(where: str, text: str) -> str:
    """A text, unless it is blank or a JSON escape left half a surrogate pair in it.

    Raises:
        UserError: it is one of these.
    """
    if not text.strip():
        raise UserError(f"{where}: the text is empty. Take the line out.")
    return _whole_text(where, text)


def _whole_text(where: str, text: str) -> str:
    """A text without halves of surrogate pairs, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half of a surrogate pair.") from None
    return text


def _documents(texts: Iterable[str], selection: Selection) -> Iterator[str]:
    """The documents that the texts of records make."""
    if selection.kind == "lines":
        yield from paragraphs("\n".join(text.removesuffix("\n") for text in texts))
    else:
        yield from texts


def _jsonl_texts(path: Path, selection: Selection) -> Iterator[str]:
    """One text per line; a blank document is refused, for its line can be taken out."""
    check = _whole_text if selection.kind == "lines" else checked_text
    for number, record in islice(read_jsonl(path), selection.rows):
        where = f"{path}:{number}"
        yield check(where, text_of(where, record, selection.fields))


def _parquet_texts(path: Path, selection: Selection) -> Iterator[str]:
    """One text per row."""
    for number, record in islice(read_parquet(path, selection.fields), selection.rows):
        yield text_of(f"{path}, row {number}", record, selection.fields)
