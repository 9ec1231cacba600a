"""Tokens of a conversation, each with its place in it."""

from dataclasses import dataclass
from typing import Any, Literal

TokenRole = Literal["system", "user", "assistant", "template"]


@dataclass(kw_only=True)
class Token:
    """One token of a conversation.

    Attributes:
        id: in the model's vocabulary.
        text: the characters that end in it; "" where its bytes end none.
        position: counted over the whole conversation from 0; it never changes.
        role: who said it, or "template".
        message_index: the message that it belongs to, as part of it, of its header or of its end;
            -1 for the template's text before the first message.
        message_start: whether a message's own text begins with it.
        is_template: whether the template wrote it, or it ends a reply as the template would.
        in_prompt: whether the model still reads it.
        pieces: as in `sdlms.models.token_texts.TokenText`.
    """

    id: int
    text: str
    position: int
    role: TokenRole
    message_index: int
    message_start: bool
    is_template: bool
    in_prompt: bool
    pieces: str

    def as_json(self) -> dict[str, Any]:
        """The fields, by name."""
        return dict(vars(self))  # `asdict` copies, ten times as slow
