"""What the disk has too much or too little of each conversation, while it cannot be written."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache.writer import NO_END, Job


class Arrears:
    """Bookkeeping alone; not thread-safe: the cache holds its lock around every call.

    Attributes:
        old: of a conversation, the position from which on the disk's rows are none of it any more.
        missing: of a conversation, the position from which on memory may have more rows.
        deleted: conversations whose files the disk could not remove.
    """

    def __init__(self, groups: Collection[str]) -> None:
        """Nothing is owed; `groups` are the kinds of jobs that write rows."""
        self._kinds = {*groups, "all"}
        self.old: dict[str, int] = {}
        self.missing: dict[str, int] = {}
        self.deleted: set[str] = set()

    def note(self, job: Job) -> None:
        """A job was not done. Records and marks are compared with the disk, not noted here."""
        if job.kind in self._kinds:
            for noted in (self.old, self.missing):
                noted[job.conversation] = min(job.first, noted.get(job.conversation, NO_END))

    def is_current(self, conversation: str, positions: Sequence[int]) -> NDArray[np.bool_]:
        """Of which positions the disk's rows count."""
        return np.asarray(positions, np.int64) < self.old.get(conversation, NO_END)

    def has_rows(self, conversation: str) -> bool:
        """Whether any of the disk's rows count."""
        return self.old.get(conversation) != 0 and conversation not in self.deleted

    def delete(self, conversation: str) -> None:
        """Its files are to go; what comes from now on is another one's."""
        self.deleted.add(conversation)
        self.missing.pop(conversation, None)

    def forget(self, conversation: str) -> None:
        """Its files are gone, and with them what is old; what they lack is still missing."""
        self.deleted.discard(conversation)
        self.old.pop(conversation, None)
