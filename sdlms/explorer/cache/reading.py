"""What is read from the explorer's cache: from memory, or else from the disk."""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache.columns import Columns, unpacked
from sdlms.explorer.cache.storing import Storing
from sdlms.storage.conversations import DamagedFileError
from sdlms.storage.flat import Array
from sdlms.storage.token_rows import CheckedRows


class Found(NamedTuple):
    """Rows of a group.

    Attributes:
        arrays: by name, `[position, state, ...]`, zero where a row is not present; of "hidden" one
            array `hidden`, float16 where no scale was needed, else float32.
        present: `[position]` bool.
        source: the slower level that a row came from; "none" where none is present.
        flaw: a row was damaged on the disk, or rows are absent and a file was put aside.
    """

    arrays: dict[str, Array]
    present: NDArray[np.bool_]
    source: Literal["memory", "disk", "none"]
    flaw: bool


def joined(found: Found, stored: CheckedRows) -> Found:
    """What memory has, and the rest from the disk."""
    if not stored.present.any():
        return found._replace(flaw=stored.is_damaged)
    absent = np.flatnonzero(~found.present)
    for name, array in found.arrays.items():
        array[absent] = stored.arrays[name]
    found.present[absent] = stored.present
    return found._replace(source="disk", flaw=stored.is_damaged)


class Reading:
    """Records and rows, whichever level has them. Thread-safe."""

    def __init__(self, storing: Storing, columns: Columns) -> None:
        """Read what `storing` keeps; `columns` is what a row holds."""
        self._storing, self._columns = storing, columns
        self._memory, self._changed = storing.memory, storing.changed
        self._arrears, self._notices = storing.arrears, storing.notices

    def record(self, conversation: str) -> bytes | None:
        """The encoded record; None where there is none, or it was damaged."""
        with self._changed:
            content = self._memory.record(conversation)
            is_hidden = conversation in self._arrears.deleted
            disk, version = self._storing.disk, self._storing.versions.get(conversation)
        if content is not None or is_hidden or disk is None:
            return content
        try:
            content = disk.read_record(conversation)
        except OSError as error:
            self._notices.say(f"cannot read the record of {conversation}: {error.strerror}.")
        with self._changed:
            if content is not None and self._storing.versions.get(conversation) == version:
                self._memory.put_record(conversation, content, True, time.monotonic())
        return content

    def put_aside(self, conversation: str, why: str) -> None:
        """Rename the files of a conversation whose record is of no use, and forget it."""
        with self._changed:
            self._memory.remove(conversation)
            self._storing.note_change(conversation)
            disk = None if conversation in self._arrears.deleted else self._storing.disk
        try:
            if disk is not None:
                disk.put_aside(conversation, DamagedFileError(why))
        except OSError as error:
            self._notices.say(f"cannot rename the files of {conversation}: {error.strerror}.")

    def rows(
        self, conversation: str, group: str, positions: Sequence[int], states: Sequence[int] | None
    ) -> Found:
        """The rows of some tokens, as far as they are kept.

        Raises:
            ValueError: there is no such position or state.
        """
        everything = list(range(self._columns.n_states))
        chosen = everything if states is None else [int(state) for state in states]
        if min(positions, default=0) < 0 or not set(chosen) <= set(everything):
            raise ValueError(f"there are no positions {positions} or no states {chosen}")
        with self._changed:
            arrays, present = self._memory.get(conversation, group, positions, chosen)
            missing = [int(p) for p, here in zip(positions, present, strict=True) if not here]
            found = Found(arrays, present, "memory" if present.any() else "none", False)
            if missing and self._disk_has(conversation, group):
                self._storing.writer.wait_for(lambda j: j.touches(conversation, group, missing))
                version = self._storing.versions.get(conversation)
                # Before the disk is read: what is old may leave it, and the arrears, meanwhile.
                current = self._arrears.is_current(conversation, missing)
            else:
                missing = []
        if missing:
            stored = self._stored(conversation, group, missing, chosen, current)
            found = joined(found, stored)
            if chosen == everything:
                self._promote(conversation, group, missing, stored, version)
        return found._replace(arrays=unpacked(group, found.arrays))

    def marks(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row, `[n_tokens]`; what the disk has is not checked."""
        with self._changed:
            here = self._memory.marks(conversation, group, n_tokens)
            if here.all() or not self._disk_has(conversation, group):
                return here
            span = (0, n_tokens - 1) if n_tokens else ()
            self._storing.writer.wait_for(lambda job: job.touches(conversation, group, span))
            current = self._arrears.is_current(conversation, range(n_tokens))
        try:
            if (disk := self._storing.disk) is not None:
                here |= disk.marks(conversation, group, n_tokens) & current
        except OSError as error:
            self._notices.say(f"cannot read the rows of {conversation}: {error.strerror}.")
        return here

    def _disk_has(self, conversation: str, group: str) -> bool:
        """Whether the disk is to be asked for rows."""
        is_there = self._storing.disk is not None and self._columns.is_on_disk(group)
        return is_there and self._arrears.has_rows(conversation)

    def _stored(
        self,
        conversation: str,
        group: str,
        positions: Sequence[int],
        states: Sequence[int],
        current: NDArray[np.bool_],
    ) -> CheckedRows:
        """Rows on the disk, as far as they can be read; those not `current` are not present."""
        nothing = CheckedRows({}, np.zeros(len(positions), np.bool_), False)
        if (disk := self._storing.disk) is None:
            return nothing
        try:
            stored = disk.read_rows(conversation, group, positions, states) or nothing
        except OSError as error:
            self._notices.say(f"cannot read the rows of {conversation}: {error.strerror}.")
            return nothing._replace(is_damaged=True)
        present = stored.present & current
        for array in stored.arrays.values():
            array[~present] = 0
        stored = stored._replace(present=present)
        if stored.is_damaged:
            self._notices.say(f"rows of {conversation} were damaged on the disk; they are dropped.")
        elif not stored.present.all() and disk.contents.was_damaged(conversation):
            return stored._replace(is_damaged=True)
        return stored

    def _promote(
        self,
        conversation: str,
        group: str,
        positions: Sequence[int],
        stored: CheckedRows,
        version: int | None,
    ) -> None:
        """Take whole rows from the disk into memory, unless something changed meanwhile."""
        whole = {name: rows[stored.present] for name, rows in stored.arrays.items()}
        there = [p for p, here in zip(positions, stored.present, strict=True) if here]
        with self._changed:
            if there and self._storing.versions.get(conversation) == version:
                self._memory.put(conversation, group, there, whole, time.monotonic())
