"""Tokens of a conversation as the interface shows them."""

from sdlms.explorer.tokens import Token


def test_the_json_of_a_token_has_the_fields_of_the_interface() -> None:
    token = Token(
        id=1,
        text="a",
        position=2,
        role="user",
        message_index=0,
        message_start=True,
        is_template=False,
        in_prompt=True,
        pieces="",
    )
    names = "id text position role message_index message_start is_template in_prompt pieces"
    assert list(token.as_json()) == names.split()
