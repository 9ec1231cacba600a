"""What a client is told who asks for what cannot be: one line each, with its status."""

from typing import ClassVar


class Refusal(Exception):
    """A wish of a client that is not granted; the message is one line for people."""

    status: ClassVar[int] = 400


class BadRequest(Refusal):
    """The request contradicts itself or is empty where it must not be."""


class NotFound(Refusal):
    """No such conversation, position or token."""

    status = 404


class TooLarge(Refusal):
    """A text or a conversation is longer than the explorer takes."""

    status = 413


class OutOfRange(Refusal):
    """A number or a name that the model, or the explorer, does not have."""

    status = 422


class TooMany(Refusal):
    """More at once than the explorer does; the same request may be granted later."""

    status = 429


class GivenUp(Refusal):
    """Nobody waits for the answer any more; nobody reads this either."""

    status = 503


class Closed(Refusal):
    """The explorer is being shut down."""

    status = 503


def one_line(text: str, longest: int = 40) -> str:
    """A client's own words as an error message quotes them: escaped, on one line, cut."""
    return repr(text if len(text) <= longest else text[: longest - 1] + "…")
