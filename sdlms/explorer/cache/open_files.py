"""The row files that are open: a bounded number of descriptors, however many conversations."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sdlms.explorer.cache.gates import Gates
from sdlms.storage.token_rows import TokenRows

MOST_OPEN = 32


@dataclass
class _Open:
    """An open file, who uses it now, and whether it is to be closed when nobody does."""

    rows: TokenRows
    n_users: int = 0
    is_listed: bool = True


class OpenFiles:
    """Open files by conversation; those least recently used are closed. Thread-safe."""

    def __init__(self) -> None:
        self._gates = Gates()  # held while a file is opened, made, renamed or removed
        self._lock = threading.Lock()  # inside of these, never while the disk works
        self._open: OrderedDict[str, _Open] = OrderedDict()

    @contextmanager
    def using(
        self, conversation: str, opened: Callable[[], TokenRows | None]
    ) -> Iterator[TokenRows | None]:
        """A block in which the file stays open.

        Args:
            conversation: its id.
            opened: opens the file, where it is not open; None where there is none. No file is
                opened twice at once.
        """
        with self._gates.of(conversation):
            entry = self._taken(conversation)
            if entry is None and (rows := opened()) is not None:
                entry = self._taken(conversation, _Open(rows))
        try:
            yield None if entry is None else entry.rows
        finally:
            if entry is not None:
                self._leave(entry)

    def _taken(self, conversation: str, new: _Open | None = None) -> _Open | None:
        """The open file with one user more; `new` is listed where it is none yet."""
        with self._lock:
            entry = self._open.get(conversation, new)
            if entry is not None:
                entry.n_users += 1
                self._open[conversation] = entry
                self._open.move_to_end(conversation)
                self._close_some()
            return entry

    def _leave(self, entry: _Open) -> None:
        """Note that one user is gone."""
        with self._lock:
            entry.n_users -= 1
            if not entry.n_users and not entry.is_listed:
                entry.rows.close()

    def _close_some(self) -> None:
        """Close the oldest files that nobody uses, where too many are open."""
        for conversation in list(self._open)[: max(0, len(self._open) - MOST_OPEN)]:
            if not self._open[conversation].n_users:
                self._open.pop(conversation).rows.close()

    def remove(self, conversation: str, removed: Callable[[], None]) -> None:
        """Let go of a file, then do away with it; who reads it now may end.

        Args:
            conversation: its id.
            removed: removes or renames the file. Nobody opens it meanwhile.
        """
        with self._gates.of(conversation):
            with self._lock:
                self._forget(conversation)
            removed()

    def _forget(self, conversation: str) -> None:
        """Let go of a file."""
        entry = self._open.pop(conversation, None)
        if entry is not None:
            entry.is_listed = False
            if not entry.n_users:
                entry.rows.close()

    def close(self) -> None:
        """Let go of all."""
        with self._lock:
            for conversation in list(self._open):
                self._forget(conversation)
