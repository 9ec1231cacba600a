"""Answers that are made piece by piece, and may be given up from another thread."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event as Flag
from threading import Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")
NOTHING = object()


class Pieces(Generic[Item]):
    """An iterator whose first item is made at once, so that what is refused is refused before.

    One thread may close it while another makes an item: what is being made is ended first.
    """

    def __init__(self, items: Generator[Item], given_up: Flag | None = None) -> None:
        """Make the first item.

        Args:
            items: all of them.
            given_up: set when nobody wants more, so that `items` may end within an item.
        """
        self._items = items
        self._given_up = given_up or Flag()
        self._lock = Lock()
        self._first: Item | object = next(items, NOTHING)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            first, self._first = self._first, NOTHING
            return next(self._items) if first is NOTHING else first  # type: ignore[return-value]

    def close(self) -> None:
        """Make no more; what was begun comes to its end."""
        self._given_up.set()
        with self._lock:
            self._items.close()
