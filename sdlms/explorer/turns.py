"""A turn of a chat: the user's message is added, the model replies, both are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore, Condition
from threading import Event as Flag
from weakref import WeakSet

from sdlms.errors import UserError
from sdlms.explorer.admission import (
    check_messages,
    check_request,
    check_sampling,
    new_id,
    title_of,
)
from sdlms.explorer.answers import check_position
from sdlms.explorer.conversation import Conversation
from sdlms.explorer.copying import copy_rows
from sdlms.explorer.core import Core
from sdlms.explorer.events import Ahead
from sdlms.explorer.filling import Filler
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import (
    BadRequest,
    Closed,
    NotFound,
    OutOfRange,
    TooLarge,
    TooMany,
)
from sdlms.explorer.replying import Begun, Events, Replying, left_of
from sdlms.explorer.shapes import Event
from sdlms.explorer.shelf import Opened, Shelf
from sdlms.explorer.trimming import DoesNotFitError
from sdlms.models.sampling import Sampling

PATIENCE_SECONDS = 0.2  # a reply that ends, or a title that is stored, may just be in the way


class Turns:
    """Chats and regenerates: so many at once, and one in a conversation.

    A turn goes on in a thread of its own: how fast its events are read is nothing to it.
    """

    def __init__(self, core: Core, shelf: Shelf, filler: Filler) -> None:
        """No turn goes on yet."""
        self._core, self._shelf, self._filler = core, shelf, filler
        self._settings = core.settings
        self.replying = Replying(core, shelf, filler)
        n_places = core.settings.n_generations
        self._places = BoundedSemaphore(n_places)
        self._threads = ThreadPoolExecutor(n_places, "explorer-turn")
        self._changed = Condition()
        self._n_beginning = 0
        self._is_closed = False
        self._flags: WeakSet[Flag] = WeakSet()

    def close(self) -> None:
        """End every turn; what was generated is stored."""
        with self._changed:
            self._is_closed = True
            for given_up in self._flags:
                given_up.set()
            self._changed.wait_for(lambda: not self._n_beginning)  # each needs a thread yet
        self._threads.shutdown()

    def chat(self, request: ChatRequest) -> Ahead[Event]:
        """A turn as it goes on; what the user says is added when this returns.

        Raises:
            Refusal: the request is wrong, or too much is asked at once.
        """
        check_request(request, self._settings)
        return self._begun(lambda given_up: self._chat(request, given_up))

    def regenerate(
        self, conversation_id: str, position: int, token_id: int, sampling: Sampling
    ) -> Ahead[Event]:
        """A new conversation with another token at `position`, and the reply from there on.

        Raises:
            Refusal: there is no such conversation, position or token, or as `chat`.
        """
        check_sampling(sampling, self._settings)
        self._core.check_token(token_id)
        source = self._shelf.get(conversation_id)
        check_position(source, position)
        return self._begun(
            lambda given_up: self._regenerate(source, position, token_id, sampling, given_up)
        )

    def _begun(self, events_of: Callable[[Flag], Events]) -> Ahead[Event]:
        """The turn, which is given up with the explorer if nobody does it before."""
        given_up = Flag()
        with self._changed:
            if self._is_closed:
                raise Closed("the explorer is being shut down")
            self._flags.add(given_up)
            self._n_beginning += 1
        try:
            return Ahead(events_of(given_up), given_up, self._threads)
        finally:
            with self._changed:
                self._n_beginning -= 1
                self._changed.notify_all()

    def _chat(self, request: ChatRequest, given_up: Flag) -> Events:
        """The events of a turn."""
        with self._place():
            opened = self._opened_for(request)
            with self._alone(opened):
                begun = self._begin(opened, request)
                done = yield from self.replying.events(begun, {}, request.sampling, given_up)
        yield done

    def _regenerate(
        self,
        source: Opened,
        position: int,
        token_id: int,
        sampling: Sampling,
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
            with self._alone(opened):  # before anybody knows it
                copy_rows(self._core, source, opened, position)
                self._shelf.add(opened)
                self._filler.add_missing(opened)
                begun = Begun(opened, [], left_of(opened), position, caches=True)
                tokens = [token.as_json() for token in forked.tokens]
                done = yield from self.replying.events(
                    begun, {"tokens": tokens}, sampling, given_up
                )
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
            prompting, title = self._core.loaded.prompting, title_of(request.text)
            return Opened(Conversation(new_id(), prompting, request.messages, title))
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
