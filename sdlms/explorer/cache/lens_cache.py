"""The explorer's cache: records and rows of conversations, in memory and on the disk."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.explorer.cache.columns import Columns, packed
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.outage import reason
from sdlms.explorer.cache.reading import Found, Reading
from sdlms.explorer.cache.storing import Storing
from sdlms.explorer.cache.writer import Job
from sdlms.storage.conversations import (
    DamagedFileError,
    checked_id,
    decode_record,
    encode_record,
)
from sdlms.storage.flat import Array

MB = 10**6


class Cache:
    """Records and rows of conversations. Thread-safe.

    What is put is in memory at once; one thread writes it to the disk, in the order of the calls.
    Ids are 1 to 64 letters, digits, `_` or `-`; every method raises ValueError at others.
    """

    def __init__(
        self,
        folder: Path | None,
        key: Mapping[str, Any],
        columns: Columns,
        limits: CacheLimits,
        warn: Callable[[str], None],
    ) -> None:
        """Open the cache; in memory only, with a warning, where the folder cannot be used.

        Args:
            folder: of all models; None for memory only.
            key: what the rows depend on (model, dtype, tokenizer, template), as JSON has it.
            columns: what a row holds.
            limits: what it may take.
            warn: told of damaged files, of a full disk and the like, from any thread.
        """
        self.columns, self._limits = columns, limits
        notices = Notices(warn)
        disk = _disk_of(folder, key, columns, notices.say)
        self._storing = Storing(disk, columns, limits, notices)
        self._reading = Reading(self._storing, columns)
        self._memory, self._writer = self._storing.memory, self._storing.writer
        self._changed = self._storing.changed

    def ids(self) -> list[str]:
        """Conversations that have a record, sorted."""
        with self._changed:
            return sorted(self._storing.stored_ids() | set(self._memory.ids()))

    def touch(self, conversation: str) -> None:
        """Note that a conversation is used; what was not used for longest goes first."""
        checked_id(conversation)
        with self._changed:
            self._storing.note_use(conversation)

    def record(self, conversation: str) -> dict[str, Any] | None:
        """The record that was saved last; None where there is none, or it was damaged.

        To read it is no use of the conversation: a list of all reads all.
        """
        content = self._reading.record(checked_id(conversation))
        try:
            return None if content is None else decode_record(content)
        except DamagedFileError as error:
            self.put_aside(conversation, str(error))
            return None

    def put_aside(self, conversation: str, why: str) -> None:
        """Rename the files of a conversation, like damaged ones: its record is of no use.

        Args:
            conversation: its id.
            why: said to the user.
        """
        self._reading.put_aside(checked_id(conversation), why)

    def save_record(self, conversation: str, record: dict[str, Any]) -> None:
        """Keep a record, in place of an earlier one.

        Raises:
            TypeError, ValueError: it is not JSON.
        """
        checked_id(conversation)
        content = encode_record(record)
        with self._changed:
            self._writer.wait_for_room()
            self._storing.note_change(conversation)
            self._memory.put_record(conversation, content, False, monotonic())
            self._storing.submit_record(conversation)
            self._storing.note_use(conversation)

    def wait_for_record(self, conversation: str) -> bool:
        """Wait until the record that was saved is on the disk, or could not be written.

        Returns:
            Whether it is on the disk; where it is not, that is tried again later.
        """
        with self._changed:
            self._writer.wait_for(lambda job: job.writes_record(conversation))
            return self._storing.is_stored(conversation)

    def put(self, conversation: str, group: str, first: int, arrays: Mapping[str, Array]) -> None:
        """Keep the rows of some tokens, over those that were there.

        Args:
            conversation: its id.
            group: "hidden", "logit" or "tuned".
            first: position of the first token.
            arrays: every array of the group, `[token, state, ...]`; of "hidden" one array `hidden`
                `[token, state, d_model]` of a float dtype.

        Raises:
            ValueError: an array is missing, is not of the group, or has another shape or dtype.
        """
        checked_id(conversation)
        if first < 0:
            raise ValueError(f"there is no position {first}")
        rows = packed(self.columns, group, arrays)
        end = first + len(next(iter(rows.values())))
        with self._changed:
            self._writer.wait_for_room()
            self._storing.note_change(conversation)
            self._memory.put(conversation, group, range(first, end), rows, monotonic())
            if self._storing.disk is not None and self.columns.is_on_disk(group):
                act = partial(self._storing.disk.write_rows, conversation, group, first, rows)
                n_bytes = sum(array.nbytes for array in rows.values())
                self._storing.submit(Job(conversation, act, group, first, end, n_bytes))
            self._storing.note_use(conversation)

    def get(
        self,
        conversation: str,
        group: str,
        positions: Sequence[int],
        states: Sequence[int] | None = None,
    ) -> Found:
        """The rows of some tokens, as far as they are kept.

        Args:
            conversation: its id.
            group: "hidden", "logit" or "tuned".
            positions: of the tokens, in any order.
            states: which states, all where None; of hidden states only these are read.

        Raises:
            ValueError: there is no such position or state.
        """
        checked_id(conversation)
        with self._changed:
            self._storing.note_use(conversation)
        return self._reading.rows(conversation, group, positions, states)

    def present(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row, `[n_tokens]`; what the disk has is not checked."""
        return self._reading.marks(checked_id(conversation), group, n_tokens)

    def truncate(self, conversation: str, n_tokens: int, group: str | None = None) -> None:
        """Forget the rows of positions from `n_tokens` on, of all groups where None is named."""
        checked_id(conversation)
        groups = list(self.columns.groups) if group is None else [group]
        with self._changed:
            self._writer.wait_for_room()
            self._storing.note_change(conversation)
            self._memory.truncate(conversation, n_tokens, groups)
            if self._storing.disk is not None:
                act = partial(self._storing.disk.truncate, conversation, n_tokens, groups)
                self._storing.submit(Job(conversation, act, "all", n_tokens))

    def delete(self, conversation: str) -> bool:
        """Remove all of a conversation, from the disk too; False where it has no record."""
        checked_id(conversation)
        with self._changed:
            is_known = self._storing.has_record(conversation)
            self._storing.delete(conversation)
        return is_known

    def n_evictions(self, conversation: str) -> int:
        """How often it left the disk since the start, which its rows did not survive."""
        with self._changed:
            return self._storing.n_evictions.get(conversation, 0)

    def set_persisted(self, conversation: str, persisted: bool) -> bool:
        """Exempt a conversation from eviction, or no more; False where it has no record."""
        checked_id(conversation)
        with self._changed:
            self._writer.wait_for_room()
            if not self._storing.has_record(conversation):
                return False
            change = self._storing.persisted.add if persisted else self._storing.persisted.discard
            change(conversation)
            if self._storing.disk is not None:
                act = partial(self._storing.disk.set_persisted, conversation, persisted)
                self._storing.submit(Job(conversation, act, "persisted"))
            return True

    def persisted(self, conversation: str) -> bool:
        """Whether it is exempt from eviction."""
        checked_id(conversation)
        with self._changed:
            return conversation in self._storing.persisted

    def sizes(self) -> dict[str, int]:
        """Bytes of each conversation that has a record: on the disk, or else in memory."""
        with self._changed:
            disk, ids = self._storing.disk, self.ids()
            on_disk = {i: disk.contents.size_bytes(i) for i in ids} if disk is not None else {}
            return {i: on_disk.get(i) or self._memory.size_bytes(i) for i in ids}

    def status(self) -> dict[str, Any]:
        """How full it is, in MB of 10^6 bytes, and what went wrong."""
        with self._changed:
            return {
                "memory_used_mb": round(self._memory.used_bytes / MB, 3),
                "memory_limit_mb": round(self._limits.memory_bytes / MB, 3),
                "disk_conversations": len(self._storing.stored_ids()),
                "disk_used_mb": round(self._storing.disk_bytes / MB, 3),
                "disk_limit_mb": round(self._limits.disk_bytes / MB, 3),
                "memory_only": self._storing.is_memory_only,
                "warnings": self._storing.notices.texts(),
            }

    def close(self) -> None:
        """Write what is left and give up the folder; a second call does nothing."""
        self._storing.close()


def _disk_of(
    folder: Path | None, key: Mapping[str, Any], columns: Columns, say: Callable[[str], None]
) -> DiskLevel | None:
    """The disk level of a key; None, said why, where there is none."""
    try:
        return None if folder is None else DiskLevel(folder, key, columns, say)
    except (OSError, UserError) as error:
        say(f"{reason(error)}. What comes from now on is kept in memory only.")
        return None
