"""Whether the cache's folder can be written; where it cannot, that is tried again at times."""

import errno
import os
import time

from sdlms.errors import UserError
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.notices import Notices
from sdlms.storage.conversations import DamagedFileError

RETRY_SECONDS = 30.0
FAILURES = (OSError, UserError, DamagedFileError)  # what a write that does not succeed raises
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
MEMORY_ONLY = "What comes is kept in memory only until that works again."
WORKS_AGAIN = "The cache is written again."


def reason(error: BaseException) -> str:
    """What the system or we say, in one line; HDF5 would say it in many."""
    if isinstance(error, OSError) and error.errno:
        where = f" ({error.filename})" if error.filename else ""
        return f"cannot write the cache{where}: {os.strerror(error.errno)}"
    return str(error).partition("\n")[0].rstrip(".")


def is_full(error: BaseException) -> bool:
    """Whether the whole disk cannot be written, and not one file; a UserError hides its cause."""
    cause = error if isinstance(error, OSError) else error.__context__
    return isinstance(cause, OSError) and cause.errno in FULL


class Outage:
    """The times in which nothing can be written. One thread calls the methods.

    Attributes:
        is_on: it is such a time.
    """

    def __init__(self, disk: DiskLevel, notices: Notices) -> None:
        """The folder can be written, as far as we know."""
        self._disk, self._notices = disk, notices
        self._said = ""
        self._next_try = 0.0
        self.is_on = False

    def begin(self, error: Exception) -> None:
        """A write failed, and not for its own file's sake."""
        self._notices.withdraw(WORKS_AGAIN)
        self._said = f"{reason(error)}. {MEMORY_ONLY}"
        self._next_try = time.monotonic() + RETRY_SECONDS
        self.is_on = True
        self._notices.say(self._said)

    def works(self) -> bool:
        """Whether the folder can be written now."""
        try:
            self._disk.check()
        except UserError:
            return False
        return True

    def has_ended(self) -> bool:
        """Whether the folder can be written again; looks no more often than is useful."""
        if time.monotonic() < self._next_try:
            return False
        if not self.works():
            self._next_try = time.monotonic() + RETRY_SECONDS
            return False
        self.is_on = False
        self._notices.withdraw(self._said)
        self._notices.say(WORKS_AGAIN)
        return True

    def hurry(self) -> None:
        """Look again the next time, however short the last one ago."""
        self._next_try = 0.0
