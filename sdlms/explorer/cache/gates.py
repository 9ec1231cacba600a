"""Locks for conversations: who waits for the disk with one of them does not hold up the others."""

from threading import RLock

N_GATES = 64


class Gates:
    """A fixed number of locks; a conversation always has the same one, some share theirs."""

    def __init__(self) -> None:
        self._locks = [RLock() for _ in range(N_GATES)]

    def of(self, conversation: str) -> RLock:
        """The conversation's lock. Take one at a time: two conversations may have the same."""
        return self._locks[hash(conversation) % N_GATES]
