from dataclasses import replace

import pytest

from sdlms.explorer.admission import (
    LONGEST_TITLE,
    check_characters,
    check_messages,
    check_request,
    new_id,
    title_of,
)
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.refusals import BadRequest, OutOfRange, Refusal, TooLarge
from sdlms.explorer.settings import ExplorerSettings
from sdlms.models.chat import Message
from sdlms.models.sampling import Sampling
from sdlms.storage.conversations import ID

SETTINGS = ExplorerSettings(max_text_chars=100, max_messages=3, max_new_tokens=70)
GOOD = ChatRequest(text="Hello")


def test_messages_are_those_of_the_conversation_or_left_out() -> None:
    own = [Message(role="user", content="Hello"), Message(role="assistant", content="Hi.")]
    check_messages([], own)
    check_messages(list(own), own)
    for other in (own[:1], own[::-1], [own[0], Message(role="assistant", content="Hi")]):
        with pytest.raises(BadRequest):
            check_messages(other, own)


def sampled(**wishes: float) -> ChatRequest:
    return replace(GOOD, sampling=Sampling(**wishes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (ChatRequest(text=""), BadRequest),
        (ChatRequest(text=" \n"), BadRequest),
        (ChatRequest(text="half \ud83d"), BadRequest),
        (ChatRequest(text="a" * 101), TooLarge),
        (replace(GOOD, messages=[Message(role="user", content="a")] * 4), TooLarge),
        (replace(GOOD, messages=[Message(role="admin", content="a")]), BadRequest),
        (replace(GOOD, messages=[Message(role="user", content="")]), BadRequest),
        (replace(GOOD, messages=[Message(role="user", content="\udc00")]), BadRequest),
        (sampled(max_new_tokens=71), OutOfRange),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    request_: ChatRequest, refusal: type[Refusal]
) -> None:
    with pytest.raises(refusal) as refused:
        check_request(request_, SETTINGS)
    assert str(refused.value).isprintable()


def test_what_can_be_passes() -> None:
    check_request(replace(GOOD, messages=[Message(role="system", content="Be kind.")]), SETTINGS)
    check_request(sampled(max_new_tokens=70, temperature=100.0, top_p=1.0), SETTINGS)


def test_a_space_is_a_text_to_be_cut_into_tokens() -> None:
    check_characters("text", " ", SETTINGS)
    with pytest.raises(BadRequest):
        check_characters("text", "", SETTINGS)


def test_titles_are_one_short_line() -> None:
    assert title_of("  What\nis it? ") == "What is it?"
    assert len(title_of("a" * 1000)) == LONGEST_TITLE


def test_ids_are_ids_and_differ() -> None:
    ids = {new_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(ID.fullmatch(each) for each in ids)
