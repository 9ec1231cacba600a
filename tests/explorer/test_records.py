"""Conversations as JSON: exact, and checked when read."""

import copy
import json
from typing import Any

import pytest

from sdlms.explorer.conversation import Conversation
from sdlms.explorer.records import VERSION, record_of, summary_of
from tests.explorer.toy_tokenizers import embedded_tokenizer, prompting_with


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    prompting = prompting_with(embedded_tokenizer(), context=48)
    conversation = Conversation("some-id", prompting, title="A title")
    for _ in range(3):
        conversation.add_user("Who is the 🙂 of the lion?", 4)
        conversation.begin_reply()
        for token_id in (300, 301, 199):
            conversation.append(token_id)
        conversation.end_reply()
    return conversation.to_record()


def test_the_way_through_json_is_exact(record: dict[str, Any]) -> None:
    assert record["left"]  # so that every field holds something
    assert record["pieces"]
    read = json.loads(json.dumps(record))
    assert read == record
    assert record_of(read).as_json() == record


def test_tokens_come_back_whole(record: dict[str, Any]) -> None:
    prompting = prompting_with(embedded_tokenizer(), context=48)
    tokens = record_of(record).tokens
    assert tokens == Conversation.from_record(record, prompting).tokens
    assert [token.position for token in tokens] == list(range(len(tokens)))
    assert {token.position for token in tokens if not token.in_prompt} == set(
        map(int, record["left"])
    )
    assert [t.message_index for t in tokens if t.message_start] == list(range(6))


def test_unknown_keys_are_the_callers(record: dict[str, Any]) -> None:
    assert record_of({**record, "created": "today"}).as_json() == record


@pytest.mark.parametrize("value", [None, 3, 1.5, True, [None], {"x": None}])
@pytest.mark.parametrize("name", ["messages", "token_ids", "pieces", "turns", "left", "title"])
def test_fields_of_another_type_are_refused(record: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(ValueError):
        record_of({**record, name: value})


def test_missing_fields_are_refused(record: dict[str, Any]) -> None:
    for name in record:
        with pytest.raises(ValueError, match=name):
            record_of({key: value for key, value in record.items() if key != name})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, "version 2 is unknown"),
        (("token_ids", 0), "1", "token_ids holds a str"),
        (("token_ids", 0), True, "token_ids holds a bool"),
        (("token_ids", 0), -1, "negative"),
        (("token_texts", 0), 1, "token_texts holds a int"),
        (("message_indices", 2), 6, "names message 6 of 6"),
        (("message_indices", 0), -2, "names message -2"),
        (("is_template", 0), "no", "is_template holds a str"),
        (("messages", 0), ["tool", "x"], "no pair of role and content"),
        (("messages", 0), ["user", 1], "no pair of role and content"),
        (("turns", 0), [0, 1], "no turn"),
        (("turns", 0), [1, 20, 1, ""], "not in order"),
        (("turns", 1), [0, 0, 3, ""], "not in order"),
        (("turns", 2), [50, 10_000, 5, ""], "not there"),
        (("turns", 2), [50, 60, 7, ""], "not there"),
        (("turns",), [], "not in order"),
        (("left", "0"), 3, "turn that is not there"),
        (("left", "10000"), 1, "position that is not there"),
        (("pieces", "10000"), "f0", "position that is not there"),
        (("pieces", "0"), 1, "pieces holds a int"),
        (("token_ids",), [1], "differ in length"),
    ],
)
def test_contradictions_are_refused(
    record: dict[str, Any], path: tuple[Any, ...], value: Any, message: str
) -> None:
    broken = copy.deepcopy(record)
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        record_of(broken)


SHORT = {
    "version": VERSION,
    "title": "Rain",
    "token_ids": [1, 2, 3],
    "messages": [["user", "Will it rain?"]],
    "updated": "2024-05-01",
}


def test_a_conversation_in_a_line() -> None:
    assert summary_of("c", SHORT) == {
        "conversation_id": "c",
        "title": "Rain",
        "created": "",
        "updated": "2024-05-01",
        "n_tokens": 3,
        "n_messages": 1,
    }


def test_without_tokens_there_is_nothing_to_show() -> None:
    assert summary_of("c", SHORT | {"token_ids": []}) is None


@pytest.mark.parametrize(
    "change", [{"version": 0}, {"title": None}, {"title": "\ud800"}, {"token_ids": "123"}]
)
def test_what_is_no_record_has_no_line(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"version|title|token_ids|surrogates"):
        summary_of("c", SHORT | change)
