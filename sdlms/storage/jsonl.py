"""JSON Lines: one JSON object per line (`meta.jsonl`, manifests, documents), may be compressed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdlms.errors import UserError
from sdlms.storage.compressed import open_binary


def encode_line(record: dict[str, Any]) -> bytes:
    """One record as a line of UTF-8 with its newline; half a surrogate pair stays escaped.

    Halves come from file names and arguments that are not UTF-8 (`os.fsdecode`).
    """
    return (json.dumps(record, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, record); blank lines are passed over.

    Raises:
        UserError: a line is not a JSON object, naming file and line number, or is not UTF-8; a
            compressed file is damaged.
    """
    with open_binary(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            yield number, _decode_line(path, number, line)


def _decode_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse one line or say what is wrong with it."""
    where = f"{path}:{number}"
    try:
        record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text; is this a binary file?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}, column {error.colno}).") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON (nested too deeply).") from None
    except ValueError:
        raise UserError(f"{where}: a number has thousands of digits.") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(record).__name__}.")
    return record
