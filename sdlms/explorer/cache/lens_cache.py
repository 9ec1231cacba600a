"""The explorer's cache: records and rows of conversations, in memory and on the disk."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache.columns import Columns, packed, unpacked
from sdlms.explorer.cache.found import Found as Found
from sdlms.explorer.cache.found import joined
from sdlms.explorer.cache.levels import Levels, disk_of
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.notices import Notices
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
        disk = disk_of(folder, key, columns, notices.say)
        self._levels = Levels(disk, columns, limits, notices)
        self._memory, self._writer = self._levels.memory, self._levels.writer
        self._changed = self._levels.changed

    def ids(self) -> list[str]:
        """Conversations that have a record, sorted."""
        with self._changed:
            return sorted(self._levels.stored_ids() | set(self._memory.ids()))

    def touch(self, conversation: str) -> None:
        """Note that a conversation is used; what was not used for longest goes first."""
        checked_id(conversation)
        with self._changed:
            self._levels.note_use(conversation)

    def record(self, conversation: str) -> dict[str, Any] | None:
        """The record that was saved last; None where there is none, or it was damaged.

        To read it is no use of the conversation: a list of all reads all.
        """
        checked_id(conversation)
        with self._changed:
            content = self._memory.record(conversation)
            if content is None and self._levels.disk_has_record(conversation):
                self.wait_for_record(conversation)
                content = self._memory.record(conversation)
            version = self._levels.versions.get(conversation)
            is_on_disk = content is None and self._levels.disk_has_record(conversation)
        if is_on_disk and (content := self._levels.read_record(conversation)) is not None:
            with self._changed:
                if self._levels.versions.get(conversation) == version:
                    self._memory.put_record(conversation, content, True, time.monotonic())
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
        checked_id(conversation)
        self._levels.put_aside(conversation, why)

    def save_record(self, conversation: str, record: dict[str, Any]) -> None:
        """Keep a record, in place of an earlier one.

        Raises:
            TypeError, ValueError: it is not JSON.
        """
        checked_id(conversation)
        content = encode_record(record)
        with self._changed:
            self._writer.wait_for_room()
            self._levels.note_change(conversation)
            self._memory.put_record(conversation, content, False, time.monotonic())
            waiting = self._writer.last_waiting(conversation)
            if waiting is None or waiting.kind != "record":
                act = partial(self._write_record, conversation)
                self._levels.submit(Job(conversation, act, "record"))
            self._levels.note_use(conversation)

    def wait_for_record(self, conversation: str) -> None:
        """Wait until the record that was saved is on the disk, or cannot be written."""
        with self._changed:
            self._writer.wait_for(
                lambda job: job.conversation == conversation and job.kind in ("record", "all")
            )

    def _write_record(self, conversation: str) -> None:
        """Write the record that memory has by now (in the writer's thread)."""
        with self._changed:
            content = self._memory.record(conversation)
        if content is not None and self._levels.disk is not None:
            self._levels.disk.write_record(conversation, content)
            with self._changed:
                self._memory.mark_saved(conversation, content)

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
            self._levels.note_change(conversation)
            self._memory.put(conversation, group, range(first, end), rows, time.monotonic())
            if self._levels.disk is not None and self.columns.is_on_disk(group):
                act = partial(self._levels.disk.write_rows, conversation, group, first, rows)
                n_bytes = sum(array.nbytes for array in rows.values())
                self._levels.submit(Job(conversation, act, group, first, end, n_bytes))
            self._levels.note_use(conversation)

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
        everything = list(range(self.columns.n_states))
        chosen = everything if states is None else [int(state) for state in states]
        if min(positions, default=0) < 0 or not set(chosen) <= set(everything):
            raise ValueError(f"there are no positions {positions} or no states {chosen}")
        with self._changed:
            self._levels.note_use(conversation)
            arrays, present = self._memory.get(conversation, group, positions, chosen)
            missing = [int(p) for p, here in zip(positions, present, strict=True) if not here]
            found = Found(arrays, present, "memory" if present.any() else "none", False)
            if missing and self._levels.disk_has_rows(conversation, group):
                self._writer.wait_for(lambda job: job.touches(conversation, group, missing))
                version = self._levels.versions.get(conversation)
            else:
                missing = []
        if missing:
            stored = self._levels.read_rows(conversation, group, missing, chosen)
            found = joined(found, stored)
            if chosen == everything and stored.present.any():
                whole = {name: rows[stored.present] for name, rows in stored.arrays.items()}
                where = [p for p, there in zip(missing, stored.present, strict=True) if there]
                with self._changed:
                    self._levels.promote(conversation, group, where, whole, version)
        return found._replace(arrays=unpacked(group, found.arrays))

    def present(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row, `[n_tokens]`; what the disk has is not checked."""
        checked_id(conversation)
        with self._changed:
            here = self._memory.marks(conversation, group, n_tokens)
            span = (0, n_tokens - 1) if n_tokens else ()
            if here.all() or not self._levels.disk_has_rows(conversation, group):
                return here
            self._writer.wait_for(lambda job: job.touches(conversation, group, span))
        return here | self._levels.marks(conversation, group, n_tokens)

    def truncate(self, conversation: str, n_tokens: int, group: str | None = None) -> None:
        """Forget the rows of positions from `n_tokens` on, of all groups where None is named."""
        checked_id(conversation)
        groups = list(self.columns.groups) if group is None else [group]
        with self._changed:
            self._writer.wait_for_room()
            self._levels.note_change(conversation)
            self._memory.truncate(conversation, n_tokens, groups)
            if self._levels.disk is not None:
                act = partial(self._levels.disk.truncate, conversation, n_tokens, groups)
                self._levels.submit(Job(conversation, act, "all", n_tokens))

    def delete(self, conversation: str) -> bool:
        """Remove all of a conversation, from the disk too; False where it has no record."""
        checked_id(conversation)
        with self._changed:
            is_known = conversation in self._levels.stored_ids() | set(self._memory.ids())
            self._levels.delete(conversation)
        return is_known

    def set_persisted(self, conversation: str, persisted: bool) -> bool:
        """Exempt a conversation from eviction, or no more; False where it has no record."""
        checked_id(conversation)
        with self._changed:
            if conversation not in self._levels.stored_ids() | set(self._memory.ids()):
                return False
            change = self._levels.persisted.add if persisted else self._levels.persisted.discard
            change(conversation)
            if self._levels.disk is not None:
                act = partial(self._levels.disk.set_persisted, conversation, persisted)
                self._levels.submit(Job(conversation, act, "persisted"))
            return True

    def persisted(self, conversation: str) -> bool:
        """Whether it is exempt from eviction."""
        checked_id(conversation)
        with self._changed:
            return conversation in self._levels.persisted

    def sizes(self) -> dict[str, int]:
        """Bytes of each conversation that has a record: on the disk, or else in memory."""
        with self._changed:
            disk = self._levels.disk
            on_disk = {i: disk.size_bytes(i) if disk is not None else 0 for i in self.ids()}
            return {i: size or self._memory.size_bytes(i) for i, size in on_disk.items()}

    def status(self) -> dict[str, Any]:
        """How full it is, in MB of 10^6 bytes, and what went wrong."""
        with self._changed:
            return {
                "memory_used_mb": round(self._memory.used_bytes / MB, 3),
                "memory_limit_mb": round(self._limits.memory_bytes / MB, 3),
                "disk_conversations": len(self._levels.stored_ids()),
                "disk_used_mb": round(self._levels.disk_bytes / MB, 3),
                "disk_limit_mb": round(self._limits.disk_bytes / MB, 3),
                "memory_only": self._levels.is_memory_only,
                "warnings": self._levels.notices.texts(),
            }

    def flush(self) -> None:
        """Wait until the writer has done what was asked of it; a killed process then loses nothing.

        Records are on the disk then; rows may still be in the system's buffers, and would have to
        be computed again after a power failure.
        """
        with self._changed:
            waiting = self._writer.waiting()
            self._writer.wait_for(lambda job: any(job is other for other in waiting))

    def close(self) -> None:
        """Write what is left and give up the folder; a second call does nothing."""
        self._levels.close()
