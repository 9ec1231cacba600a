"""What a chat may ask, checked before anything is changed."""

import secrets
from collections.abc import Sequence

from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import BadRequest, OutOfRange, TooLarge, one_line
from sdlms.explorer.settings import ExplorerSettings
from sdlms.models.chat import ROLES, Message
from sdlms.models.sampling import Sampling

LONGEST_TITLE = 60


def check_request(request: ChatRequest, settings: ExplorerSettings) -> None:
    """Refuse a chat that cannot be.

    Raises:
        Refusal: it is empty, too long, of an unknown role, or a number is out of range.
    """
    check_sampling(request.sampling, settings)
    if len(request.messages) > settings.max_messages:
        raise TooLarge(f"messages has more than {settings.max_messages} entries")
    for message in request.messages:
        if message.role not in ROLES:
            raise BadRequest(f"role {one_line(message.role)} is none of {', '.join(ROLES)}")
        check_text("a message", message.content, settings)
    check_text("text", request.text, settings)


def check_messages(given: Sequence[Message], messages: Sequence[Message]) -> None:
    """Refuse a chat that names other messages than those of the conversation it goes on with.

    Args:
        given: by the client; none says nothing.
        messages: of the conversation.

    Raises:
        BadRequest: they differ.
    """
    if not given:
        return
    hint = "leave messages out to go on with it"
    if len(given) != len(messages):
        raise BadRequest(
            f"messages has {len(given)} entries, but the conversation {len(messages)}; {hint}"
        )
    for index, (own, known) in enumerate(zip(given, messages, strict=True)):
        if own != known:
            raise BadRequest(f"messages.{index} is not what the conversation has there; {hint}")


def check_text(name: str, text: str, settings: ExplorerSettings) -> None:
    """Refuse a message that says nothing, or that is no text.

    Raises:
        Refusal: it is blank, or as `check_characters`.
    """
    if not text.strip():
        raise BadRequest(f"{name} is empty")
    check_characters(name, text, settings)


def check_characters(name: str, text: str, settings: ExplorerSettings) -> None:
    """Refuse what a tokenizer cannot read.

    Raises:
        BadRequest: it is empty, or holds half of a character (a lone surrogate).
        TooLarge: it is too long.
    """
    most = settings.max_text_chars
    if not text:
        raise BadRequest(f"{name} is empty")
    if len(text) > most:
        raise TooLarge(f"{name} has {len(text)} characters, at most {most} are taken")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRequest(f"{name} holds half of a character, a surrogate without its other half")


def check_sampling(sampling: Sampling, settings: ExplorerSettings) -> None:
    """Refuse a reply that would be too long.

    Raises:
        OutOfRange: so it is.
    """
    n_new, most = sampling.max_new_tokens, settings.max_new_tokens
    if n_new > most:
        raise OutOfRange(f"max_new_tokens must be 1 to {most}, got {n_new}")


def title_of(text: str) -> str:
    """What a conversation is called that begins with this text."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"


def new_id() -> str:
    """Of a conversation; nobody can guess it."""
    return secrets.token_hex(8)
