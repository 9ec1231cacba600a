"""`meta.jsonl`: its lines, how they are appended, and the seal in the last one."""

import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdlms.storage.jsonl import encode_line

META = "meta.jsonl"
LAST_EVENTS = ("output", "log", "done")  # written together, when all else is
Record = dict[str, Any]


def event_record(event: str, fields: Record) -> Record:
    """One line, stamped with the time in UTC."""
    return {"event": event, "time": datetime.now(UTC).isoformat(timespec="microseconds"), **fields}


def as_read_back(record: Record) -> Record:
    """The record as it will be read from the file: tuples are lists there."""
    read: Record = json.loads(json.dumps(record))
    return read


def whole_lines(content: bytes) -> Iterator[tuple[Record, int]]:
    """Records, each with the offset behind it; the first torn or damaged line ends the reading."""
    end = 0
    for line in io.BytesIO(content):
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError):
            return
        if not (isinstance(record, dict) and isinstance(record.get("event"), str)):
            return
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield record, end


class MetaWriter:
    """Appends to `meta.jsonl`, from any thread; each line is on the disk when the call returns."""

    def __init__(self, path: Path) -> None:
        """Cut off what a killed writer left behind its work: a torn line, and the last records."""
        self.path = path
        self._appending = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._descriptor, _end_of_work(path))

    def event(self, event: str, fields: Record) -> None:
        """Append one record."""
        self._append(encode_line(event_record(event, fields)))

    def finish(self, records: list[Record], done: Record) -> None:
        """Append the last records and the seal, all at once."""
        lines = b"".join(encode_line(record) for record in records)
        so_far = self.path.read_bytes()
        self._append(lines + encode_line(seal(so_far + lines, done)))

    def _append(self, lines: bytes) -> None:
        """Append lines: all of them, or, when the disk is full, none."""
        if self._descriptor < 0:
            raise ValueError("the run is finished; nothing can be written into it")
        with self._appending:
            whole = os.fstat(self._descriptor).st_size
            with ExitStack() as undo:
                undo.callback(os.ftruncate, self._descriptor, whole)
                while lines:
                    lines = lines[os.write(self._descriptor, lines) :]
                os.fsync(self._descriptor)
                undo.pop_all()

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def _end_of_work(meta: Path) -> int:
    """Behind the last whole line before the last records."""
    end = 0
    for record, offset in whole_lines(meta.read_bytes()):
        if record["event"] in LAST_EVENTS:
            break
        end = offset
    return end


def seal(records_so_far: bytes, done: Record) -> Record:
    """`done` with the sha256 of everything before it and of itself, so that no byte can change."""
    digest = hashlib.sha256(records_so_far + encode_line(done)).hexdigest()
    return {**done, "meta_sha256": digest}


def seal_difference(meta: Path) -> str | None:
    """What is wrong with the file; None when it is, byte for byte, what was sealed."""
    try:
        content = meta.read_bytes()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    *_, (done, _) = [({}, 0), *whole_lines(content)]
    if done.get("event") != "done":
        return "damaged, or not written to its end"
    bare = {key: value for key, value in done.items() if key != "meta_sha256"}
    head = content[: content.removesuffix(b"\n").rfind(b"\n") + 1]
    try:
        # The last line is made anew, not parsed: else its white space could change unnoticed.
        sealed = head + encode_line(seal(head, bare))
    except UnicodeEncodeError:  # half a surrogate pair: nothing that was ever written
        sealed = b""
    return None if content == sealed else "changed since written"
