"""What a list of conversations shows of each."""

from sdlms.explorer.records import VERSION, record_field
from sdlms.explorer.shapes import Json


def summary_of(conversation_id: str, record: Json) -> Json | None:
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
