"""A turn of a chat: the user's message is added, the model replies, both are recorded."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from threading import Event as Flag
from typing import NamedTuple
from weakref import WeakSet

from sdlms.errors import UserError
from sdlms.explorer.admission import (
    check_messages,
    check_request,
    check_sampling,
    new_id,
    sampling_of,
    title_of,
)
from sdlms.explorer.answers import check_position
from sdlms.explorer.conversation import Conversation
from sdlms.explorer.copying import copy_rows
from sdlms.explorer.core import Core
from sdlms.explorer.decoders import Decoders
from sdlms.explorer.events import Pieces
from sdlms.explorer.filling import Filler
from sdlms.explorer.questions import ChatRequest, SamplingRequest
from sdlms.explorer.refusals import (
    BadRequest,
    NotFound,
    OutOfRange,
    TooLarge,
    TooMany,
)
from sdlms.explorer.reply import Recorder, Reply
from sdlms.explorer.shapes import Event
from sdlms.explorer.shelf import Opened, Shelf
from sdlms.explorer.spans import spans_of
from sdlms.explorer.tokens import Token
from sdlms.explorer.trimming import DoesNotFitError
from sdlms.models.chat import message_of

Events = Generator[Event]
PATIENCE_SECONDS = 0.2  # a reply that ends, or a title that is stored, may just be in the way


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


class Turns:
    """Chats and regenerates: so many at once, and one in a conversation."""

    def __init__(self, core: Core, shelf: Shelf, filler: Filler) -> None:
        """No turn goes on yet."""
        self._core, self._shelf, self._filler = core, shelf, filler
        self._settings = core.settings
        self.decoders = Decoders(core.loaded.model, core.settings.decoder_bytes)
        self._places = BoundedSemaphore(core.settings.n_generations)
        self._running: WeakSet[Pieces[Event]] = WeakSet()

    def close(self) -> None:
        """End every turn; what was generated is stored."""
        for turn in list(self._running):
            turn.close()

    def forget(self, conversation_id: str) -> None:
        """Let go of what is kept of a conversation that was deleted."""
        self._filler.forget(conversation_id)
        self.decoders.forget(conversation_id)

    def chat(self, request: ChatRequest) -> Pieces[Event]:
        """A turn as it goes on; what the user says is added when this returns.

        Raises:
            Refusal: the request is wrong, or too much is asked at once.
        """
        check_request(request, self._settings)
        given_up = Flag()
        return self._begun(Pieces(self._chat(request, given_up), given_up))

    def regenerate(
        self, conversation_id: str, position: int, token_id: int, sampling: SamplingRequest
    ) -> Pieces[Event]:
        """A new conversation with another token at `position`, and the reply from there on.

        Raises:
            Refusal: there is no such conversation, position or token, or as `chat`.
        """
        check_sampling(sampling, self._settings)
        self._core.check_token(token_id)
        source = self._shelf.get(conversation_id)
        check_position(source, position)
        given_up = Flag()
        events = self._regenerate(source, position, token_id, sampling, given_up)
        return self._begun(Pieces(events, given_up))

    def _begun(self, turn: Pieces[Event]) -> Pieces[Event]:
        """The turn, which is ended with the explorer if nobody does it before."""
        self._running.add(turn)
        return turn

    def _chat(self, request: ChatRequest, given_up: Flag) -> Events:
        """The events of a turn."""
        with self._place():
            opened = self._opened_for(request)
            with self._alone(opened):
                begun = self._begin(opened, request)
                done = yield from self._events(begun, {}, request.sampling, given_up)
        yield done

    def _regenerate(
        self,
        source: Opened,
        position: int,
        token_id: int,
        sampling: SamplingRequest,
        given_up: Flag,
    ) -> Events:
        """The events of a turn that replaces a token."""
        most = self._settings.max_tokens
        if position + 1 + sampling.max_new_tokens > most:
            raise TooLarge(f"a conversation has at most {most} tokens")
        with self._place():
            self._check_room_for_another()
            try:
                forked = source.conversation.fork(position, token_id, new_id())
            except UserError as error:
                raise OutOfRange(str(error)) from None
            opened = Opened(forked)
            self._shelf.add(opened)
            copy_rows(self._core, source, opened, position)
            self._filler.add_missing(opened)
            with self._alone(opened):
                begun = Begun(opened, [], left_of(opened), position, caches=True)
                tokens = [token.as_json() for token in forked.tokens]
                done = yield from self._events(begun, {"tokens": tokens}, sampling, given_up)
        yield done

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the turns that may go on at once.

        Raises:
            TooMany: so many go on.
        """
        if not self._places.acquire(blocking=False):
            n_places = self._settings.n_generations
            raise TooMany(f"{n_places} replies are being generated; wait for one to end")
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def _alone(self, opened: Opened) -> Iterator[None]:
        """The only turn of a conversation. A lock, since other threads may go on with it.

        Raises:
            TooMany: another one goes on.
        """
        if not opened.busy.acquire(timeout=PATIENCE_SECONDS):
            raise TooMany(f"conversation {opened.id} waits for its reply; wait for its end")
        try:
            if opened.deleted:
                raise NotFound(f"conversation {opened.id} was deleted")
            yield
        finally:
            opened.busy.release()
            self._shelf.save_title(opened)

    def _opened_for(self, request: ChatRequest) -> Opened:
        """The conversation that goes on, or a new one that the shelf does not know yet."""
        if request.conversation_id is None:
            self._check_room_for_another()
            messages = [message_of(said.role, said.content) for said in request.messages]
            prompting = self._core.loaded.prompting
            return Opened(Conversation(new_id(), prompting, messages, title_of(request.text)))
        return self._shelf.get(request.conversation_id)

    def _check_room_for_another(self) -> None:
        """Refuse one more conversation where there are too many.

        Raises:
            TooMany: so it is.
        """
        if len(self._core.cache.ids()) >= self._settings.max_conversations:
            raise TooMany("too many conversations are stored; delete one")

    def _begin(self, opened: Opened, request: ChatRequest) -> Begun:
        """Add what the user says.

        Raises:
            BadRequest: the conversation has other messages than those named, or the template
                refuses the new one.
            TooLarge: it does not fit the context, or the conversation has become too long.
        """
        conversation, sampling = opened.conversation, request.sampling
        n_before = conversation.n_tokens
        is_new = request.conversation_id is None
        if not is_new:
            check_messages(request.messages, conversation.messages)
        if len(conversation.messages) + 2 > self._settings.max_messages:
            raise TooLarge(f"a conversation has at most {self._settings.max_messages} messages")
        most = self._settings.max_tokens
        try:
            said = conversation.add_user(request.text, sampling.max_new_tokens, most)
        except DoesNotFitError as error:
            raise TooLarge(str(error)) from None
        except UserError as error:
            raise BadRequest(str(error)) from None
        # At once: what was said is not lost with a turn that dies.
        self._shelf.add(opened) if is_new else self._shelf.save(opened)
        return Begun(opened, said, left_of(opened), n_before, request.cache_activations)

    def _events(
        self, begun: Begun, more: Event, request: SamplingRequest, given_up: Flag
    ) -> Generator[Event, None, Event]:
        """Start and the tokens of the reply; returns done. It ends well however it ends."""
        opened = begun.opened
        n_before = opened.conversation.n_tokens
        first = begun.recorded_from if begun.caches else None
        recorder = Recorder(self._core, opened, self._filler, first)
        decoder = self.decoders.take(opened.id)
        reply = Reply(self._core, opened, decoder, sampling_of(request), recorder)
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
            self._end(begun, reply, recorder)
            self.decoders.give_back(opened.id, decoder)
            if opened.deleted:  # meanwhile, and what was kept of it was let go before
                self.forget(opened.id)
        # What is shown as complete outlives a process that is killed.
        self._core.cache.wait_for_record(opened.id)
        return {
            "event": "done",
            "conversation_id": opened.id,
            "text": text,
            "tokens": [token.as_json() for token in opened.conversation.tokens[n_before:]],
            "userTokens": said,
            "finish": reply.finish,
            "left": len(begun.left),
            "seconds": reply.seconds,
        }

    def _end(self, begun: Begun, reply: Reply, recorder: Recorder) -> None:
        """Store the conversation, then the states that are not stored yet."""
        opened = begun.opened
        try:
            reply.read_last()
        finally:
            n_tokens = opened.conversation.n_tokens
            recorded = recorder.recorded
            opened.uncached += spans_of(
                [p for p in range(begun.recorded_from, n_tokens) if p not in recorded]
            )
            opened.n_recorded = n_tokens
            self._shelf.save(opened)
        recorder.store()
        self._filler.add(opened, ())  # what follows the token before this turn is known


def left_of(opened: Opened) -> list[int]:
    """Positions that the model does not see any more."""
    return [token.position for token in opened.conversation.tokens if not token.in_prompt]
