"""The conversations that somebody talks in or looks at; the others lie in the cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock, RLock
from weakref import WeakValueDictionary

from sdlms.explorer.cache.gates import Gates
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.conversation import Conversation
from sdlms.explorer.loaded import LoadedModel
from sdlms.explorer.records import VERSION, record_field, summary_of
from sdlms.explorer.refusals import NotFound, one_line
from sdlms.explorer.shapes import Json
from sdlms.explorer.spans import Span
from sdlms.lens.kinds import KINDS, NAMES
from sdlms.progress import LOGGER
from sdlms.storage.conversations import ID

N_KEPT = 64
KEPT_TOKENS = 200_000  # some 60 MB


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(eq=False)
class Opened:
    """A conversation in memory.

    Attributes:
        conversation: itself; a turn alone changes it.
        created: when.
        busy: held by the turn that goes on; another one is refused.
        guard: held for the moment in which something is stored, or the conversation is deleted.
        is_renamed: it has a title that was not stored yet.
        deleted: nothing is stored of it any more, and a turn ends.
        n_recorded: positions whose states were recorded when the model read them, `uncached` aside.
        uncached: positions whose states nobody wanted to keep, or that left the disk since.
        n_evictions: how often the disk let go of it, as far as `uncached` knows.
    """

    conversation: Conversation
    created: str = field(default_factory=now)
    busy: Lock = field(default_factory=Lock)
    guard: RLock = field(default_factory=RLock)
    is_renamed: bool = False
    deleted: bool = False
    n_recorded: int = 0
    uncached: list[Span] = field(default_factory=list)
    n_evictions: int = 0

    @property
    def id(self) -> str:
        """The conversation's."""
        return self.conversation.conversation_id

    def was_recorded(self, position: int) -> bool:
        """Whether the position's states ought to be stored."""
        unwanted = any(span.first <= position < span.end for span in self.uncached)
        return position < self.n_recorded and not unwanted


class Shelf:
    """Conversations by id: each is in memory once, however many look at it."""

    def __init__(
        self,
        loaded: LoadedModel,
        cache: Cache,
        tuned: str | None,
        on_read: Callable[[Opened], None],
    ) -> None:
        """Nothing is opened yet.

        Args:
            loaded: the model.
            cache: where conversations lie.
            tuned: what tells the tuned lens from others; None where none is loaded.
            on_read: called with a conversation that was read from the cache.
        """
        self._loaded, self._cache = loaded, cache
        self._tuned, self._on_read = tuned, on_read
        self._opened: WeakValueDictionary[str, Opened] = WeakValueDictionary()
        self._kept: OrderedDict[str, Opened] = OrderedDict()
        self._removed: set[str] = set()  # their files are not gone yet
        self._summaries: dict[str, Json | None] = {}  # None: there is nothing to show
        self._n_removals = 0
        # A gate is held while a conversation is read; inside of it, never while the disk works,
        # the lock of all that is above.
        self._gates = Gates()
        self._lock = Lock()

    def get(self, conversation_id: str) -> Opened:
        """The conversation, read from the cache where it is not in memory.

        Raises:
            NotFound: there is none of this id.
        """
        if not ID.fullmatch(conversation_id):
            raise NotFound(f"no conversation {one_line(conversation_id)}")
        with self._lock:
            opened = self._opened.get(conversation_id)
        if opened is None:
            with self._gates.of(conversation_id):
                opened = self._read_once(conversation_id)
        self._note_eviction(opened)
        with self._lock:
            if not opened.deleted:
                self._keep(opened)
        return opened

    def _read_once(self, conversation_id: str) -> Opened:
        """The conversation, read unless somebody did while the gate was closed."""
        with self._lock:
            opened = self._opened.get(conversation_id)
        return self._read(conversation_id) if opened is None else opened

    def _note_eviction(self, opened: Opened) -> None:
        """What left the disk is not lost: it need not be there any more."""
        n_evictions = self._cache.n_evictions(opened.id)
        if n_evictions != opened.n_evictions:
            opened.n_evictions = n_evictions
            opened.uncached = [Span(0, opened.conversation.n_tokens)]

    def add(self, opened: Opened) -> None:
        """Take a new conversation in; its record makes the cache know it."""
        with self._lock:
            self._opened[opened.id] = opened
            self._keep(opened)
        self.save(opened)

    def save_title(self, opened: Opened) -> None:
        """Store a new title, unless a turn goes on, which calls this when it has ended."""
        while opened.is_renamed and opened.busy.acquire(blocking=False):
            try:
                opened.is_renamed = False
                self.save(opened)
            finally:
                opened.busy.release()

    def save(self, opened: Opened) -> None:
        """Store the conversation as it is now, unless it was deleted."""
        self._note_eviction(opened)
        record = opened.conversation.to_record() | {
            "created": opened.created,
            "updated": now(),
            "uncached": [[span.first, span.end] for span in opened.uncached],
            "tuned_lens": self._tuned,
        }
        with opened.guard:
            if not opened.deleted:
                self._cache.save_record(opened.id, record)
                self._summaries[opened.id] = summary_of(opened.id, record)

    def remove(self, conversation_id: str) -> None:
        """Forget a conversation and all that is stored of it.

        Raises:
            NotFound: there is none of this id.
        """
        opened = self.get(conversation_id)
        with self._lock:
            if opened.deleted:
                raise NotFound(f"no conversation {one_line(conversation_id)}")
            self._kept.pop(conversation_id, None)
            self._opened.pop(conversation_id, None)
            self._removed.add(conversation_id)  # nobody reads it again while its files go
            self._n_removals += 1
            opened.deleted = True
        try:
            with opened.guard:  # what is being stored is stored, and then removed
                self._cache.delete(conversation_id)
        finally:
            with self._lock:
                self._removed.discard(conversation_id)
                self._summaries.pop(conversation_id, None)

    def summaries(self) -> list[Json]:
        """What a list shows of the stored conversations, the one changed last first.

        One without tokens is not shown, nor one that cannot be read; the latter is said once.
        """
        sizes, found = self._cache.sizes(), []
        for conversation_id in self._cache.ids():
            if (summary := self._summary(conversation_id)) is not None:
                known = {
                    "persisted": self._cache.persisted(conversation_id),
                    "size_bytes": sizes.get(conversation_id, 0),
                }
                found.append(summary | known)
        return sorted(found, key=lambda each: each["updated"], reverse=True)

    def _summary(self, conversation_id: str) -> Json | None:
        """One line of the list; it is made once, since to read a long record takes a while."""
        with self._lock:
            n_removals = self._n_removals
            if conversation_id in self._removed:
                return None
            if conversation_id in self._summaries:
                return self._summaries[conversation_id]
        summary = None
        if (record := self._cache.record(conversation_id)) is None:
            return None
        try:
            summary = summary_of(conversation_id, record)
        except ValueError as error:
            self._put_aside(conversation_id, record, error)
        with self._lock:
            if n_removals == self._n_removals:  # else it may be gone
                self._summaries.setdefault(conversation_id, summary)
        return summary

    def _put_aside(self, conversation_id: str, record: Json, error: ValueError) -> None:
        """Of a record that is of no use, and say so; another version's stays where it is."""
        if record.get("version") == VERSION:
            self._cache.put_aside(conversation_id, str(error))
        else:
            LOGGER.warning(f"conversation {conversation_id} cannot be listed: {error}")

    def _read(self, conversation_id: str) -> Opened:
        """From its record. Rows of tokens that the record lacks were written by a turn that died.

        The row of the record's last token is dropped too: what followed it then is gone.
        """
        with self._lock:
            is_removed = conversation_id in self._removed
        record = None if is_removed else self._cache.record(conversation_id)
        if record is None:
            raise NotFound(f"no conversation {one_line(conversation_id)}")
        self._cache.touch(conversation_id)
        try:
            conversation = Conversation.from_record(record, self._loaded.prompting)
            opened = Opened(conversation, record_field(record, "created", str, ""))
            opened.uncached = _spans(record_field(record, "uncached", list, []))
        except ValueError as error:
            if record.get("version") == VERSION:
                self._cache.put_aside(conversation_id, str(error))
            raise NotFound(f"conversation {conversation_id} cannot be read: {error}") from None
        opened.n_evictions = self._cache.n_evictions(conversation_id)
        opened.n_recorded = n_tokens = conversation.n_tokens
        self._cache.truncate(conversation_id, n_tokens)
        for lens in NAMES:
            self._cache.truncate(conversation_id, max(0, n_tokens - 1), lens)
        if self._tuned is not None and record.get("tuned_lens") != self._tuned:
            for kind in KINDS:
                if kind.needs == "translators":
                    self._cache.truncate(conversation_id, 0, kind.name)
            self.save(opened)
        with self._lock:
            self._opened[conversation_id] = opened
        self._on_read(opened)
        return opened

    def _keep(self, opened: Opened) -> None:
        """As the one looked at last; those looked at longest ago may go."""
        self._kept[opened.id] = opened
        self._kept.move_to_end(opened.id)
        n_tokens = sum(kept.conversation.n_tokens for kept in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > N_KEPT or n_tokens > KEPT_TOKENS):
            n_tokens -= self._kept.popitem(last=False)[1].conversation.n_tokens


def _spans(items: Sequence[object]) -> list[Span]:
    """Spans of a record.

    Raises:
        ValueError: an item is no pair of numbers.
    """
    spans = []
    for item in items:
        match item:
            case [int(first), int(end)]:
                spans.append(Span(first, end))
            case _:
                raise ValueError("uncached holds something that is no span")
    return spans
