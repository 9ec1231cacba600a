"""Which tokens leave the prompt where it has become longer than the model's context."""

from collections import defaultdict
from collections.abc import Sequence

from sdlms.errors import UserError
from sdlms.explorer.tokens import Token
from sdlms.models.chat import Message


class DoesNotFitError(UserError):
    """A message, or a conversation, is longer than it may be."""


RESERVED = 4  # one of so many parts of the context is kept for a reply, however long it may be


def leaving(
    tokens: Sequence[Token],
    messages: Sequence[Message],
    context: int,
    max_new_tokens: int,
    stays: int | None,
) -> list[int]:
    """Positions that leave, whole messages, oldest first, a reply with the question it answers.

    System messages stay, and so do the text before the first message, the last message and the
    header behind it.

    Args:
        tokens: those in the prompt, the newest message and the reply's header among them.
        messages: what was said, the newest message last; an index that tokens name.
        context: the most tokens that the model reads.
        max_new_tokens: of the reply. They are to fit behind the prompt as long as something can
            leave, up to a quarter of the context: a longer reply does not cost what was said.
        stays: id of a token that stays where it is the conversation's first (BOS).

    Returns:
        Ascending; none where everything fits.

    Raises:
        DoesNotFitError: not one token would fit behind what stays.
    """
    places = _places(tokens, stays)
    n_room = context - len(tokens)
    n_wanted = min(max_new_tokens, max(1, context // RESERVED))
    left: list[int] = []
    for index, message in enumerate(messages[:-1]):
        if message.role == "system" or not places[index]:
            continue
        if n_room >= n_wanted and (message.role == "user" or not left):
            break
        left += places[index]
        n_room += len(places[index])
    if n_room < 1:
        own = len(messages) - 1
        n_said = sum(1 for t in tokens if t.message_index == own and not t.is_template)
        raise DoesNotFitError(
            f"the message has {n_said} tokens, but at most {max(n_said + n_room - 1, 0)} fit into "
            f"the model's context of {context}. Shorten it."
        )
    return left


def _places(tokens: Sequence[Token], stays: int | None) -> dict[int, list[int]]:
    """Message -> positions of its tokens that may leave."""
    places: dict[int, list[int]] = defaultdict(list)
    for token in tokens:
        if token.position > 0 or token.id != stays:
            places[token.message_index].append(token.position)
    return places
