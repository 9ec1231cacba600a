"""Which conversations leave the disk: too old, or least recently used where too much is stored."""

import time
from collections.abc import Callable
from pathlib import Path

from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.key_folder import Stored, borrowed, other_folders, remove_files, scan

LOOK_AGAIN_SECONDS = 60.0


class DiskBounds:
    """Bounds of bytes and age over the conversations of all keys of a cache.

    Those of other keys are removed only while no other explorer has their folder.
    """

    def __init__(
        self, disk: DiskLevel, limit_bytes: int, seconds: float, warn: Callable[[str], None]
    ) -> None:
        self._folder, self._contents = disk.folder, disk.contents
        self._limit_bytes, self._seconds = limit_bytes, seconds
        self._warn = warn
        self._others: dict[Path, dict[str, Stored]] = {}
        self._next_look = 0.0
        self._bytes_in_vain = -1
        self._look()

    def _look(self) -> None:
        """See what the other folders hold."""
        self._others = {}
        for folder in other_folders(self._folder):
            try:
                self._others[folder] = scan(folder)
            except OSError as error:
                self._warn(f"cannot read {folder}: {error.strerror}.")
        self._other_bytes = sum(
            found.n_bytes for stored in self._others.values() for found in stored.values()
        )
        pause = min(LOOK_AGAIN_SECONDS, self._seconds / 4)
        self._next_look = time.monotonic() + pause

    @property
    def used_bytes(self) -> int:
        """What the conversations of all keys take."""
        return self._contents.used_bytes + self._other_bytes

    @property
    def is_due(self) -> bool:
        """Whether there may be something to evict."""
        if time.monotonic() >= self._next_look:
            return True
        used = self.used_bytes
        return used > self._limit_bytes and used > self._bytes_in_vain

    def evict(self, remove: Callable[[str], None]) -> None:
        """Have removed what is too old, and what is too much; it takes as long as the disk does.

        Args:
            remove: removes a conversation of this key, unless it is to stay; may raise OSError.
        """
        self._look()
        own = self._folder
        candidates = [
            (found.used, folder, conversation)
            for folder, stored in [(own, self._contents.stored()), *self._others.items()]
            for conversation, found in stored.items()
            if not found.persisted
        ]
        oldest = time.time() - self._seconds
        for used, folder, conversation in sorted(candidates):
            if used >= oldest and self.used_bytes <= self._limit_bytes:
                break
            try:
                if folder == own:
                    remove(conversation)
                else:
                    self._remove_other(folder, conversation)
            except OSError as error:
                self._warn(f"cannot remove {conversation} from {folder}: {error.strerror}.")
        self._complain()

    def _remove_other(self, folder: Path, conversation: str) -> None:
        """Remove a conversation of another key, unless its folder is in use."""
        with borrowed(folder) as is_ours:
            if is_ours:
                remove_files(folder, conversation)
                self._other_bytes -= self._others[folder].pop(conversation).n_bytes

    def _complain(self) -> None:
        """Say so where nothing more can be removed, once for each higher mark."""
        used = self.used_bytes
        if used <= self._limit_bytes:
            self._bytes_in_vain = -1
            return
        if self._bytes_in_vain < 0:
            self._warn(
                f"the cache takes more than its limit of {self._limit_bytes / 10**6:,.0f} MB: what "
                "is left is persisted, in use or being written."
            )
        self._bytes_in_vain = used + (used >> 6)
