"""The two levels of the explorer's cache, and what happens between them."""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.explorer.cache_limits import CacheLimits
from sdlms.explorer.columns import Columns
from sdlms.explorer.disk import DiskLevel
from sdlms.explorer.eviction import DiskBounds
from sdlms.explorer.memory import MemoryLevel
from sdlms.explorer.notices import Notices
from sdlms.explorer.writer import Job, Writer
from sdlms.storage.flat import Array
from sdlms.storage.token_rows import StoredRows

REST_SECONDS = 30.0
MEMORY_ONLY = "What comes from now on is kept in memory only."


class Levels:
    """Memory, disk and the writer between them.

    Attributes:
        changed: held around all that is in memory; the methods below are called with it held,
            but for `read_rows`, `read_record` and `close`.
        memory: the first level.
        disk: the second level; None where the folder cannot be used.
        writer: writes to the disk.
        notices: what went wrong.
        persisted: conversations that are exempt from eviction.
        versions: of each conversation, another number after each change.
    """

    def __init__(
        self,
        folder: Path | None,
        key: Mapping[str, Any],
        columns: Columns,
        limits: CacheLimits,
        warn: Callable[[str], None],
    ) -> None:
        self._columns, self._limits = columns, limits
        self.notices = Notices(warn)
        self.changed = threading.Condition()
        self.memory = MemoryLevel(columns.groups, limits.memory_bytes)
        self.disk: DiskLevel | None = None
        self._bounds: DiskBounds | None = None
        if folder is not None:
            self._open_disk(folder, key)
        self.persisted: set[str] = self.disk.persisted() if self.disk is not None else set()
        self.versions: dict[str, int] = {}
        self._counter = itertools.count(1)
        self._behind: set[str] = set()  # the disk's rows of these are old
        self._deleted: set[str] = set()  # the disk could not remove these
        self._is_failing = False
        self._last_written = ""
        rest = min(REST_SECONDS, limits.memory_seconds / 4, limits.disk_seconds / 4)
        self.writer = Writer(self.changed, self._fail, self._keep_limits, rest)

    def _open_disk(self, folder: Path, key: Mapping[str, Any]) -> None:
        """Open the disk level, or say why there is none."""
        limits, say = self._limits, self.notices.say
        try:
            self.disk = DiskLevel(folder, key, self._columns, say)
        except (OSError, UserError) as error:
            say(f"{str(error).rstrip('.')}. {MEMORY_ONLY}")
            return
        self._bounds = DiskBounds(self.disk, limits.disk_bytes, limits.disk_seconds, say)

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
            self._behind.add(job.conversation)
        else:
            self.writer.add(job._replace(act=partial(self._attempt, job)))

    def _attempt(self, job: Job) -> None:
        """Write, unless an earlier write failed meanwhile (in the writer's thread)."""
        if self._is_failing:
            with self.changed:
                self._behind.add(job.conversation)
        else:
            self._last_written = job.conversation
            job.act()

    def _fail(self, job: Job, error: Exception) -> None:
        """Go on in memory only."""
        with self.changed:
            self._is_failing = True
            self._behind.add(job.conversation)
        self.notices.say(f"{str(error).rstrip('.')}. {MEMORY_ONLY}")

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
        """Remove the files (in the writer's thread)."""
        with self.changed:
            self._deleted.add(conversation)
        if self.disk is not None:
            self.disk.delete(conversation)
        with self.changed:
            self._deleted.discard(conversation)

    def disk_has_rows(self, conversation: str, group: str) -> bool:
        """Whether the disk is to be asked for rows."""
        is_current = conversation not in self._behind and conversation not in self._deleted
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
        if stored.is_damaged:
            self.notices.say(f"rows of {conversation} were damaged on the disk; they are dropped.")
        elif not stored.present.all() and disk.was_damaged(conversation):
            return stored._replace(is_damaged=True)
        return stored

    def marks(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row on the disk, unchecked."""
        try:
            if (disk := self.disk) is not None and self.disk_has_rows(conversation, group):
                return disk.marks(conversation, group, n_tokens)
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
