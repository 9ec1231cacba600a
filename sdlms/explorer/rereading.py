"""Texts that the model reads once more for an answer: one at a time, while somebody waits for it.

Each reading holds a KV cache of its own, and all of them would share one thread that computes:
several at once would take memory and be no sooner ready.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock

from sdlms.explorer.refusals import GivenUp

LOOK_SECONDS = 0.1  # how often who waits for his turn looks whether he is still waited for
NEVER = Flag()  # of answers that nobody can give up


class Rereading:
    """Whose turn it is."""

    def __init__(self) -> None:
        """Nobody reads."""
        self._lock = Lock()

    @contextmanager
    def turn(self, given_up: Flag) -> Iterator[None]:
        """Inside the block nobody else reads.

        Raises:
            GivenUp: nobody waits for the answer any more.
        """
        while not self._lock.acquire(timeout=LOOK_SECONDS):
            check_wanted(given_up)
        try:
            check_wanted(given_up)
            yield
        finally:
            self._lock.release()


def check_wanted(given_up: Flag) -> None:
    """Stop where nobody waits; to be called between two pieces of a text.

    Raises:
        GivenUp: so it is.
    """
    if given_up.is_set():
        raise GivenUp("nobody waits for this answer any more")
