"""The second level of the explorer's cache: the files of one model's conversations."""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache.columns import Columns
from sdlms.explorer.cache.key_folder import (
    BLOCK_BYTES,
    PERSISTED,
    RECORD,
    ROWS,
    Stored,
    is_obstructed,
    key_folder,
    open_key_folder,
    remove_files,
    scan,
)
from sdlms.explorer.cache.open_files import OpenFiles
from sdlms.storage.conversations import (
    DamagedFileError,
    quarantine,
    read_conversation,
    write_conversation,
)
from sdlms.storage.flat import Array
from sdlms.storage.row_layout import create_rows
from sdlms.storage.token_rows import StoredRows, TokenRows

NOTE_USE_SECONDS = 60.0


class DiskLevel:
    """Files of conversations. Threads may read; one thread writes."""

    def __init__(
        self,
        cache: Path,
        key: Mapping[str, Any],
        columns: Columns,
        warn: Callable[[str], None],
    ) -> None:
        """Lock the folder of the key and see what lies there.

        Raises:
            UserError, OSError: it cannot be written, or another explorer has it.
        """
        self.folder = key_folder(cache, key)
        self._columns, self._warn = columns, warn
        self._lock_descriptor = open_key_folder(self.folder, key)
        # Order of locks: that of records' files, that of `_files`, then the one for all else: a
        # write that waits for the disk must not hold up who only asks.
        self._lock = threading.RLock()
        self._records = threading.RLock()
        self._stored = scan(self.folder)
        self._noted = {i: found.used for i, found in self._stored.items()}
        self._files = OpenFiles()
        self._damaged: set[str] = set()
        self.used_bytes = sum(found.n_bytes for found in self._stored.values())

    def ids(self) -> list[str]:
        """Conversations that have a record here."""
        with self._lock:
            return [i for i, found in self._stored.items() if found.has_record]

    def persisted(self) -> set[str]:
        """Those that are exempt from eviction."""
        with self._lock:
            return {i for i, found in self._stored.items() if found.persisted}

    def size_bytes(self, conversation: str) -> int:
        """What the files of one conversation take."""
        with self._lock:
            return self._stored.get(conversation, Stored()).n_bytes

    def stored(self) -> dict[str, Stored]:
        """What lies here, by conversation; the entries change on."""
        with self._lock:
            return dict(self._stored)

    def touch(self, conversation: str) -> None:
        """Note that a conversation is used; its file's time tells that to a later explorer."""
        now = time.time()
        with self._lock:
            if conversation not in self._stored:
                return
            self._stored[conversation].used = now
            if now - self._noted.get(conversation, 0.0) > NOTE_USE_SECONDS:
                self._note_use(conversation)

    def _note_use(self, conversation: str) -> None:
        """Give the record's file the time of the last use."""
        used = self._noted[conversation] = self._stored[conversation].used
        with contextlib.suppress(OSError):
            os.utime(self._path(conversation, RECORD), (used, used))

    def _path(self, conversation: str, suffix: str) -> Path:
        """A file of a conversation."""
        return self.folder / f"{conversation}{suffix}"

    def read_record(self, conversation: str) -> bytes | None:
        """The encoded record; None where there is none, or it is damaged and was put aside.

        Raises:
            OSError: the system does not read it.
        """
        path = self._path(conversation, RECORD)
        with self._records:
            try:  # to open a pipe would take for ever
                return None if is_obstructed(path) else read_conversation(path, conversation)
            except FileNotFoundError:
                return None
            except DamagedFileError as error:
                self.put_aside(conversation, error)
                return None

    def put_aside(self, conversation: str, error: DamagedFileError) -> None:
        """Rename the files of a conversation whose record is of no use.

        Raises:
            OSError: they cannot be renamed.
        """
        with self._records:
            if (path := self._path(conversation, RECORD)).exists():
                self._put_aside(path, error)
            self._files.remove(conversation, lambda: self._put_rows_aside(conversation, error))

    def _put_rows_aside(self, conversation: str, error: DamagedFileError) -> None:
        """Rename the rows of a conversation whose record is damaged: nobody knows their tokens."""
        with self._lock:
            self._stored.setdefault(conversation, Stored(used=time.time())).has_record = False
        if (rows := self._path(conversation, ROWS)).exists():
            self._put_aside(rows, error)

    def write_record(self, conversation: str, content: bytes) -> None:
        """Write the encoded record.

        Raises:
            UserError: it cannot be written.
        """
        path = self._path(conversation, RECORD)
        with self._records:
            self._clear(path)
            write_conversation(path, conversation, content)
        self._measure(conversation).has_record = True

    def _put_aside(self, path: Path, error: DamagedFileError) -> None:
        """Rename a damaged file."""
        aside = quarantine(path)
        conversation = path.name.partition(".")[0]
        with self._lock:
            self._damaged.add(conversation)
            found = self._stored.setdefault(conversation, Stored(used=time.time()))
            status = aside.lstat()
            found.damaged_bytes += status.st_blocks * BLOCK_BYTES * stat.S_ISREG(status.st_mode)
            self._measure(conversation)
        self._warn(f"{path} was damaged ({error}); it is now {aside.name}.")

    def _clear(self, path: Path) -> None:
        """Put aside what stands where a file is to be."""
        if is_obstructed(path):
            self._put_aside(path, DamagedFileError("it is no regular file"))

    def _measure(self, conversation: str) -> Stored:
        """Look again at how much the files of a conversation take."""
        with self._lock:
            found = self._stored.setdefault(conversation, Stored(used=time.time()))
            before, found.n_bytes = found.n_bytes, found.damaged_bytes
            for suffix in (RECORD, ROWS):
                with contextlib.suppress(FileNotFoundError):
                    status = self._path(conversation, suffix).stat()
                    found.n_bytes += status.st_blocks * BLOCK_BYTES
            self.used_bytes += found.n_bytes - before
            return found

    def write_rows(
        self, conversation: str, group: str, first: int, arrays: Mapping[str, Array]
    ) -> None:
        """Write rows.

        Raises:
            UserError, OSError: they cannot be written.
        """
        n_tokens = first + len(next(iter(arrays.values())))
        with self._files.using(conversation, lambda: self._made(conversation, n_tokens)) as rows:
            if rows is not None:
                if rows.layout != self._columns.layout:
                    rows.rebuild(self._columns.layout, n_tokens)
                rows.write(group, first, arrays)
        self._measure(conversation)

    def _made(self, conversation: str, n_tokens: int) -> TokenRows:
        """Open the file, or make it."""
        if (rows := self._opened(conversation)) is None:
            path = self._path(conversation, ROWS)
            create_rows(path, conversation, self._columns.layout, n_tokens)
            if (rows := self._opened(conversation)) is None:
                raise OSError(f"{path} cannot be read back")
        return rows

    def _opened(self, conversation: str) -> TokenRows | None:
        """Open the file; one that is damaged, or not ours to open, is put aside."""
        path = self._path(conversation, ROWS)
        self._clear(path)
        try:
            return TokenRows(path, conversation)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            self._put_aside(path, error)
        except PermissionError as error:
            self._put_aside(path, DamagedFileError(error.strerror))
        return None

    @contextmanager
    def _reading(self, conversation: str, group: str) -> Iterator[TokenRows | None]:
        """The open file, where it has this group as it is laid out now."""
        with self._files.using(conversation, lambda: self._opened(conversation)) as rows:
            known = rows is not None and self._columns.groups[group] in rows.layout
            yield rows if known else None

    def read_rows(
        self, conversation: str, group: str, positions: Sequence[int], states: Sequence[int]
    ) -> StoredRows | None:
        """Read some states of rows; None where there is no file for them.

        Raises:
            OSError: the system does not read it.
        """
        with self._reading(conversation, group) as rows:
            return None if rows is None else rows.read(group, positions, states)

    def was_damaged(self, conversation: str) -> bool:
        """Whether a whole file of it was put aside since the start."""
        with self._lock:
            return conversation in self._damaged

    def marks(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row here, unchecked.

        Raises:
            OSError: the system does not read it.
        """
        with self._reading(conversation, group) as rows:
            return np.zeros(n_tokens, np.bool_) if rows is None else rows.marks(group, n_tokens)

    def truncate(self, conversation: str, n_tokens: int, groups: Collection[str]) -> None:
        """Forget rows from a position on.

        Raises:
            UserError, OSError: it cannot be written.
        """
        with self._files.using(conversation, lambda: self._opened(conversation)) as rows:
            if rows is not None:
                rows.truncate(n_tokens, [g.name for g in rows.layout if g.name in groups])

    def set_persisted(self, conversation: str, persisted: bool) -> None:
        """Exempt a conversation from eviction, or no more.

        Raises:
            OSError: it cannot be written.
        """
        mark = self._path(conversation, PERSISTED)
        with self._lock:
            self._clear(mark)
            self._stored.setdefault(conversation, Stored(used=time.time())).persisted = persisted
            mark.touch() if persisted else mark.unlink(missing_ok=True)

    def delete(self, conversation: str) -> None:
        """Remove all of a conversation.

        Raises:
            OSError: a file cannot be removed.
        """
        self._files.remove(conversation, lambda: remove_files(self.folder, conversation))
        with self._lock:
            self.used_bytes -= self._stored.pop(conversation, Stored()).n_bytes
            self._damaged.discard(conversation)

    def close(self) -> None:
        """Note when what was used last, close all files and give up the lock."""
        with self._lock:
            for conversation, found in self._stored.items():
                if found.used > self._noted.get(conversation, 0.0):
                    self._note_use(conversation)
        self._files.close()
        os.close(self._lock_descriptor)
