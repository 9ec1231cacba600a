"""A conversation as JSON: written, and read back with every field checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from sdlms.explorer.tokens import Token, TokenRole
from sdlms.models.chat import ROLES, Message

VERSION = 1
Kind = TypeVar("Kind", int, str, dict[str, Any], list[Any])


class Turn(NamedTuple):
    """One question and its reply.

    Attributes:
        first: position of the first token that it added.
        reply: position of the reply's first token, there or to come.
        n_messages: up to the question, itself too.
        end: the template's text behind the reply.
    """

    first: int
    reply: int
    n_messages: int
    end: str


@dataclass(frozen=True, kw_only=True)
class ConversationRecord:
    """What is kept of a conversation.

    Attributes:
        conversation_id: its name.
        title: shown to people.
        messages: what was said.
        tokens: by position.
        turns: ascending.
        left: position -> the turn, from 0, from which on the model does not read it.
    """

    conversation_id: str
    title: str
    messages: Sequence[Message]
    tokens: Sequence[Token]
    turns: Sequence[Turn]
    left: Mapping[int, int]

    def as_json(self) -> dict[str, Any]:
        """Columns of tokens; what follows from other fields is left out."""
        return {
            "version": VERSION,
            "conversation_id": self.conversation_id,
            "title": self.title,
            "messages": [list(message) for message in self.messages],
            "token_ids": [token.id for token in self.tokens],
            "token_texts": [token.text for token in self.tokens],
            "message_indices": [token.message_index for token in self.tokens],
            "is_template": [int(token.is_template) for token in self.tokens],
            "pieces": {str(t.position): t.pieces for t in self.tokens if t.pieces},
            "turns": [list(turn) for turn in self.turns],
            "left": {str(position): turn for position, turn in self.left.items()},
        }


def record_of(record: Mapping[str, Any]) -> ConversationRecord:
    """The record that `as_json` gave.

    Raises:
        ValueError: a field is missing, of another type, or contradicts another one.
    """
    if record.get("version") != VERSION:
        raise ValueError(f"version {record.get('version')!r} is unknown; this is {VERSION}")
    messages = [_message(item) for item in record_field(record, "messages", list)]
    turns = [_turn(item) for item in record_field(record, "turns", list)]
    left = {int(p): _is(t, int, "left") for p, t in record_field(record, "left", dict).items()}
    tokens = _tokens(record, messages, left)
    _check_turns(turns, len(tokens), len(messages))
    if any(not 0 <= turn < len(turns) for turn in left.values()):
        raise ValueError("left names a turn that is not there")
    return ConversationRecord(
        conversation_id=record_field(record, "conversation_id", str),
        title=record_field(record, "title", str),
        messages=messages,
        tokens=tokens,
        turns=turns,
        left=left,
    )


def summary_of(conversation_id: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a list shows of a conversation, without what the cache knows; None without tokens.

    Raises:
        ValueError: it is no record of a conversation.
    """
    if record.get("version") != VERSION:
        raise ValueError(f"version {record.get('version')!r} is unknown; this is {VERSION}")
    n_tokens = len(record_field(record, "token_ids", list))
    record_field(record, "title", str).encode()  # half of a character is no text
    summary = {
        "conversation_id": conversation_id,
        "title": record_field(record, "title", str),
        "created": record_field(record, "created", str, ""),
        "updated": record_field(record, "updated", str, ""),
        "n_tokens": n_tokens,
        "n_messages": len(record_field(record, "messages", list)),
    }
    return summary if n_tokens else None


def _tokens(
    record: Mapping[str, Any], messages: Sequence[Message], left: Mapping[int, int]
) -> list[Token]:
    """The tokens, from their columns."""
    names = ("token_ids", "token_texts", "message_indices", "is_template")
    columns = [record_field(record, name, list) for name in names]
    pieces = {
        int(p): _is(text, str, "pieces") for p, text in record_field(record, "pieces", dict).items()
    }
    if len({len(column) for column in columns}) > 1:
        raise ValueError("the columns of the tokens differ in length")
    if any(_is(token_id, int, "token_ids") < 0 for token_id in columns[0]):
        raise ValueError("token_ids holds a negative number")
    if any(not 0 <= position < len(columns[0]) for position in [*pieces, *left]):
        raise ValueError("pieces or left names a position that is not there")
    tokens: list[Token] = []
    begun: set[int] = set()
    for position, (token_id, text, index, template) in enumerate(zip(*columns, strict=True)):
        said = _is(template, int, "is_template") == 0
        role = _role(_is(index, int, "message_indices"), messages, said=said)
        tokens.append(
            Token(
                id=token_id,
                text=_is(text, str, "token_texts"),
                position=position,
                role=role,
                message_index=index,
                message_start=said and index not in begun,
                is_template=not said,
                in_prompt=position not in left,
                pieces=pieces.get(position, ""),
            )
        )
        begun.update([index] if said else [])
    return tokens


def _role(index: int, messages: Sequence[Message], *, said: bool) -> TokenRole:
    """Whose token it is; the header of a reply that has not begun names the message to come."""
    if not (0 <= index < len(messages) if said else -1 <= index <= len(messages)):
        raise ValueError(f"message_indices names message {index} of {len(messages)}")
    return messages[index].role if said else "template"


def _check_turns(turns: Sequence[Turn], n_tokens: int, n_messages: int) -> None:
    """Every turn begins behind the reply of the one before; the first at 0."""
    bounds = [bound for turn in turns for bound in (turn.first, turn.reply)]
    rising = all(first <= second for first, second in pairwise(bounds))
    if not rising or bounds[:1] not in ([], [0]) or bool(bounds) != bool(n_tokens):
        raise ValueError("the turns are not in order")
    if any(turn.reply > n_tokens or not 0 < turn.n_messages <= n_messages for turn in turns):
        raise ValueError("a turn names tokens or messages that are not there")


def _message(item: object) -> Message:
    """A pair of role and content."""
    match item:
        case [str(role), str(content)] if role in ROLES:
            return Message(role, content)
    raise ValueError("messages holds something that is no pair of role and content")


def _turn(item: object) -> Turn:
    """Its four fields."""
    match item:
        case [int(first), int(reply), int(n_messages), str(end)]:
            return Turn(first, reply, n_messages, end)
    raise ValueError("turns holds something that is no turn")


def record_field(
    record: Mapping[str, Any], name: str, kind: type[Kind], absent: Kind | None = None
) -> Kind:
    """A field of the record.

    Args:
        record: as JSON gave it.
        name: of the field.
        kind: its type.
        absent: what stands for a field that is not there; None where it must be.

    Raises:
        ValueError: it is missing, or of another type.
    """
    if name in record:
        return _is(record[name], kind, name)
    if absent is None:
        raise ValueError(f"the record lacks {name}")
    return absent


def _is(value: object, kind: type[Kind], name: str) -> Kind:
    """The value, if it is of this type; a bool is no number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} holds a {type(value).__name__}, not a {kind.__name__}")
    return value
