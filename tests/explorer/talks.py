"""Conversations whose replies are given, and what tests ask of them."""

import json

from sdlms.explorer.conversation import Conversation
from sdlms.explorer.prompting import Prompting
from sdlms.explorer.tokens import Token


def ids_of(prompting: Prompting, text: str) -> list[int]:
    return prompting.tokenizer(text, add_special_tokens=False).input_ids


def say(conversation: Conversation, prompting: Prompting, text: str, reply: str) -> list[Token]:
    """A turn whose reply is given; its tokens."""
    tokens = conversation.add_user(text, 8)
    conversation.begin_reply()
    tokens += [conversation.append(token_id) for token_id in ids_of(prompting, reply)]
    conversation.end_reply()
    return tokens


def same_after_record(conversation: Conversation, prompting: Prompting) -> bool:
    record = json.loads(json.dumps(conversation.to_record()))
    read = Conversation.from_record(record, prompting)
    seen = [read.seen(p) == conversation.seen(p) for p in range(read.n_tokens)]
    return read.to_record() == record and read.tokens == conversation.tokens and all(seen)


def prompt_ids(conversation: Conversation) -> list[int]:
    """What the model reads next."""
    return [conversation.tokens[position].id for position in conversation.prompt()]


def left_of(conversation: Conversation) -> list[int]:
    """Positions that left the prompt."""
    return [token.position for token in conversation.tokens if not token.in_prompt]
