"""A record's text: fields in order, each on its own line; what is no text is named."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage.fields import columns_of, text_of

ARC: dict[str, Any] = {
    "question": "Which?",
    "choices": {"text": ["this", "that"], "label": ["A", "B"]},
    "turns": [{"content": "Hi."}, {"content": None}, {"content": "Bye."}],
    "answerKey": "A",
    "nothing": None,
    "dotted.name": "its own key",
    "dotted": {"name": "another"},
}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (["question"], "Which?"),
        (["question", "choices.text"], "Which?\nthis\nthat"),
        (["choices.text", "answerKey"], "this\nthat\nA"),
        (["turns.content"], "Hi.\nBye."),
        (["nothing"], ""),
        (["nothing.inside"], ""),
        (["question", "nothing", "answerKey"], "Which?\nA"),
        (["dotted.name"], "its own key"),
    ],
)
def test_the_text_of_fields(fields: list[str], text: str) -> None:
    assert text_of("here", ARC, fields) == text


def test_a_field_after_one_that_ends_its_line_follows_without_a_blank_line() -> None:
    record = {"prompt": "def f():\n", "solution": "    return 1\n"}
    assert text_of("here", record, ["prompt", "solution"]) == "def f():\n    return 1\n"


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_texts_come_whole_and_in_order(pieces: list[str]) -> None:
    record = {str(number): piece for number, piece in enumerate(pieces)}
    text = text_of("here", record, list(record))
    assert text == text_of("here", {"all": pieces}, ["all"])
    assert text_of("here", record, ["0"]) == pieces[0]
    for piece in pieces:
        assert piece in text
        text = text[text.index(piece) + len(piece) :]
    assert not text


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("quest", "here: no field 'quest'. Did you mean 'question'?"),
        ("choices.txt", "here: no field 'choices.txt'. Did you mean 'choices.text'?"),
        ("question.text", "here: no field 'question.text'."),
        ("turns.words", "here: no field 'turns.words'."),
        ("choices", "here: field 'choices' must be a string or a list of strings, got {'text'"),
    ],
)
def test_what_is_not_there_or_no_text_is_named(field: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        text_of("here", ARC, [field])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", [3, 1.5, True, [1], [["a"], 2], {"a": "b"}, b"bytes", [b"b"]])
def test_what_is_no_text_is_shown_shortly(value: object) -> None:
    with pytest.raises(UserError, match="must be a string or a list of strings, got "):
        text_of("here", {"a": value}, ["a"])
    with pytest.raises(UserError) as error:
        text_of("here", {"a": {"b": "c" * 10_000}}, ["a"])
    assert len(str(error.value)) < 200


def test_columns_are_the_outermost_names_once() -> None:
    known = ["a", "b", "c.d"]
    assert columns_of("here", ["b.x.y", "a", "b.z", "c.d"], known) == ["b", "a", "c.d"]
    with pytest.raises(UserError, match=r"^here: no field 'c.x'. Did you mean 'c.d'\?"):
        columns_of("here", ["a", "c.x"], known)
