"""The two levels of the explorer's cache, and what happens between them."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.explorer.cache.columns import Columns
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.eviction import DiskBounds
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.memory import MemoryLevel
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.writer import NO_END, Job, Writer
from sdlms.storage.conversations import DamagedFileError
from sdlms.storage.flat import Array
from sdlms.storage.token_rows import StoredRows

REST_SECONDS = 30.0
MEMORY_ONLY = "What comes from now on is kept in memory only."


def disk_of(
    folder: Path | None, key: Mapping[str, Any], columns: Columns, say: Callable[[str], None]
) -> DiskLevel | None:
    """The disk level of a key; None, said why, where there is none."""
    try:
        return None if folder is None else DiskLevel(folder, key, columns, say)
    except (OSError, UserError) as error:
        say(f"{_reason(error)}. {MEMORY_ONLY}")
        return None


def _reason(error: Exception) -> str:
    """What the system or we say, in one line; HDF5 would say it in many."""
    if isinstance(error, OSError) and error.errno:
        where = f" ({error.filename})" if error.filename else ""
        return f"cannot write the cache{where}: {os.strerror(error.errno)}"
    return str(error).partition("\n")[0].rstrip(".")


class Levels:
    """Memory, disk and the writer between them.

    Attributes:
        changed: held around all that is in memory; the methods below are called with it held,
            but for `read_rows`, `read_record`, `put_aside`, `marks` and `close`.
        memory: the first level.
        disk: the second level; None where the folder cannot be used.
        writer: writes to the disk.
        notices: what went wrong.
        persisted: conversations that are exempt from eviction.
        versions: of each conversation, another number after each change.
    """

    def __init__(
        self,
        disk: DiskLevel | None,
        columns: Columns,
        limits: CacheLimits,
        notices: Notices,
    ) -> None:
        self._columns, self._limits = columns, limits
        self.notices = notices
        self.changed = threading.Condition()
        self.memory = MemoryLevel(columns.groups, limits.memory_bytes)
        self.disk = disk
        self._bounds: DiskBounds | None = None
        self.persisted: set[str] = set()
        if disk is not None:
            bounds = limits.disk_bytes, limits.disk_seconds
            self._bounds = DiskBounds(disk, *bounds, notices.say)
            self.persisted = disk.persisted()
        self.versions: dict[str, int] = {}
        self._counter = itertools.count(1)
        self._behind: dict[str, int] = {}  # the disk's rows from a position on are old
        self._deleted: set[str] = set()  # the disk could not remove these
        self._is_failing = False
        self._last_written = ""
        rest = min(REST_SECONDS, limits.memory_seconds / 4, limits.disk_seconds / 4)
        self.writer = Writer(self.changed, self._fail, self._keep_limits, rest)

    @property
    def is_memory_only(self) -> bool:
        """Whether nothing is written to the disk (any more)."""
        return self.disk is None or self._is_failing or not self.writer.is_alive

    @property
    def disk_bytes(self) -> int:
        """What the conversations of all models take on the disk."""
        return self._bounds.used_bytes if self._bounds is not None else 0

    def stored_ids(self) -> set[str]:
        """Conversations of which the disk has a record that counts."""
        return set(self.disk.ids()) - self._deleted if self.disk is not None else set()

    def note_use(self, conversation: str) -> None:
        """Make a conversation the last used one, on both levels."""
        self.memory.touch(conversation, time.monotonic())
        if self.disk is not None:
            self.disk.touch(conversation)

    def note_change(self, conversation: str) -> None:
        """Note that what was read of a conversation before may be old now."""
        self.versions[conversation] = next(self._counter)

    def submit(self, job: Job) -> None:
        """Have something written, unless nothing is written any more."""
        if self.is_memory_only:
            self._fall_behind(job)
        else:
            self.writer.add(job._replace(act=partial(self._attempt, job)))

    def _attempt(self, job: Job) -> None:
        """Write, unless an earlier write failed meanwhile (in the writer's thread)."""
        if self._is_failing:
            with self.changed:
                self._fall_behind(job)
        else:
            self._last_written = job.conversation
            job.act()

    def _fail(self, job: Job, error: Exception) -> None:
        """Go on in memory only."""
        with self.changed:
            self._is_failing = True
            self._fall_behind(job)
        self.notices.say(f"{_reason(error)}. {MEMORY_ONLY}")

    def _fall_behind(self, job: Job) -> None:
        """Note which rows on the disk would be others if a job had been done."""
        if job.kind == "all" or job.kind in self._columns.groups:
            known = self._behind.get(job.conversation, job.first)
            self._behind[job.conversation] = min(known, job.first)

    def _is_current(self, conversation: str, positions: Sequence[int]) -> NDArray[np.bool_]:
        """Of which positions the disk's rows count."""
        return np.asarray(positions, np.int64) < self._behind.get(conversation, NO_END)

    def delete(self, conversation: str) -> None:
        """Remove a conversation from both levels, and wait until it is gone."""
        self.memory.remove(conversation)
        self.persisted.discard(conversation)
        self.note_change(conversation)
        if self.disk is None or not self.writer.is_alive:
            self._deleted.add(conversation)
            return
        job = Job(conversation, partial(self._delete_files, conversation), "all")
        self.writer.add(job)
        self.writer.wait_for(lambda other: other is job)

    def _delete_files(self, conversation: str) -> None:
        """Remove the files, or else hide them (in the writer's thread)."""
        with self.changed:
            self._deleted.add(conversation)
        try:
            if self.disk is not None:
                self.disk.delete(conversation)
        except OSError as error:
            self.notices.say(f"cannot remove {conversation} from the disk: {error.strerror}.")
            return
        with self.changed:
            self._deleted.discard(conversation)
            self._behind.pop(conversation, None)

    def disk_has_rows(self, conversation: str, group: str) -> bool:
        """Whether the disk is to be asked for rows."""
        is_current = self._behind.get(conversation) != 0 and conversation not in self._deleted
        return self.disk is not None and is_current and self._columns.is_on_disk(group)

    def disk_has_record(self, conversation: str) -> bool:
        """Whether the disk is to be asked for a record."""
        return self.disk is not None and conversation not in self._deleted

    def read_record(self, conversation: str) -> bytes | None:
        """The encoded record on the disk."""
        if (disk := self.disk) is None:
            return None
        try:
            return disk.read_record(conversation)
        except OSError as error:
            self.notices.say(f"cannot read the record of {conversation}: {error.strerror}.")
            return None

    def put_aside(self, conversation: str, why: str) -> None:
        """Rename the files of a conversation whose record is of no use, and forget it."""
        with self.changed:
            self.memory.remove(conversation)
            self.note_change(conversation)
            disk = None if conversation in self._deleted else self.disk
        try:
            if disk is not None:
                disk.put_aside(conversation, DamagedFileError(why))
        except OSError as error:
            self.notices.say(f"cannot rename the files of {conversation}: {error.strerror}.")

    def read_rows(
        self, conversation: str, group: str, positions: Sequence[int], states: Sequence[int]
    ) -> StoredRows:
        """Rows on the disk, as far as they can be read."""
        nothing = StoredRows({}, np.zeros(len(positions), np.bool_), False)
        if (disk := self.disk) is None:
            return nothing
        try:
            stored = disk.read_rows(conversation, group, positions, states) or nothing
        except OSError as error:
            self.notices.say(f"cannot read the rows of {conversation}: {error.strerror}.")
            return nothing._replace(is_damaged=True)
        present = stored.present & self._is_current(conversation, positions)
        for array in stored.arrays.values():
            array[~present] = 0
        stored = stored._replace(present=present)
        if stored.is_damaged:
            self.notices.say(f"rows of {conversation} were damaged on the disk; they are dropped.")
        elif not stored.present.all() and disk.was_damaged(conversation):
            return stored._replace(is_damaged=True)
        return stored

    def marks(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row on the disk, unchecked."""
        try:
            if (disk := self.disk) is not None and self.disk_has_rows(conversation, group):
                marks = disk.marks(conversation, group, n_tokens)
                return marks & self._is_current(conversation, range(n_tokens))
        except OSError as error:
            self.notices.say(f"cannot read the rows of {conversation}: {error.strerror}.")
        return np.zeros(n_tokens, np.bool_)

    def promote(
        self,
        conversation: str,
        group: str,
        positions: Sequence[int],
        rows: Mapping[str, Array],
        version: int | None,
    ) -> None:
        """Take whole rows from the disk into memory, unless something changed meanwhile."""
        if self.versions.get(conversation) == version:
            self.memory.put(conversation, group, positions, rows, time.monotonic())

    def _keep_limits(self) -> None:
        """Evict what is too old or too much (in the writer's thread)."""
        with self.changed:
            self.memory.expire(time.monotonic() - self._limits.memory_seconds)
            if self._bounds is None or not self._bounds.is_due:
                return
            exempt = self.persisted | self.writer.busy() | {self._last_written}
            for conversation in self._bounds.evict(exempt):
                self.memory.remove(conversation)
                self.note_change(conversation)

    def close(self) -> None:
        """Write what is left, and give up the folder."""
        self.writer.close()
        with self.changed:
            if self.disk is not None:
                self.disk.close()
            self.disk = None
