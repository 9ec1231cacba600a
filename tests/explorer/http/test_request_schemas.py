"""Requests: what they become, and that their bounds are the explorer's own."""

import pytest
from pydantic import ValidationError

from sdlms.explorer.http.request_schemas import (
    ActivationsQuery,
    ChatBody,
    RegenerateBody,
    SearchQuery,
    numbers_of,
)
from sdlms.explorer.questions import ChatRequest, Question, SearchQuestion
from sdlms.explorer.settings import ExplorerSettings
from sdlms.models.sampling import Sampling


def test_defaults_are_the_explorers_own() -> None:
    assert ChatBody(text="a").request() == ChatRequest(text="a", messages=[])
    assert RegenerateBody(position=1, token_id=2).sampling() == Sampling()
    assert SearchQuery(text="a").question() == SearchQuestion(text="a")
    size = ExplorerSettings().context_size
    assert ActivationsQuery().question() == Question(context_size=size)


def test_a_chat_keeps_everything_that_was_said() -> None:
    messages = [{"role": "system", "content": "Be short."}]
    body = ChatBody.model_validate(
        {
            "text": "a",
            "messages": messages,
            "cache_activations": False,
            "conversation_id": "x_-9",
            "max_new_tokens": 3,
            "temperature": 1,
            "top_p": 0.5,
            "seed": 7,
        }
    )
    request = body.request()
    assert (request.messages[0].role, request.messages[0].content) == ("system", "Be short.")
    assert (request.cache_activations, request.conversation_id) == (False, "x_-9")
    wanted = Sampling(max_new_tokens=3, temperature=1.0, top_p=0.5, seed=7)
    assert request.sampling == wanted


def test_bounds_are_those_of_the_settings() -> None:
    most = ExplorerSettings()
    ChatBody(text="a" * most.max_text_chars, max_new_tokens=most.max_new_tokens)
    ActivationsQuery(context_size=most.max_context_size)
    SearchQuery(token_id=1, limit=most.max_matches)
    with pytest.raises(ValidationError):
        ChatBody(text="a" * (most.max_text_chars + 1))
    with pytest.raises(ValidationError):
        ChatBody(text="a", max_new_tokens=most.max_new_tokens + 1)
    with pytest.raises(ValidationError):
        ActivationsQuery(context_size=most.max_context_size + 1)
    with pytest.raises(ValidationError):
        SearchQuery(token_id=1, limit=most.max_matches + 1)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(None, None), ("0", [0]), ("-1,0,17", [-1, 0, 17]), ("007", [7])],
)
def test_numbers_are_separated_by_commas(text: str | None, numbers: list[int] | None) -> None:
    assert numbers_of(ActivationsQuery(layers=text).layers) == numbers


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", ",1", "1 ,2", "a", "+1", "1.0", "\N{FULLWIDTH DIGIT ONE}", "1\n"],
)
def test_nothing_else_is_a_list_of_numbers(text: str) -> None:
    with pytest.raises(ValidationError):
        ActivationsQuery(layers=text)
