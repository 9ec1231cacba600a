"""What the writer's thread does with the disk, and what becomes of it where that fails."""

import threading
import time
from dataclasses import dataclass
from functools import partial

from sdlms.explorer.cache.arrears import Arrears
from sdlms.explorer.cache.columns import Columns
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.memory import MemoryLevel
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.outage import FAILURES, RETRY_SECONDS, Outage, is_full, reason
from sdlms.explorer.cache.writer import Job
from sdlms.explorer.spans import Span
from sdlms.storage.conversations import DamagedFileError


@dataclass(frozen=True)
class Known:
    """What is known without asking the disk.

    Attributes:
        changed: held around all of it, never while the disk works.
        memory: the first level.
        arrears: what the disk has too much or too little.
        persisted: conversations that are exempt from eviction.
        notices: what went wrong; these alone need no lock.
    """

    changed: threading.Condition
    memory: MemoryLevel
    arrears: Arrears
    persisted: set[str]
    notices: Notices


class DiskWork:
    """Writes, and tries again what did not succeed. One thread calls it, without the lock.

    A write that fails concerns its conversation alone, unless the folder cannot be written at all.
    Either way memory goes on and knows what the disk lacks.

    Attributes:
        outage: whether the folder cannot be written.
        last_written: the conversation of the last write that succeeded.
    """

    def __init__(self, disk: DiskLevel, columns: Columns, known: Known) -> None:
        """Nothing failed yet."""
        self._disk, self._columns = disk, columns
        self._changed, self._notices = known.changed, known.notices
        self._memory, self._arrears = known.memory, known.arrears
        self._persisted = known.persisted
        self._complaints: dict[str, str] = {}
        self._next_repair = 0.0
        self.outage = Outage(disk, known.notices)
        self.last_written = ""

    def do(self, job: Job) -> None:
        """Write, or note what the disk lacks now."""
        if not self._may_write():
            with self._changed:
                self._arrears.note(job)
            return
        try:
            self._clean(job.conversation)
            job.act()
        except FAILURES as error:
            self._failed(job, error)
        else:
            self.last_written = job.conversation

    def _may_write(self) -> bool:
        """Whether there is no outage, or no more: then what it left behind is due."""
        if self.outage.is_on and self.outage.has_ended():
            self._next_repair = 0.0
        return not self.outage.is_on

    def _clean(self, conversation: str) -> None:
        """Remove from the disk what is none of the conversation's any more.

        Before anything new is written: nobody shall find new words and old rows together.
        """
        if conversation in self._arrears.deleted:
            self.remove_files(conversation)
        if (first := self._arrears.old.get(conversation)) is None:
            return
        try:
            self._disk.truncate(conversation, first, list(self._columns.groups))
        except FAILURES as error:
            self._disk.put_rows_aside(conversation, DamagedFileError(reason(error)))
        with self._changed:
            self._arrears.old.pop(conversation, None)

    def _failed(self, job: Job, error: Exception) -> None:
        """Find out whether the conversation's file is to blame, or the folder; and say so."""
        with self._changed:
            self._arrears.note(job)
        if (job.kind == "record" and is_full(error)) or not self.outage.works():
            self.outage.begin(error)
            return
        name = job.conversation
        self._complain(
            name,
            f"{reason(error)}. What the disk lacks of conversation {name} stays in memory, as long "
            "as there is room, and is stored later.",
        )

    def _complain(self, conversation: str, text: str) -> None:
        """Say what is wrong with a conversation, in place of what was said of it before."""
        if self._complaints.get(conversation) != text:
            self._withdraw(conversation)
        self._complaints[conversation] = text
        self._notices.say(text)

    def _withdraw(self, conversation: str) -> None:
        """Nothing is wrong with a conversation any more."""
        if said := self._complaints.pop(conversation, None):
            self._notices.withdraw(said)

    def write_record(self, conversation: str) -> None:
        """Write the record that memory has by now.

        Raises:
            UserError: it cannot be written.
        """
        with self._changed:
            content = self._memory.record(conversation)
        if content is not None:
            self._disk.write_record(conversation, content)
            with self._changed:
                self._memory.mark_saved(conversation, content)

    def delete(self, conversation: str) -> None:
        """Remove the files of a deleted conversation; where that fails they stay hidden."""
        try:
            self.remove_files(conversation)
        except OSError as error:
            self._complain(
                conversation, f"cannot remove {conversation} from the disk: {error.strerror}."
            )

    def remove_files(self, conversation: str) -> None:
        """Remove the files of a conversation that nobody sees any more.

        Raises:
            OSError: one cannot be removed.
        """
        self._disk.delete(conversation)
        with self._changed:
            self._arrears.forget(conversation)
        self._withdraw(conversation)

    def repair_at_times(self, busy: set[str]) -> None:
        """`repair`, unless it was done a short while ago."""
        if self._may_write() and time.monotonic() >= self._next_repair:
            self.repair(busy)

    def repair(self, busy: set[str]) -> None:
        """Store what the disk lacks, of all conversations but the busy ones."""
        if not self._may_write():
            return
        self._next_repair = time.monotonic() + RETRY_SECONDS
        with self._changed:
            marks = self._persisted ^ self._disk.contents.persisted()
            rows = {*self._arrears.missing, *self._arrears.old}
            owed = {*self._arrears.deleted, *self._memory.unsaved(), *marks, *rows} - busy
        for conversation in sorted(owed):
            self.do(Job(conversation, partial(self._store_again, conversation), "again"))

    def _store_again(self, conversation: str) -> None:
        """Record, mark, and what memory still has of the rows."""
        with self._changed:
            is_unsaved = self._memory.is_unsaved(conversation)
            persisted = conversation in self._persisted
            first = self._arrears.missing.get(conversation)
            held = [] if first is None else self._memory.held(conversation, first)
        if is_unsaved:
            self.write_record(conversation)
        if persisted != self._disk.contents.is_persisted(conversation):
            self._disk.set_persisted(conversation, persisted)
        for group, span in held:
            if self._columns.is_on_disk(group):
                self._write_rows(conversation, group, span)
        with self._changed:
            self._arrears.missing.pop(conversation, None)
        self._withdraw(conversation)

    def _write_rows(self, conversation: str, group: str, span: Span) -> None:
        """Write rows as memory has them now, unless it has let go of one."""
        with self._changed:
            states = range(self._columns.n_states)
            rows, present = self._memory.get(conversation, group, range(*span), states)
        if present.all():
            self._disk.write_rows(conversation, group, span.first, rows)
