"""Hidden states that wait in memory, in full precision, until their lens rows are measured."""

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

Hidden = NDArray[np.float32]


class WaitingStates:
    """States by conversation and position, at most so many bytes; the oldest go first."""

    def __init__(self, limit_bytes: int) -> None:
        """Hold at most `limit_bytes`."""
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[tuple[str, int], Hidden] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def add(self, conversation_id: str, first: int, states: Hidden) -> None:
        """Hold `[token, state, d_model]` of the positions from `first` on."""
        with self._lock:
            for position, row in enumerate(states, first):
                self._take((conversation_id, position))
                self._held[conversation_id, position] = row
                self._n_bytes += row.nbytes
            while self._n_bytes > self._limit_bytes and self._held:
                self._n_bytes -= self._held.popitem(last=False)[1].nbytes

    def get(self, conversation_id: str, position: int) -> Hidden | None:
        """The states `[state, d_model]` of one position; None where they are not held."""
        with self._lock:
            return self._held.get((conversation_id, position))

    def drop(self, conversation_id: str, positions: Iterable[int]) -> None:
        """Let go of what is no longer needed."""
        with self._lock:
            for position in positions:
                self._take((conversation_id, position))

    def forget(self, conversation_id: str) -> None:
        """Let go of a whole conversation."""
        with self._lock:
            for key in [key for key in self._held if key[0] == conversation_id]:
                self._take(key)

    def _take(self, key: tuple[str, int]) -> None:
        """Remove one row, if it is there."""
        if (row := self._held.pop(key, None)) is not None:
            self._n_bytes -= row.nbytes
