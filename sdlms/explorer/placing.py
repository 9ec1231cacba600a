"""Where the text that a turn adds is taken up, and the tokens that it becomes."""

from collections.abc import Sequence

from sdlms.explorer.prompting import Encoded
from sdlms.explorer.tokens import Token
from sdlms.models.chat import Message, Part


def unwritten(parts: Sequence[Part], end: str) -> list[Part] | None:
    """What follows a reply, without what the reply itself wrote of it.

    Args:
        parts: the text behind the reply; a message among them.
        end: what the model ended its reply with; "" where it was cut off.

    Returns:
        The rest of the parts; None where the template does not put that end behind a reply.
    """
    n_lead = next(place for place, part in enumerate(parts) if not part.is_template)
    lead = "".join(part.text for part in parts[:n_lead])
    place = lead.find(end)
    if place < 0 or lead[:place].strip():
        return None
    n_written = place + len(end)
    rest = []
    for part in parts:
        text = part.text[n_written:]
        n_written = max(n_written - len(part.text), 0)
        if text or not part.is_template:
            rest.append(part._replace(text=text))
    return rest


def placed(encoded: Sequence[Encoded], messages: Sequence[Message], first: int) -> list[Token]:
    """Tokens of a prompt, from position `first` on.

    Args:
        encoded: ids, texts and parts; together they begin every message that they hold.
        messages: that the parts name.
        first: the position of the first one.
    """
    begun: set[int] = set()
    tokens = []
    for position, (token_id, text, pieces, part) in enumerate(encoded, first):
        index, said = part.message_index, not part.is_template
        token = Token(
            id=token_id,
            text=text,
            position=position,
            role=messages[index].role if said else "template",
            message_index=index,
            message_start=said and index not in begun,
            is_template=part.is_template,
            in_prompt=True,
            pieces=pieces,
        )
        tokens.append(token)
        begun.update([index] if said else [])
    return tokens
