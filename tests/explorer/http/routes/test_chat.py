"""Replies over HTTP: whole, in lines, and what is refused."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.explorer.small import chat

ADDRESS = "/api/chat/with-activations"


def lines_of(response: Any) -> list[Any]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_reply_names_all_its_tokens(reply: Any) -> None:
    assert set(reply) == {
        *("conversation_id", "text", "tokens", "userTokens", "finish", "left", "seconds", "stored")
    }
    tokens = reply["userTokens"] + reply["tokens"]
    assert [token["position"] for token in tokens] == list(range(len(tokens)))


def test_a_second_turn_goes_on(client: TestClient) -> None:
    first = chat(client)
    second = chat(client, "And three?", conversation_id=first["conversation_id"])
    assert second["conversation_id"] == first["conversation_id"]
    n_before = len(first["userTokens"]) + len(first["tokens"])
    assert second["userTokens"][0]["position"] == n_before


def test_lines_say_the_same_as_the_whole(client: TestClient) -> None:
    whole = chat(client)
    request = {"text": "What is two plus two?", "max_new_tokens": 4, "stream": True}
    start, *tokens, done = lines_of(client.post(ADDRESS, json=request))
    assert start["event"] == "start" and start["left_positions"] == []
    assert [line["event"] for line in tokens] == ["token"] * len(whole["tokens"])
    assert done["event"] == "done" and done["text"] == whole["text"]
    assert start["userTokens"] == whole["userTokens"] == done["userTokens"]
    assert [line["token"] for line in tokens] == whole["tokens"] == done["tokens"]


def test_the_short_reply_has_the_text_alone(client: TestClient) -> None:
    for stream in (False, True):
        request = {"text": "What is two plus two?", "max_new_tokens": 4, "stream": stream}
        short = client.post("/api/chat", json=request).json()
        assert short == {
            "conversation_id": short["conversation_id"],
            "text": chat(client)["text"],
        }


def test_messages_open_a_conversation(client: TestClient) -> None:
    messages = [{"role": "user", "content": "One."}, {"role": "assistant", "content": "Two."}]
    found = chat(client, "Three?", messages=messages)["conversation_id"]
    said = client.get(f"/api/conversations/{found}").json()["messages"]
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant"]


def test_another_token_opens_another_conversation(client: TestClient, reply: Any) -> None:
    old, position = reply["conversation_id"], reply["tokens"][0]["position"]
    request = {"position": position, "token_id": 5, "max_new_tokens": 2}
    address = f"/api/conversations/{old}/regenerate"
    new = client.post(address, json=request).json()
    assert new["conversation_id"] != old
    tokens = client.get(f"/api/conversations/{new['conversation_id']}").json()["tokens"]
    assert tokens[position]["id"] == 5
    start, *_, done = lines_of(client.post(address, json={**request, "stream": True}))
    assert [token["id"] for token in start["tokens"]][position] == 5
    assert done["text"] == new["text"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wishes", "status"),
    [
        ({"text": ""}, 400),
        ({"text": "  \n"}, 400),
        ({"messages": [{"role": "robot", "content": "a"}]}, 400),
        ({"messages": [{"role": "user", "content": " "}]}, 400),
        ({"conversation_id": "unknown"}, 404),
        ({"conversation_id": "../../etc/passwd"}, 400),
        ({"max_new_tokens": 0}, 422),
        ({"temperature": -0.1}, 422),
        ({"text": "a" * 100_001}, 413),
    ],
)
def test_what_is_refused_is_refused_before_a_line_is_sent(
    client: TestClient, wishes: dict[str, Any], status: int, stream: bool
) -> None:
    response = client.post(ADDRESS, json={"text": "a", "stream": stream, **wishes})
    assert response.status_code == status
    assert list(response.json()) == ["detail"]


def test_a_conversation_that_has_other_messages_is_not_gone_on_with(
    client: TestClient, reply: Any
) -> None:
    messages = [{"role": "user", "content": "One."}]
    request = {"text": "a", "conversation_id": reply["conversation_id"], "messages": messages}
    assert client.post(ADDRESS, json=request).status_code == 400


@pytest.mark.parametrize(
    ("position", "token_id", "status"),
    [(10_000, 1, 404), (2**31, 1, 422), (-1, 1, 422), (0, 1, 422), (None, 10**6, 422)],
)
def test_what_cannot_be_replaced_is_refused(
    client: TestClient, reply: Any, position: int | None, token_id: int, status: int
) -> None:
    position = reply["tokens"][0]["position"] if position is None else position
    address = f"/api/conversations/{reply['conversation_id']}/regenerate"
    response = client.post(address, json={"position": position, "token_id": token_id})
    assert response.status_code == status, response.text
