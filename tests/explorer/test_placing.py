"""Taking up a text where a reply left it, and the tokens that come of it."""

import pytest

from sdlms.explorer.placing import placed, unwritten
from sdlms.explorer.prompting import Encoded
from sdlms.models.chat import Message, Part

BEHIND = [
    Part("<end>\n", 1, True),
    Part("<user>", 2, True),
    Part("Why?", 2, False),
    Part("<end>", 2, True),
]


@pytest.mark.parametrize(
    ("end", "rest"),
    [
        ("", "<end>\n<user>Why?<end>"),
        ("<end>", "\n<user>Why?<end>"),
        ("<end>\n", "<user>Why?<end>"),
        ("<end>\n<us", "er>Why?<end>"),
    ],
)
def test_what_the_reply_wrote_is_not_written_again(end: str, rest: str) -> None:
    parts = unwritten(BEHIND, end)
    assert parts is not None
    assert "".join(part.text for part in parts) == rest
    assert parts[-2:] == BEHIND[-2:]


def test_spaces_before_the_end_go_with_it() -> None:
    parts = unwritten([Part(" \n</s>[Q]", 1, True), BEHIND[2]], "</s>")
    assert parts == [Part("[Q]", 1, True), BEHIND[2]]


@pytest.mark.parametrize("end", ["<eos>", "<user>", "Why?"])
def test_an_end_that_the_template_does_not_write(end: str) -> None:
    assert unwritten(BEHIND, end) is None


def test_an_empty_message_stays() -> None:
    empty = Part("", 2, False)
    assert unwritten([BEHIND[0], empty], "<end>\n") == [empty]


def test_tokens_have_their_place() -> None:
    messages = [Message("user", "Hi"), Message("assistant", "I.")]
    header, said = Part("<user>", 0, True), Part("Hi", 0, False)
    encoded = [
        Encoded(1, "<user>", "", header),
        Encoded(2, "", "f0", said),
        Encoded(3, "Hi", "9f", said),
        Encoded(4, "<reply>", "", Part("<reply>", 2, True)),
    ]
    tokens = placed(encoded, messages, 7)
    assert [token.position for token in tokens] == [7, 8, 9, 10]
    assert [token.role for token in tokens] == ["template", "user", "user", "template"]
    assert [token.message_start for token in tokens] == [False, True, False, False]
    assert [token.is_template for token in tokens] == [True, False, False, True]
    assert [token.message_index for token in tokens] == [0, 0, 0, 2]
    assert [token.pieces for token in tokens] == ["", "f0", "9f", ""]
    assert all(token.in_prompt for token in tokens)
