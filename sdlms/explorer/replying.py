"""A turn once the user has spoken: the model replies, and what comes of it is recorded."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from threading import Event as Flag
from typing import NamedTuple

from sdlms.errors import UserError
from sdlms.explorer.core import Core
from sdlms.explorer.decoders import Decoders
from sdlms.explorer.filling import Filler
from sdlms.explorer.refusals import OutOfRange
from sdlms.explorer.reply import Recorder, Reply
from sdlms.explorer.shapes import Event
from sdlms.explorer.shelf import Opened, Shelf
from sdlms.explorer.spans import spans_of
from sdlms.explorer.tokens import Token
from sdlms.models.generating import Decoder
from sdlms.models.sampling import Sampling

Events = Generator[Event]


class Begun(NamedTuple):
    """A turn before the model replies.

    Attributes:
        opened: the conversation, with what the user said.
        said: tokens that this added, the template's around it among them.
        left: positions that the model does not see in this turn.
        recorded_from: the first position whose states are new.
        caches: whether they are kept.
    """

    opened: Opened
    said: list[Token]
    left: list[int]
    recorded_from: int
    caches: bool


class Replying:
    """Has the model reply, and stores what was said and read.

    Attributes:
        decoders: the key-value caches of the last conversations.
    """

    def __init__(self, core: Core, shelf: Shelf, filler: Filler) -> None:
        """Nothing is read yet."""
        self._core, self._shelf, self._filler = core, shelf, filler
        self.decoders = Decoders(core.loaded.model, core.settings.decoder_bytes)

    def forget(self, conversation_id: str) -> None:
        """Let go of what is kept of a conversation that was deleted."""
        self._filler.forget(conversation_id)
        self.decoders.forget(conversation_id)

    def events(
        self, begun: Begun, more: Event, sampling: Sampling, given_up: Flag
    ) -> Generator[Event, None, Event]:
        """Start and the tokens of the reply; returns done. It ends well however it ends."""
        opened = begun.opened
        n_before = opened.conversation.n_tokens
        first = begun.recorded_from if begun.caches else None
        recorder = Recorder(self._core, opened, self._filler, first)
        decoder = self.decoders.take(opened.id)
        reply = Reply(self._core, opened, decoder, sampling, recorder)
        opened.conversation.begin_reply()
        said = [token.as_json() for token in begun.said]
        try:
            yield {
                "event": "start",
                "conversation_id": opened.id,
                "userTokens": said,
                "left_positions": begun.left,
            } | more
            with self._core.computer.generating():
                for token in reply.tokens(given_up):
                    yield {"event": "token", "token": token.as_json()}
        except UserError as error:  # logits that are not finite
            raise OutOfRange(str(error)) from None
        finally:
            text = opened.conversation.end_reply()
            self._end(begun, reply, recorder, decoder)
        # What is shown as complete and stored outlives a process that is killed.
        is_stored = self._core.cache.wait_for_record(opened.id)
        return {
            "event": "done",
            "conversation_id": opened.id,
            "text": text,
            "tokens": [token.as_json() for token in opened.conversation.tokens[n_before:]],
            "userTokens": said,
            "finish": reply.finish,
            "left": len(begun.left),
            "seconds": reply.seconds,
            "stored": is_stored,
        }

    def _end(self, begun: Begun, reply: Reply, recorder: Recorder, decoder: Decoder) -> None:
        """Store what was said, then what was read of it; each whatever becomes of the others."""
        opened = begun.opened
        with ExitStack() as ends:  # the last one is done first
            ends.callback(self._forget_deleted, opened)
            ends.callback(self.decoders.give_back, opened.id, decoder)
            ends.callback(self._filler.add, opened, ())  # what follows the token before is known
            ends.callback(recorder.store)
            ends.callback(self._save, begun, recorder)
            reply.read_last()

    def _save(self, begun: Begun, recorder: Recorder) -> None:
        """Store the conversation, and which of its positions were not recorded."""
        opened, n_tokens = begun.opened, begun.opened.conversation.n_tokens
        opened.uncached += spans_of(
            [p for p in range(begun.recorded_from, n_tokens) if p not in recorder.recorded]
        )
        opened.n_recorded = n_tokens
        self._shelf.save(opened)

    def _forget_deleted(self, opened: Opened) -> None:
        """What was kept of a conversation was let go when it was deleted, and came back since."""
        if opened.deleted:
            self.forget(opened.id)


def left_of(opened: Opened) -> list[int]:
    """Positions that the model does not see any more."""
    return [token.position for token in opened.conversation.tokens if not token.in_prompt]
