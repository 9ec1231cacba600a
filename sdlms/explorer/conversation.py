"""A conversation: the ids that the model read and wrote, in order, and what it still reads of them.

It only grows. Positions count its tokens from 0 and never change, and nothing is tokenised twice:
a later turn adds the tokens of what the template puts behind the last reply. Where the whole is
longer than the model's context, the oldest messages leave the prompt, not the conversation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from sdlms.errors import UserError
from sdlms.explorer.placing import placed, unwritten
from sdlms.explorer.prefixes import Prefixes
from sdlms.explorer.prompting import Prompting
from sdlms.explorer.records import ConversationRecord, Turn, record_of
from sdlms.explorer.reply_text import ReplyWriter
from sdlms.explorer.tokens import Token
from sdlms.explorer.trimming import DoesNotFitError, leaving
from sdlms.models.chat import Message, Part, message_of


class Conversation:
    """Messages and tokens.

    Attributes:
        conversation_id: chosen by the caller.
        title: may be changed.
        messages: what was said; a reply's text is stripped of spaces at its ends.
        tokens: all of them, by position.
        reply_ended: whether the last appended token ends the reply.
    """

    def __init__(
        self,
        conversation_id: str,
        prompting: Prompting,
        messages: Sequence[Message] = (),
        title: str = "",
    ) -> None:
        """A conversation without tokens.

        Args:
            conversation_id: its name.
            prompting: how the model wants its chats.
            messages: said before; they are tokenised with the user's first message.
            title: shown to people.
        """
        self.conversation_id = conversation_id
        self.title = title
        self.messages = list(messages)
        self.tokens: list[Token] = []
        self.reply_ended = False
        self._prompting = prompting
        self._turns: list[Turn] = []
        self._left: dict[int, int] = {}  # position -> the turn from which on it is not read
        self._writer: ReplyWriter | None = None  # while a reply is written

    @property
    def n_tokens(self) -> int:
        """The number of tokens, those that left the prompt included."""
        return len(self.tokens)

    def prompt(self) -> list[int]:
        """The positions that the model reads next."""
        return [token.position for token in self.tokens if token.in_prompt]

    @property
    def room(self) -> int:
        """How many more tokens the model's context holds."""
        return self._prompting.context - sum(token.in_prompt for token in self.tokens)

    def add_user(
        self, text: str, max_new_tokens: int = 1, most_tokens: int | None = None
    ) -> list[Token]:
        """Add a message of the user, up to where the reply begins.

        Whole messages leave the prompt as `leaving` says; `room` tells how long the reply may be.

        Args:
            text: what the user says.
            max_new_tokens: of the reply, at least 1.
            most_tokens: of the conversation with the reply.

        Returns:
            The new tokens: the end of the last reply, the message in its frame, the reply's header.

        Raises:
            UserError: the template refuses the message. Nothing was added then.
            DoesNotFitError: it is longer than the context, or the conversation would become too
                long. Nothing was added then.
        """
        messages = [*self.messages, message_of("user", text)]
        if self.tokens and self.messages[-1].role == "user":  # its reply never began
            messages.insert(-1, Message("assistant", ""))
        parts, dropped = self._new_parts(messages)
        kept = [t for t in self.tokens if t.in_prompt and t.position not in dropped]
        after = kept[-1].id if kept else None
        new = placed(self._prompting.encode(parts, after), messages, self.n_tokens)
        if most_tokens is not None and self.n_tokens + len(new) + max_new_tokens > most_tokens:
            raise DoesNotFitError(
                f"a conversation has at most {most_tokens} tokens; begin another one."
            )
        bos = self._prompting.tokenizer.bos_token_id
        left = leaving([*kept, *new], messages, self._prompting.context, max_new_tokens, bos)
        end = self._prompting.template.reply_end(messages)
        turn = Turn(self.n_tokens, self.n_tokens + len(new), len(messages), end)
        self._add(turn, messages, new, [*left, *dropped])
        return new

    def _add(
        self, turn: Turn, messages: list[Message], new: list[Token], newly_left: list[int]
    ) -> None:
        """Begin a turn. Others may read meanwhile: what exists is replaced, tokens come last."""
        both = [*self.tokens, *new]
        for position in newly_left:
            both[position].in_prompt = False
        self.messages = messages
        self._left = {**self._left, **dict.fromkeys(newly_left, len(self._turns))}
        self._turns.append(turn)
        self.tokens += new

    def begin_reply(self) -> None:
        """The assistant speaks. Does nothing where it does already."""
        if self._writer is None:
            if self.messages[-1].role != "assistant":
                self.messages.append(Message("assistant", ""))
            self._writer = ReplyWriter(self._prompting, self._turns[-1].end)
            self.reply_ended = False

    def append(self, token_id: int) -> Token:
        """Add a token of the reply.

        Returns:
            The token. Tokens before it may have become the template's: those that, with this one,
            spell what the template puts behind a reply.

        Raises:
            ValueError: no reply has begun.
        """
        if self._writer is None:
            raise ValueError("no reply has begun; call begin_reply first")
        index = len(self.messages) - 1
        added = self._writer.push(token_id)
        token = Token(
            id=token_id,
            text=added.text,
            position=self.n_tokens,
            role="assistant",
            message_index=index,
            message_start=self.n_tokens == self._turns[-1].reply,
            is_template=False,
            in_prompt=True,
            pieces=added.pieces,
        )
        self.tokens.append(token)
        for spelt in self.tokens[self.n_tokens - self._writer.n_end_tokens :]:
            spelt.role, spelt.is_template, spelt.message_start = "template", True, False
        self.reply_ended = self._writer.ended
        return token

    def end_reply(self) -> str:
        """The assistant has spoken, to the end or not; what it said."""
        if self._writer is None:
            raise ValueError("no reply has begun; call begin_reply first")
        text, self._writer = self._writer.text, None
        self.messages[-1] = Message("assistant", text)
        return text

    @property
    def prefixes(self) -> Prefixes:
        """What the model had read before each token, as it is now."""
        return Prefixes(self.n_tokens, self._turns, self._left, self._prompting.context)

    def seen(self, position: int) -> list[int]:
        """What the model had read when it first read a token, see `Prefixes.seen`."""
        return self.prefixes.seen(position)

    def fork(self, position: int, token_id: int, new_id: str) -> Self:
        """A new conversation: this one up to a token of a reply, then another token.

        Args:
            position: of a token that the model chose.
            token_id: what stands there instead.
            new_id: of the new conversation; the title is this one's.

        Returns:
            Its reply has begun and goes on behind the token, unless that ended it.

        Raises:
            UserError: the model did not choose that token.
            ValueError: there is no such position.
        """
        index = self.prefixes.turn_of(position)
        turn = self._turns[index]
        if position < turn.reply:
            raise UserError(
                f"token {position} was not chosen by the model; choose a token of a reply."
            )
        forked = type(self)(new_id, self._prompting, self.messages[: turn.n_messages], self.title)
        forked._turns = self._turns[: index + 1]
        forked._left = {p: left for p, left in self._left.items() if left <= index}
        forked.tokens = [
            replace(token, in_prompt=token.position not in forked._left)
            for token in self.tokens[: turn.reply]
        ]
        forked.begin_reply()
        for chosen in [*(t.id for t in self.tokens[turn.reply : position]), token_id]:
            forked.append(chosen)
        return forked

    def to_record(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; `from_record` gives it back, a reply as it is now."""
        written = [] if self._writer is None else [Message("assistant", self._writer.text)]
        return ConversationRecord(
            conversation_id=self.conversation_id,
            title=self.title,
            messages=[*self.messages[: len(self.messages) - len(written)], *written],
            tokens=self.tokens,
            turns=self._turns,
            left=self._left,
        ).as_json()

    @classmethod
    def from_record(cls, record: Mapping[str, Any], prompting: Prompting) -> Self:
        """The conversation of a record; no reply goes on. Unknown keys are ignored.

        Raises:
            ValueError: it is no record of a conversation.
        """
        read = record_of(record)
        conversation = cls(read.conversation_id, prompting, read.messages, read.title)
        conversation.tokens = list(read.tokens)
        conversation._turns = list(read.turns)
        conversation._left = dict(read.left)
        return conversation

    def _new_parts(self, messages: Sequence[Message]) -> tuple[list[Part], list[int]]:
        """The text that the last of the messages adds.

        Returns:
            Its parts, and positions of an end of the last reply that the template does not write:
            the model reads them no more.
        """
        template = self._prompting.template
        if not self._turns:
            return template.opening(messages), []
        turn = self._turns[-1]
        writer = ReplyWriter(self._prompting, turn.end)
        for token in self.tokens[turn.reply :]:
            writer.push(token.id)
        rest = unwritten(template.following(messages), writer.end)
        if rest is not None:
            return rest, []
        first = self.n_tokens - writer.n_end_tokens
        return template.following(messages), list(range(first, self.n_tokens))
