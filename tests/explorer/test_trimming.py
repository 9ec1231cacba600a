"""Which messages leave a prompt that has become too long."""

import pytest

from sdlms.errors import UserError
from sdlms.explorer.tokens import Token
from sdlms.explorer.trimming import leaving
from sdlms.models.chat import Message, Role

BOS = 1
WHO: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant"}


def chat(roles: str, each: int = 10, before: int = 0) -> tuple[list[Token], list[Message]]:
    """`each` tokens of every message, and a header of 2 of the reply."""
    messages = [Message(WHO[role], "") for role in roles]
    owners = [-1] * before
    owners += [index for index in range(len(roles)) for _ in range(each)]
    owners += [len(roles)] * 2
    tokens = [
        Token(
            id=position + 10,
            text="x",
            position=position,
            role="template" if owner in (-1, len(roles)) else messages[owner].role,
            message_index=owner,
            message_start=False,
            is_template=owner in (-1, len(roles)),
            in_prompt=True,
            pieces="",
        )
        for position, owner in enumerate(owners)
    ]
    return tokens, messages


def left(roles: str, context: int, max_new_tokens: int = 1, before: int = 0) -> set[int]:
    tokens, messages = chat(roles, before=before)
    positions = leaving(tokens, messages, context, max_new_tokens, None)
    assert positions == sorted(positions)
    gone = {tokens[position].message_index for position in positions}
    assert len(positions) == 10 * len(gone)  # whole messages
    return gone


def test_nothing_leaves_where_everything_fits() -> None:
    assert left("uau", 33) == set()
    assert left("uau", 42, max_new_tokens=10) == set()


def test_a_reply_leaves_with_its_question() -> None:
    assert left("uauau", 52) == {0, 1}
    assert left("uauau", 33) == {0, 1}
    assert left("uauau", 32) == {0, 1, 2, 3}
    assert left("uauau", 54, max_new_tokens=3) == {0, 1}


def test_system_messages_and_what_stands_before_stay() -> None:
    assert left("suauau", 53) == {1, 2}
    assert left("uau", 33, before=5) == {0, 1}


def test_a_chat_that_begins_with_a_reply() -> None:
    assert left("auau", 42) == {0}
    assert left("aauau", 42) == {0, 1}


def test_all_but_the_question_leaves_where_little_fits() -> None:
    assert left("uau", 13, max_new_tokens=100) == {0, 1}
    assert left("u", 13, max_new_tokens=100) == set()


@pytest.mark.parametrize("max_new_tokens", [15, 60, 4096])
def test_a_long_reply_does_not_cost_what_was_said(max_new_tokens: int) -> None:
    """A quarter of the context is kept for it."""
    assert left("uauau", 70, max_new_tokens=max_new_tokens) == set()  # 52 + 17 tokens
    assert left("uauau", 68, max_new_tokens=17) == {0, 1}
    assert left("uauauau", 70, max_new_tokens=max_new_tokens) == {0, 1}


def test_the_first_token_stays_where_it_is_bos() -> None:
    tokens, messages = chat("uau")
    tokens[0].id = BOS
    assert leaving(tokens, messages, 30, 1, BOS) == list(range(1, 20))
    tokens[3].id = BOS
    assert 3 in leaving(tokens, messages, 30, 1, BOS)


@pytest.mark.parametrize(("roles", "context", "fits"), [("u", 12, 9), ("uau", 7, 4), ("su", 3, 0)])
def test_a_message_that_cannot_fit_is_refused(roles: str, context: int, fits: int) -> None:
    tokens, messages = chat(roles)
    with pytest.raises(UserError, match=f"has 10 tokens, but at most {fits} fit .* {context}"):
        leaving(tokens, messages, context, 1, None)
