"""Answers that come piece by piece: made when they are asked for, or ahead of who reads them."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, wait
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock
from typing import Generic, TypeVar

from sdlms.explorer.refusals import Refusal
from sdlms.progress import LOGGER

Item = TypeVar("Item")
NOTHING = object()
AT_ONCE_SECONDS = 0.01  # what takes no longer is handed out together,
MOST_AT_ONCE = 32  # and no more items than that


class Pieces(Generic[Item]):
    """An iterator whose items are made when they are asked for.

    One thread may close it while another makes an item.
    """

    def __init__(
        self,
        items: Generator[Item | None],
        given_up: Flag | None = None,
        first: Item | object = NOTHING,
    ) -> None:
        """Nothing is made.

        Args:
            items: all of them, behind the first one where that is given. None is no item, but says
                that the next one may take long.
            given_up: set when nobody wants more; an item that is being made may end early then.
            first: made already.
        """
        self._items, self._first = items, first
        self._given_up = Flag() if given_up is None else given_up
        self._lock = Lock()

    @classmethod
    def begun(cls, items: Generator[Item]) -> Pieces[Item]:
        """The first item is made at once, so that what is refused is refused before."""
        return cls(items, first=next(items, NOTHING))

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            while (item := self._next()) is None:
                pass
        if item is NOTHING:
            raise StopIteration
        return item  # type: ignore[return-value]

    def _next(self) -> Item | object | None:
        """One item, None, or the mark behind the last; who takes it holds the lock."""
        first, self._first = self._first, NOTHING
        return next(self._items, NOTHING) if first is NOTHING else first

    def take(self) -> list[Item]:
        """The next item, with those that come at once behind it; nothing at the end."""
        some: list[Item] = []
        with self._lock:
            end = time.monotonic() + AT_ONCE_SECONDS
            while not some or (len(some) < MOST_AT_ONCE and time.monotonic() < end):
                item = self._next()
                if item is not None and item is not NOTHING:
                    some.append(item)  # type: ignore[arg-type]
                elif some or item is NOTHING:
                    break
        return some

    def give_up(self) -> None:
        """Say that nobody wants more; at once."""
        self._given_up.set()

    def close(self) -> None:
        """Make no more; what is being made comes to its end before."""
        self.give_up()
        with self._lock:
            self._items.close()


class Ahead(Generic[Item]):
    """An iterator whose items are made in another thread, however slowly they are taken.

    The first one is made at once, as that of `Pieces.begun`. Who stops reading holds nothing up;
    what he leaves is kept in memory, so the items must have an end.
    """

    def __init__(self, items: Generator[Item], given_up: Flag, threads: Executor) -> None:
        """Make the first item, and begin with the others.

        Args:
            items: all of them.
            given_up: set when nobody wants more; `items` then come to their end by themselves.
            threads: one of them makes the items.
        """
        self._given_up = given_up
        self._made: SimpleQueue[Item | object] = SimpleQueue()
        self._made.put(next(items, NOTHING))
        self._is_read = False
        self._end = threads.submit(self._make, items)

    def _make(self, items: Iterator[Item]) -> None:
        """The items, and the mark behind the last one."""
        try:
            for item in items:
                self._made.put(item)
        finally:
            self._made.put(NOTHING)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item = self._made.get()
        if item is not NOTHING:
            return item  # type: ignore[return-value]
        self._made.put(NOTHING)  # for whoever reads on
        self._is_read = True
        self._end.result()
        raise StopIteration

    def take(self) -> list[Item]:
        """The next item, with those that are made already; nothing at the end."""
        some = list(islice(self, 1))
        with suppress(Empty):
            while 0 < len(some) < MOST_AT_ONCE:
                if (item := self._made.get_nowait()) is NOTHING:
                    self._made.put(NOTHING)  # for whoever reads on
                    break
                some.append(item)  # type: ignore[arg-type]
        return some

    def give_up(self) -> None:
        """Say that nobody wants more; at once."""
        self._given_up.set()

    def close(self) -> None:
        """Make no more; what was begun comes to its end, and nobody reads it."""
        self.give_up()
        wait([self._end])
        error = self._end.exception()
        if error is not None and not self._is_read and not isinstance(error, Refusal):
            LOGGER.warning(f"an answer that nobody waited for failed: {error!r}")
        with suppress(Empty):
            while True:
                self._made.get_nowait()
        self._made.put(NOTHING)
