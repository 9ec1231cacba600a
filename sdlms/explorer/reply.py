"""One reply as the model makes it, token by token, with the states that the lens will read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from threading import Event as Flag
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import HIDDEN, Core
from sdlms.explorer.filling import Filler
from sdlms.explorer.hidden import states_of_step
from sdlms.explorer.refusals import Closed
from sdlms.explorer.shelf import Opened
from sdlms.explorer.spans import spans_of
from sdlms.explorer.tokens import Token
from sdlms.models.generating import PIECE_TOKENS, Decoder, Step
from sdlms.models.sampling import Sampling, sample
from sdlms.models.unembedding import rescored

STORED_AT_ONCE = 16
Finish = Literal["stop", "length", "cancelled"]


class Recorder:
    """Takes the states of new positions as they come and stores them some at a time.

    Attributes:
        recorded: the positions whose states were taken.
    """

    def __init__(self, core: Core, opened: Opened, filler: Filler, first: int | None) -> None:
        """Record positions from `first` on; none where it is None."""
        self.recorded: set[int] = set()
        self._core, self._opened, self._filler = core, opened, filler
        self._first = first
        self._positions: list[int] = []
        self._states: list[NDArray[np.float32]] = []

    def take(self, positions: Sequence[int], states: NDArray[np.float32]) -> None:
        """States `[token, state, d_model]` of ascending positions that were just read."""
        if self._first is None:
            return
        for span in spans_of(positions):
            first = max(span.first, self._first)
            if first < span.end:
                place = positions.index(first)
                own = states[place : place + span.end - first]
                self._core.waiting.add(self._opened.id, first, own)
                self._positions += range(first, span.end)
                self.recorded.update(range(first, span.end))
                self._states.append(own)
        if len(self._positions) >= STORED_AT_ONCE:
            self.store()

    def store(self) -> None:
        """Hand over what was taken to the cache and to the background worker."""
        if not self._positions:
            return
        states = np.concatenate(self._states)
        place = 0
        for span in spans_of(self._positions):
            end = place + span.end - span.first
            self._core.store(self._opened, HIDDEN, span.first, {"hidden": states[place:end]})
            place = end
        self._filler.add(self._opened, self._positions)
        self._positions, self._states = [], []


class Reply:
    """A reply that goes on: its tokens are drawn one by one.

    Attributes:
        finish: why it ended; `cancelled` until it does.
    """

    def __init__(
        self,
        core: Core,
        opened: Opened,
        decoder: Decoder,
        sampling: Sampling,
        recorder: Recorder,
    ) -> None:
        """Take the prompt as the conversation gives it now; nothing is computed yet."""
        self.finish: Finish = "cancelled"
        self._core, self._opened, self._decoder = core, opened, decoder
        self._conversation = opened.conversation
        self._sampling, self._generator = sampling, sampling.generator()
        self._recorder = recorder
        self._positions = self._conversation.prompt()
        self._unread = decoder.missing([self._conversation.tokens[p].id for p in self._positions])
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the prompt was taken."""
        return time.perf_counter() - self._began

    def tokens(self, given_up: Flag) -> Iterator[Token]:
        """Draw tokens until the reply ends, or nobody wants it any more."""
        if self._conversation.reply_ended:  # by the token that another one was replaced with
            self.finish = "stop"
            return
        for _ in range(min(self._sampling.max_new_tokens, self._conversation.room)):
            token_id = self._read(given_up)
            if token_id is None:
                return
            token = self._conversation.append(token_id)
            self._positions.append(token.position)
            self._unread.append(token_id)
            yield token
            if self._conversation.reply_ended:
                self.finish = "stop"
                return
        self.finish = "length"

    def read_last(self) -> None:
        """Read the last token too, so that its states are there, if nothing else is unread."""
        if len(self._unread) == 1 and self._decoder.n_tokens == len(self._positions) - 1:
            with suppress(Closed):
                self._read(Flag())

    def _read(self, given_up: Flag) -> int | None:
        """Have the model read what it has not, a piece at a time; the token that it draws then.

        None where the reply was given up before that.
        """
        drawn = None
        while self._unread and not (given_up.is_set() or self._opened.deleted):
            piece, rest = self._unread[:PIECE_TOKENS], self._unread[PIECE_TOKENS:]
            first = self._decoder.n_tokens
            states, drawn = self._core.computer.run(
                Urgency.GENERATION, partial(self._extend, piece, draw=not rest)
            )
            self._unread = rest
            self._recorder.take(self._positions[first : first + len(piece)], states)
        return drawn

    def _extend(self, piece: list[int], *, draw: bool) -> tuple[NDArray[np.float32], int | None]:
        """In the thread that computes: the states of a piece, and the token after it."""
        step = self._decoder.extend(piece)
        return states_of_step(step), self._drawn(step) if draw else None

    def _drawn(self, step: Step) -> int:
        """The next token, by the logits that the lens will show."""
        logits = rescored(self._core.loaded.model, step.states[-1, -1], step.logits)
        return sample(logits, self._sampling, self._generator)
