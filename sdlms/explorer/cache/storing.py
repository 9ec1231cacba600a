"""What goes from the explorer's memory to the disk."""

import itertools
import threading
import time
from functools import partial

from sdlms.explorer.cache.arrears import Arrears
from sdlms.explorer.cache.columns import Columns
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.disk_work import DiskWork, Known
from sdlms.explorer.cache.eviction import DiskBounds
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.memory import MemoryLevel
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.writer import Job, Writer

REST_SECONDS = 30.0


class Storing:
    """Memory, disk and the thread that writes from one to the other, within their limits.

    Attributes:
        changed: held around all that is in memory, never while the disk works; the methods below
            are called with it held, but for `close`.
        memory: the first level.
        disk: the second level; None where the folder cannot be used.
        writer: does the jobs.
        arrears: what the disk has too much or too little.
        notices: what went wrong.
        persisted: conversations that are exempt from eviction.
        versions: of each conversation, another number after each change.
        n_evictions: how often the disk let go of a conversation, where it did.
    """

    def __init__(
        self, disk: DiskLevel | None, columns: Columns, limits: CacheLimits, notices: Notices
    ) -> None:
        """Begin to write."""
        self.disk, self.notices, self._limits = disk, notices, limits
        self.changed = threading.Condition()
        self.memory = MemoryLevel(columns.groups, limits.memory_bytes)
        self.arrears = Arrears(columns.groups)
        self.persisted: set[str] = set()
        self.versions: dict[str, int] = {}
        self.n_evictions: dict[str, int] = {}
        self._counter = itertools.count(1)
        self._bounds: DiskBounds | None = None
        self._work: DiskWork | None = None
        if disk is not None:
            self.persisted |= disk.contents.persisted()
            bounds = limits.disk_bytes, limits.disk_seconds
            self._bounds = DiskBounds(disk, *bounds, notices.say)
            known = Known(self.changed, self.memory, self.arrears, self.persisted, notices)
            self._work = DiskWork(disk, columns, known)
        rest = min(REST_SECONDS, limits.memory_seconds / 4, limits.disk_seconds / 4)
        self.writer = Writer(self.changed, self._rest, rest, self._died)

    @property
    def is_memory_only(self) -> bool:
        """Whether nothing is written to the disk now."""
        return self._work is None or self._work.outage.is_on or not self.writer.is_alive

    @property
    def disk_bytes(self) -> int:
        """What the conversations of all models take on the disk."""
        return self._bounds.used_bytes if self._bounds is not None else 0

    def stored_ids(self) -> set[str]:
        """Conversations of which the disk has a record that counts."""
        ids = self.disk.contents.ids() if self.disk is not None else []
        return set(ids) - self.arrears.deleted

    def has_record(self, conversation: str) -> bool:
        """Whether one of the levels has a record."""
        return self.memory.record(conversation) is not None or self._disk_has(conversation)

    def _disk_has(self, conversation: str) -> bool:
        """Whether the disk has a record that counts."""
        is_there = self.disk is not None and self.disk.contents.has_record(conversation)
        return is_there and conversation not in self.arrears.deleted

    def is_stored(self, conversation: str) -> bool:
        """Whether the disk has the record that was saved last."""
        return self._disk_has(conversation) and not self.memory.is_unsaved(conversation)

    def note_use(self, conversation: str) -> None:
        """Make a conversation the last used one, on both levels."""
        self.memory.touch(conversation, time.monotonic())
        if self.disk is not None:
            self.disk.contents.touch(conversation)

    def note_change(self, conversation: str) -> None:
        """Note that what was read of a conversation before may be old now."""
        self.versions[conversation] = next(self._counter)

    def submit(self, job: Job) -> None:
        """Have something written, as soon as that works."""
        if self._work is None or not self.writer.is_alive:
            self.arrears.note(job)
        else:
            self.writer.add(job._replace(act=partial(self._work.do, job)))

    def submit_record(self, conversation: str) -> None:
        """Have the record written that memory has when its turn comes."""
        waiting = self.writer.last_waiting(conversation)
        if self._work is not None and (waiting is None or waiting.kind != "record"):
            act = partial(self._work.write_record, conversation)
            self.submit(Job(conversation, act, "record"))

    def delete(self, conversation: str) -> None:
        """Remove a conversation from both levels, and wait until it is gone."""
        self._forget(conversation)
        self.persisted.discard(conversation)
        self.n_evictions.pop(conversation, None)
        if self._work is not None and self.writer.is_alive:
            job = Job(conversation, partial(self._work.delete, conversation), "all")
            self.writer.add(job)
            self.writer.wait_for(lambda other: other is job)

    def _forget(self, conversation: str) -> None:
        """From now on nobody sees it; what is put later is another one's."""
        self.memory.remove(conversation)
        self.note_change(conversation)
        if self.disk is not None:
            self.arrears.delete(conversation)

    def _rest(self) -> None:
        """Keep the limits, and store what could not be stored (in the writer's thread)."""
        with self.changed:
            self.memory.expire(time.monotonic() - self._limits.memory_seconds)
            busy = self.writer.busy()
        if self.disk is None or self._bounds is None or self._work is None:
            return
        self.disk.contents.write_uses()
        if self._bounds.is_due:
            self._bounds.evict(partial(self._evict, self._work))
        self._work.repair_at_times(busy)

    def _evict(self, work: DiskWork, conversation: str) -> None:
        """Remove a conversation from both levels, unless it has to stay."""
        with self.changed:
            exempt = self.persisted | self.writer.busy() | {work.last_written}
            if conversation in exempt or self.memory.is_unsaved(conversation):
                return
            self._forget(conversation)
            self.n_evictions[conversation] = self.n_evictions.get(conversation, 0) + 1
        work.remove_files(conversation)

    def _died(self, bug: BaseException, jobs: list[Job]) -> None:
        """The writer's thread has ended, and these jobs are not done."""
        for job in jobs:
            self.arrears.note(job)
        self.notices.say(
            f"the thread that writes the cache was ended by a bug ({type(bug).__name__}: {bug}). "
            "What comes is kept in memory only, and stored when the explorer is closed."
        )

    def close(self) -> None:
        """Write what is left, and give up the folder."""
        self.writer.close()
        if self.disk is None or self._work is None:
            return
        self._work.outage.hurry()
        self._work.repair(set())
        with self.changed:
            lost = self.memory.unsaved()
            self.disk.close()
            self.disk = None
        if lost:
            self.notices.say(f"{len(lost)} conversations could not be stored: {', '.join(lost)}.")
