"""Records of conversations: one JSON file each, replaced as a whole and checked when it is read."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from sdlms.storage.files import write_atomically

FORMAT = "sdlms conversation"
VERSION = 1
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RECORD = b',"record":'
_TAIL = b"}\n"


class DamagedFileError(Exception):
    """A file is not what was written: flipped, cut, or by another program or version."""


def checked_id(conversation: str) -> str:
    """The id itself, which names files.

    Raises:
        ValueError: it is not 1 to 64 letters, digits, `_` or `-`; whoever takes ids from outside
            refuses them before.
    """
    if not ID.fullmatch(conversation):
        raise ValueError(f"no conversation can have the id {conversation!r}")
    return conversation


def encode_record(record: dict[str, Any]) -> bytes:
    """One record as JSON, in ASCII: half a surrogate pair stays escaped.

    Raises:
        TypeError: it holds what JSON has no words for.
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()


def decode_record(content: bytes) -> dict[str, Any]:
    """What `encode_record` made.

    Raises:
        DamagedFileError: it is no JSON object.
    """
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        raise DamagedFileError("not valid JSON") from None
    if not isinstance(record, dict):
        raise DamagedFileError("no JSON object")
    return record


def write_conversation(path: Path, conversation: str, content: bytes) -> None:
    """Write an encoded record with its id and checksum; the file holds the old or the new one.

    Raises:
        UserError: it cannot be written, as on a full disk.
    """
    write_atomically(path, _head(conversation, content) + content + _TAIL)


def read_conversation(path: Path, conversation: str) -> bytes:
    """The encoded record in a file.

    Raises:
        DamagedFileError: a byte is not as it was written, or it is of another conversation.
        OSError: it cannot be read; FileNotFoundError where there is none.
    """
    whole = path.read_bytes()
    start = whole.find(_RECORD) + len(_RECORD)
    content = whole[start : -len(_TAIL)]
    if whole != _head(conversation, content) + content + _TAIL:
        raise DamagedFileError("the checksum does not fit")
    return content


def quarantine(path: Path) -> Path:
    """Rename a file to `NAME.damaged-1`, or the first number that is free, and say where it is.

    Raises:
        OSError: it cannot be renamed.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    return path.rename(aside)


def _head(conversation: str, content: bytes) -> bytes:
    """What stands before the record."""
    about = {"format": FORMAT, "version": VERSION, "id": conversation}
    about["sha256"] = hashlib.sha256(content).hexdigest()
    return json.dumps(about, separators=(",", ":"))[:-1].encode() + _RECORD
