"""The background worker: measures lens rows when nobody waits for the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Condition, Thread
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import HIDDEN, ROW_NAMES, Core
from sdlms.explorer.refusals import Closed
from sdlms.explorer.shelf import KEPT_TOKENS, Opened
from sdlms.explorer.spans import spans_of
from sdlms.progress import LOGGER

MOST_TOKENS = 32
MOST_CONVERSATIONS = 64  # with their tokens, which `KEPT_TOKENS` bounds too
MOST_OPEN_ENDS = 1_000
# What measuring raises: torch out of memory or at a damaged device, rows that do not fit together,
# a disk that fails.
FAILURES = (RuntimeError, MemoryError, ValueError, LookupError, OSError, UserError)
Missing = dict[str, set[int]]


class Batch(NamedTuple):
    """Rows to be measured: positions that follow one another, of one lens."""

    opened: Opened
    lens: str
    first: int
    end: int


class Filler:
    """Knows which rows are missing and fills them, the last conversation first.

    The row of a conversation's last token stays open: what follows it is not known yet. Of a
    conversation that has no other row to be filled nothing but that is remembered.
    """

    def __init__(self, core: Core) -> None:
        """Start the thread; there is nothing to do yet."""
        self._core = core
        self._most = max(1, min(MOST_TOKENS, core.settings.fill_rows // core.n_states))
        self._todo: OrderedDict[str, tuple[Opened, Missing]] = OrderedDict()
        self._open_ends: OrderedDict[str, Missing] = OrderedDict()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, name="explorer-fill", daemon=True)
        self._thread.start()

    def add(self, opened: Opened, positions: Iterable[int]) -> None:
        """These positions were read; their rows are wanted, and the one before that was open."""
        wanted = set(positions)
        with self._changed:
            missing = self._missing_of(opened.id)
            self._put(opened, {lens: missing[lens] | wanted for lens in missing}, last=True)

    def add_missing(self, opened: Opened) -> None:
        """A conversation was opened again: the rows that it lacks and whose states are stored."""
        n_tokens = opened.conversation.n_tokens
        stored = self._core.cache.present(opened.id, HIDDEN, n_tokens)
        missing = {
            lens: set(_places(stored & ~self._core.cache.present(opened.id, lens, n_tokens)))
            for lens in self._core.lenses
        }
        with self._changed:
            self._put(opened, missing, last=False)

    def _put(self, opened: Opened, missing: Missing, *, last: bool) -> None:
        """Note what a conversation lacks; the one that comes last is filled first.

        Where there is too much, what would be filled last is left to clicks.
        """
        self._todo.pop(opened.id, None)
        self._open_ends.pop(opened.id, None)
        if opened.deleted:  # whoever deletes it marks it first, then has it forgotten
            return
        if _is_work(opened, missing):
            self._todo[opened.id] = (opened, missing)
            self._todo.move_to_end(opened.id, last=last)
        elif any(missing.values()):
            self._open_ends[opened.id] = missing
        if len(self._open_ends) > MOST_OPEN_ENDS:
            self._open_ends.popitem(last=False)
        n_tokens = sum(held.conversation.n_tokens for held, _ in self._todo.values())
        while len(self._todo) > 1 and (
            len(self._todo) > MOST_CONVERSATIONS or n_tokens > KEPT_TOKENS
        ):
            _, (dropped, _) = self._todo.popitem(last=False)
            n_tokens -= dropped.conversation.n_tokens
        self._changed.notify_all()

    def done(self, opened: Opened, lens: str, positions: Iterable[int]) -> None:
        """These rows are stored, or cannot be."""
        finished = set(positions)
        with self._changed:
            missing = self._missing_of(opened.id)
            missing[lens] -= finished
            idle = finished.difference(*missing.values())
            if opened.id in self._todo and not _is_work(opened, missing):
                self._put(opened, missing, last=True)
        self._core.waiting.drop(opened.id, idle)

    def _missing_of(self, conversation_id: str) -> Missing:
        """The rows that a conversation lacks, by lens."""
        if conversation_id in self._todo:
            return self._todo[conversation_id][1]
        nothing: Missing = {lens: set() for lens in self._core.lenses}
        return self._open_ends.get(conversation_id, nothing)

    def forget(self, conversation_id: str) -> None:
        """The conversation is gone."""
        with self._changed:
            self._todo.pop(conversation_id, None)
            self._open_ends.pop(conversation_id, None)
            self._changed.notify_all()
        self._core.waiting.forget(conversation_id)

    @property
    def n_unfilled(self) -> int:
        """Tokens that lack a row of some lens and will get it."""
        with self._changed:
            return sum(
                sum(p < opened.conversation.n_tokens - 1 for p in set().union(*todo.values()))
                for opened, todo in self._todo.values()
            )

    def wait(self, seconds: float) -> bool:
        """Wait until everything that can be filled is filled; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._next() is None, seconds)

    def stop(self) -> None:
        """Begin no other batch."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Return when the batch at hand has ended."""
        self.stop()
        self._thread.join()

    def _next(self) -> Batch | None:
        """What is to be filled next: the first lens first, the last conversation first."""
        for lens in self._core.lenses:
            for opened, todo in reversed(self._todo.values()):
                n_known = opened.conversation.n_tokens - 1
                if (batch := self._run_of(opened, lens, todo[lens], n_known)) is not None:
                    return batch
        return None

    def _run_of(self, opened: Opened, lens: str, missing: set[int], n_known: int) -> Batch | None:
        """The first missing positions whose next token is known."""
        first = min(missing, default=n_known)
        if first >= n_known:
            return None
        end = first + 1
        while end < min(first + self._most, n_known) and end in missing:
            end += 1
        return Batch(opened, lens, first, end)

    def _work(self) -> None:
        """Fill batch after batch; sleep where there is none."""
        while self._fill_next():
            pass

    def _fill_next(self) -> bool:
        """Fill one batch once there is one; whether to go on. Nothing of it is held afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next() is not None)
            batch = None if self._closed else self._next()
        if batch is None:
            return False
        try:
            fill(self._core, batch)
        except Closed:
            return False
        except FAILURES as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            LOGGER.warning(
                f"{batch.lens} lens rows of {batch.opened.id} are left to clicks from "
                f"{batch.first} on: {reason}"
            )
            self._give_up(batch)
        finally:
            self.done(batch.opened, batch.lens, range(batch.first, batch.end))
            with self._changed:
                self._changed.notify_all()
        return True

    def _give_up(self, batch: Batch) -> None:
        """Leave all rows of a conversation and a lens to clicks, and go on with the next one."""
        with self._changed:
            missing = set(self._missing_of(batch.opened.id)[batch.lens])
        self.done(batch.opened, batch.lens, missing)


def _is_work(opened: Opened, missing: Missing) -> bool:
    """Whether a row is missing whose next token is known."""
    n_known = opened.conversation.n_tokens - 1
    return any(min(places, default=n_known) < n_known for places in missing.values())


def _places(marked: NDArray[np.bool_]) -> list[int]:
    """Where an array is true."""
    return [int(place) for place in np.flatnonzero(marked)]


def fill(core: Core, batch: Batch) -> None:
    """Measure and store the rows whose states are there; a click computes the others.

    Raises:
        Closed: the explorer is being shut down.
    """
    opened, positions = batch.opened, range(batch.first, batch.end)
    held = [core.waiting.get(opened.id, position) for position in positions]
    absent = [p for p, states in zip(positions, held, strict=True) if states is None]
    if absent:
        stored = core.cache.get(opened.id, HIDDEN, absent)
        for place in np.flatnonzero(stored.present):
            held[absent[place] - batch.first] = stored.arrays["hidden"][place].astype(np.float32)
    there = {p: states for p, states in zip(positions, held, strict=True) if states is not None}
    for span in spans_of(list(there)):
        hidden = np.stack([there[position] for position in range(span.first, span.end)])
        measure_and_store(core, opened, batch.lens, span.first, hidden)


def measure_and_store(
    core: Core, opened: Opened, lens: str, first: int, hidden: NDArray[np.float32]
) -> None:
    """Rows of the positions from `first` on, whose next tokens are all known."""
    tokens = opened.conversation.tokens
    next_ids = [tokens[position + 1].id for position in range(first, first + len(hidden))]
    rows = core.computer.run(Urgency.FILLING, lambda: core.measure(lens, hidden, next_ids))
    core.store(opened, lens, first, {name: getattr(rows, name) for name in ROW_NAMES})
