"""The second level of the explorer's cache: the files of one model's conversations."""

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache.columns import Columns
from sdlms.explorer.cache.contents import Contents
from sdlms.explorer.cache.gates import Gates
from sdlms.explorer.cache.key_folder import (
    BLOCK_BYTES,
    PERSISTED,
    RECORD,
    ROWS,
    check_writing,
    is_obstructed,
    key_folder,
    open_key_folder,
    remove_files,
)
from sdlms.explorer.cache.open_files import OpenFiles
from sdlms.storage.conversations import (
    DamagedFileError,
    quarantine,
    read_conversation,
    write_conversation,
)
from sdlms.storage.files import sync
from sdlms.storage.flat import Array
from sdlms.storage.row_layout import create_rows
from sdlms.storage.token_rows import CheckedRows, TokenRows


class DiskLevel:
    """Files of conversations. Threads may read; one thread writes.

    Attributes:
        folder: of the model's conversations.
        contents: what lies there.
    """

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
        self.contents = Contents(self.folder)
        # Order of locks: that of a record's file, that of a file of rows.
        self._records = Gates()
        self._files = OpenFiles()

    def check(self) -> None:
        """Find out whether the folder can be written.

        Raises:
            UserError: it cannot.
        """
        check_writing(self.folder)

    def _path(self, conversation: str, suffix: str) -> Path:
        """A file of a conversation."""
        return self.folder / f"{conversation}{suffix}"

    def read_record(self, conversation: str) -> bytes | None:
        """The encoded record; None where there is none, or it is damaged and was put aside.

        Raises:
            OSError: the system does not read it.
        """
        path = self._path(conversation, RECORD)
        with self._records.of(conversation):
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
        with self._records.of(conversation):
            if (path := self._path(conversation, RECORD)).exists():
                self._put_aside(path, error)
            self.contents.note_record(conversation, False)
            self.put_rows_aside(conversation, error)  # nobody knows their tokens

    def put_rows_aside(self, conversation: str, error: DamagedFileError) -> None:
        """Rename the rows of a conversation.

        Raises:
            OSError: they cannot be renamed.
        """
        rows = self._path(conversation, ROWS)

        def renamed() -> None:
            if rows.exists():
                self._put_aside(rows, error)

        self._files.remove(conversation, renamed)

    def write_record(self, conversation: str, content: bytes) -> None:
        """Write the encoded record.

        Raises:
            UserError: it cannot be written.
        """
        path = self._path(conversation, RECORD)
        with self._records.of(conversation):
            self._clear(path)
            write_conversation(path, conversation, content)
        self.contents.measure(conversation)
        self.contents.note_record(conversation, True)

    def _put_aside(self, path: Path, error: DamagedFileError) -> None:
        """Rename a damaged file."""
        aside = quarantine(path)
        status = aside.lstat()
        n_bytes = status.st_blocks * BLOCK_BYTES * stat.S_ISREG(status.st_mode)
        self.contents.note_damage(path.name.partition(".")[0], n_bytes)
        self._warn(f"{path} was damaged ({error}); it is now {aside.name}.")

    def _clear(self, path: Path) -> None:
        """Put aside what stands where a file is to be."""
        if is_obstructed(path):
            self._put_aside(path, DamagedFileError("it is no regular file"))

    def write_rows(
        self, conversation: str, group: str, first: int, arrays: Mapping[str, Array]
    ) -> None:
        """Write rows; a file that turns out to be damaged is put aside for a new one.

        Raises:
            UserError, OSError, DamagedFileError: they cannot be written.
        """
        try:
            self._write_rows(conversation, group, first, arrays)
        except DamagedFileError as error:
            self.put_rows_aside(conversation, error)
            self._write_rows(conversation, group, first, arrays)
        finally:
            self.contents.measure(conversation)

    def _write_rows(
        self, conversation: str, group: str, first: int, arrays: Mapping[str, Array]
    ) -> None:
        """Write rows into the file that there is, or a new one."""
        n_tokens = first + len(next(iter(arrays.values())))
        with self._files.using(conversation, lambda: self._made(conversation, n_tokens)) as rows:
            if rows is not None:
                if rows.layout != self._columns.layout:
                    rows.rebuild(self._columns.layout, n_tokens)
                rows.write(group, first, arrays)

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
    ) -> CheckedRows | None:
        """Read some states of rows; None where there is no file for them.

        Raises:
            OSError: the system does not read it.
        """
        with self._reading(conversation, group) as rows:
            return None if rows is None else rows.read(group, positions, states)

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
            UserError, OSError, DamagedFileError: it cannot be written.
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
        self._clear(mark)
        mark.touch() if persisted else mark.unlink(missing_ok=True)
        sync(self.folder)
        self.contents.note_mark(conversation, persisted)

    def delete(self, conversation: str) -> None:
        """Remove all of a conversation.

        Raises:
            OSError: a file cannot be removed.
        """
        try:
            self._files.remove(conversation, partial(remove_files, self.folder, conversation))
        except OSError:
            self.contents.measure(conversation)
            is_left = self._path(conversation, RECORD).is_file()
            self.contents.note_record(conversation, is_left)
            raise
        self.contents.remove(conversation)

    def close(self) -> None:
        """Note when what was used last, close all files and give up the lock."""
        self.contents.write_uses(0.0)
        self._files.close()
        os.close(self._lock_descriptor)
