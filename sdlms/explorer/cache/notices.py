"""What went wrong in the cache and was got over: said once, and kept for its status."""

import threading
from collections.abc import Callable

MOST_KEPT = 20


class Notices:
    """The last messages. Thread-safe."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._texts: list[str] = []

    def say(self, text: str) -> None:
        """Keep a message and pass it on, unless it was said already."""
        with self._lock:
            if text in self._texts:
                return
            self._texts = [*self._texts, text][-MOST_KEPT:]
        self._tell(text)

    def withdraw(self, text: str) -> None:
        """It holds no longer; when it does again, it is said again."""
        with self._lock:
            self._texts = [each for each in self._texts if each != text]

    def texts(self) -> list[str]:
        """The messages, oldest first."""
        with self._lock:
            return list(self._texts)
