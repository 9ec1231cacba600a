"""The one thread that writes to the cache's folder, and the jobs that wait for it."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

MOST_WAITING_BYTES = 128 << 20
MOST_WAITING = 4096
NO_END = 1 << 62


class Job(NamedTuple):
    """One write.

    Attributes:
        conversation: its id; "" for none.
        act: does it, and gets over a write that fails.
        kind: what is written: "record", or the group of the rows, or "all".
        first: position of the first row.
        end: position after the last row.
        n_bytes: that it keeps in memory.
    """

    conversation: str
    act: Callable[[], None]
    kind: str
    first: int = 0
    end: int = NO_END
    n_bytes: int = 0

    def touches(self, conversation: str, group: str, positions: Sequence[int]) -> bool:
        """Whether it may change one of these rows."""
        if self.conversation != conversation or self.kind not in (group, "all") or not positions:
            return False
        return self.first <= max(positions) and min(positions) < self.end

    def writes_record(self, conversation: str) -> bool:
        """Whether the conversation's record is another one on the disk when it is done."""
        return self.conversation == conversation and self.kind in ("record", "all")


class Writer:
    """A thread that does jobs in their order.

    Its methods, but for `close`, are called with `changed` held, and give it up while they wait.
    """

    def __init__(
        self,
        changed: threading.Condition,
        rest: Callable[[], None],
        rest_seconds: float,
        died: Callable[[BaseException, list[Job]], None],
    ) -> None:
        """Start it.

        Args:
            changed: the lock of its owner; notified when a job is done.
            rest: called after each job, and whenever nothing was to be done for a while.
            rest_seconds: that while.
            died: told of a bug that ended the thread, and of the jobs that are not done, with
                `changed` held.
        """
        self._changed, self._rest, self._died = changed, rest, died
        self._rest_seconds = rest_seconds
        self._jobs: deque[Job] = deque()  # the first one is being done
        self._waiting_bytes = 0
        self._is_closing = False
        self.is_alive = True
        self._thread = threading.Thread(target=self._run, name="explorer cache", daemon=True)
        self._thread.start()

    def wait_for_room(self) -> None:
        """Wait until one more job may be added."""
        self._changed.wait_for(
            lambda: self._waiting_bytes < MOST_WAITING_BYTES and len(self._jobs) < MOST_WAITING
        )

    def add(self, job: Job) -> None:
        """Add a job, at once; the thread must be alive."""
        self._jobs.append(job)
        self._waiting_bytes += job.n_bytes
        self._changed.notify_all()

    def wait_for(self, concerns: Callable[[Job], bool]) -> None:
        """Wait until no job that `concerns` says yes to is left."""
        self._changed.wait_for(lambda: not any(concerns(job) for job in self._jobs))

    def last_waiting(self, conversation: str) -> Job | None:
        """The last job of a conversation that has not begun."""
        own = [job for job in list(self._jobs)[1:] if job.conversation == conversation]
        return own[-1] if own else None

    def busy(self) -> set[str]:
        """The conversations that jobs are waiting for."""
        return {job.conversation for job in self._jobs}

    def close(self) -> None:
        """Do what is left, then end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        """The thread."""
        try:
            while (job := self._next()) is not None:
                job.act()
                self._end(job)
                self._rest()
        finally:  # also after a bug, so that nobody waits for ever
            with self._changed:
                self.is_alive = False
                if (bug := sys.exception()) is not None:  # it goes on to the thread's hook
                    self._died(bug, list(self._jobs))
                self._jobs.clear()
                self._waiting_bytes = 0
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """The next job; None at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closing, self._rest_seconds)
                if self._jobs:
                    return self._jobs[0]
                if self._is_closing:
                    return None
            self._rest()

    def _end(self, job: Job) -> None:
        """Take a job off the list."""
        with self._changed:
            self._jobs.popleft()
            self._waiting_bytes -= job.n_bytes
            self._changed.notify_all()
