"""One thread computes, and whose turn it is: clicks before generation before the background worker.

All torch work of an explorer runs in one thread: a server has many, and each would hold a team of
torch's own threads. Who waits longest past his patience is next, so that a stream of clicks holds
a reply up but never stops it.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from threading import Condition
from typing import TypeVar

import torch

from sdlms.explorer.refusals import Closed

Result = TypeVar("Result")


class Urgency(Enum):
    """Who asks; the value is the patience in seconds, after which later clicks must wait too."""

    CLICK = 0.0
    GENERATION = 0.25
    FILLING = math.inf


class Computer:
    """The thread that computes, and the queue before it."""

    def __init__(self) -> None:
        """Start with nothing to do; the thread begins with the first work."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explorer-compute")
        self._changed = Condition()
        self._waiting: list[tuple[float, int]] = []
        self._numbers = itertools.count()
        self._at_work = False
        self._n_generating = 0
        self._closed = False

    def run(self, urgency: Urgency, work: Callable[[], Result]) -> Result:
        """What `work` returns, computed in the thread without gradients when its turn has come.

        Raises:
            Closed: the explorer is being shut down.
        """
        self._wait(urgency)
        try:
            return self._thread.submit(_without_gradients, work).result()
        finally:
            with self._changed:
                self._at_work = False
                self._changed.notify_all()

    def _wait(self, urgency: Urgency) -> None:
        """Return when it is this caller's turn."""
        with self._changed:
            ticket = (time.monotonic() + urgency.value, next(self._numbers))
            self._waiting.append(ticket)
            fills = urgency is Urgency.FILLING
            try:
                while not self._closed and (
                    self._at_work
                    or min(self._waiting) != ticket
                    or (fills and self._n_generating > 0)
                ):
                    self._changed.wait()
            finally:  # also of who is interrupted: nobody waits for him
                self._waiting.remove(ticket)
            if self._closed:
                raise Closed("the explorer is being shut down")
            self._at_work = True

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Nothing is filled inside the block: a reply's next token would have to wait for it."""
        with self._changed:
            self._n_generating += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_generating -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End after the work at hand; whoever waits is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._at_work)
        self._thread.shutdown(wait=True)


def _without_gradients(work: Callable[[], Result]) -> Result:
    """Gradient mode belongs to a thread."""
    with torch.no_grad():
        return work()
