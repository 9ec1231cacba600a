"""Answers that come piece by piece: made when they are asked for, or ahead of who reads them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Executor, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Lock
from typing import Generic, TypeVar

from sdlms.explorer.refusals import Refusal
from sdlms.progress import LOGGER

Item = TypeVar("Item")
NOTHING = object()


class Pieces(Generic[Item]):
    """An iterator whose items are made when they are asked for.

    One thread may close it while another makes an item.
    """

    def __init__(
        self, items: Generator[Item], given_up: Flag | None = None, first: Item | object = NOTHING
    ) -> None:
        """Nothing is made.

        Args:
            items: all of them, behind the first one where that is given.
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
            first, self._first = self._first, NOTHING
            return next(self._items) if first is NOTHING else first  # type: ignore[return-value]

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
