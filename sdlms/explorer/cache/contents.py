"""What a folder of conversations holds, known without asking the disk."""

import contextlib
import os
import threading
import time
from pathlib import Path

from sdlms.explorer.cache.key_folder import BLOCK_BYTES, RECORD, ROWS, Stored, scan

NOTE_USE_SECONDS = 60.0


class Contents:
    """An index of the folder, kept by who writes there. Thread-safe; no lock is held over I/O.

    Attributes:
        used_bytes: what all conversations take.
    """

    def __init__(self, folder: Path) -> None:
        """See what lies there.

        Raises:
            OSError: it cannot be read.
        """
        self._folder = folder
        self._lock = threading.Lock()
        self._stored = scan(folder)
        self._noted = {i: found.used for i, found in self._stored.items()}
        self._used: set[str] = set()  # since that was noted
        self._damaged: set[str] = set()
        self.used_bytes = sum(found.n_bytes for found in self._stored.values())

    def ids(self) -> list[str]:
        """Conversations that have a record here."""
        with self._lock:
            return [i for i, found in self._stored.items() if found.has_record]

    def has_record(self, conversation: str) -> bool:
        """Whether it is one of them."""
        with self._lock:
            return self._stored.get(conversation, Stored()).has_record

    def persisted(self) -> set[str]:
        """Those that are exempt from eviction."""
        with self._lock:
            return {i for i, found in self._stored.items() if found.persisted}

    def is_persisted(self, conversation: str) -> bool:
        """Whether it is one of them."""
        with self._lock:
            return self._stored.get(conversation, Stored()).persisted

    def size_bytes(self, conversation: str) -> int:
        """What the files of one conversation take."""
        with self._lock:
            return self._stored.get(conversation, Stored()).n_bytes

    def stored(self) -> dict[str, Stored]:
        """What lies here, by conversation; the entries change on."""
        with self._lock:
            return dict(self._stored)

    def was_damaged(self, conversation: str) -> bool:
        """Whether a file of it was put aside since the start."""
        with self._lock:
            return conversation in self._damaged

    def note_record(self, conversation: str, there: bool) -> None:
        """It can be opened again, or no more."""
        with self._lock:
            self._entry(conversation).has_record = there

    def note_mark(self, conversation: str, persisted: bool) -> None:
        """It is exempt from eviction, or no more."""
        with self._lock:
            self._entry(conversation).persisted = persisted

    def note_damage(self, conversation: str, n_bytes: int) -> None:
        """A file of so many bytes was put aside."""
        with self._lock:
            self._damaged.add(conversation)
            self._entry(conversation).damaged_bytes += n_bytes
        self.measure(conversation)

    def remove(self, conversation: str) -> None:
        """Its files are gone."""
        with self._lock:
            self.used_bytes -= self._stored.pop(conversation, Stored()).n_bytes
            self._damaged.discard(conversation)
            self._used.discard(conversation)
            self._noted.pop(conversation, None)

    def _entry(self, conversation: str) -> Stored:
        """What is known of a conversation, a new entry where it is nothing."""
        return self._stored.setdefault(conversation, Stored(used=time.time()))

    def measure(self, conversation: str) -> None:
        """Look again at how much the files of a conversation take."""
        n_bytes = 0
        for suffix in (RECORD, ROWS):
            with contextlib.suppress(OSError):
                status = (self._folder / f"{conversation}{suffix}").stat()
                n_bytes += status.st_blocks * BLOCK_BYTES
        with self._lock:
            found = self._entry(conversation)
            before, found.n_bytes = found.n_bytes, n_bytes + found.damaged_bytes
            self.used_bytes += found.n_bytes - before

    def touch(self, conversation: str) -> None:
        """Note that a conversation is used."""
        with self._lock:
            if conversation in self._stored:
                self._stored[conversation].used = time.time()
                self._used.add(conversation)

    def write_uses(self, pause: float = NOTE_USE_SECONDS) -> None:
        """Give records' files the times of the last uses, which tells a later explorer of them.

        Args:
            pause: seconds for which a time that was written is good enough.
        """
        with self._lock:
            used = {i: self._stored[i].used for i in self._used}
            due = {i: at for i, at in used.items() if at - self._noted.get(i, 0.0) > pause}
            self._noted.update(due)
            self._used.difference_update(due)
        for conversation, at in due.items():
            with contextlib.suppress(OSError):
                os.utime(self._folder / f"{conversation}{RECORD}", (at, at))
