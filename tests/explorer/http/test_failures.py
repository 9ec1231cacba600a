"""Errors as a client sees them: the status, and one line of JSON."""

import logging
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Path, Query
from starlette.responses import Response
from starlette.testclient import TestClient

from sdlms.explorer import refusals
from sdlms.explorer.http.failures import LONGEST, add_failures
from sdlms.explorer.http.limits import Limits
from sdlms.explorer.http.request_schemas import ChatBody
from sdlms.explorer.http.streaming import FAILED

REFUSALS = (
    *(refusals.BadRequest, refusals.NotFound, refusals.TooLarge, refusals.OutOfRange),
    *(refusals.TooMany, refusals.Closed),
)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    add_failures(app, Limits(retry_seconds=7))

    @app.get("/refuse/{which}", response_model=None)
    def refuse(which: int) -> Response:
        raise REFUSALS[which]("no\nsuch   thing")

    @app.get("/bug", response_model=None)
    def bug() -> Response:
        raise ValueError("a secret path /home/me")

    @app.post("/chat", response_model=None)
    def chat(body: ChatBody) -> Response:
        return Response()

    @app.get("/position/{position}", response_model=None)
    def position(
        position: Annotated[int, Path(ge=0)],
        size: Annotated[int, Query(ge=0, le=64)] = 15,
        text: Annotated[str, Query(min_length=1, max_length=5)] = "a",
        layers: Annotated[str, Query(pattern="^[0-9]+$")] = "1",
    ) -> Response:
        return Response()

    return TestClient(app, raise_server_exceptions=False)


def assert_failed(response: Any, status: int, detail: str = "") -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["detail"]
    line = response.json()["detail"]
    assert 0 < len(line) <= LONGEST and "\n" not in line
    assert detail in line


def chat(client: TestClient, content: str | bytes) -> Any:
    return client.post("/chat", content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("which", range(len(REFUSALS)))
def test_a_refusal_has_its_own_status_and_its_own_words(client: TestClient, which: int) -> None:
    response = client.get(f"/refuse/{which}")
    assert_failed(response, REFUSALS[which].status, "no such thing")
    again = response.headers.get("retry-after")
    assert again == ("7" if response.status_code in (429, 503) else None)


def test_a_bug_is_a_plain_line_for_the_client_and_a_traceback_for_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "sdlms"):
        response = client.get("/bug?token=secret")
    assert_failed(response, 500, FAILED)
    assert "a secret path" in caplog.text and "Traceback" in caplog.text
    assert "token" not in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "nul",
        "[]",
        "1",
        '"text"',
        "{}",
        '{"text": ""}',
        '{"text": null}',
        '{"text": 3}',
        '{"text": ["a"]}',
        '{"text": "a", "messages": [{"role": "robot", "content": "a"}]}',
        '{"text": "a", "messages": [{"role": "user", "content": ""}]}',
        '{"text": "a", "messages": [{"role": "user"}]}',
        '{"text": "a", "messages": {}}',
        '{"text": "a", "conversation_id": "../x"}',
        '{"text": "a", "conversation_id": ""}',
        '{"text": "a", "conversation_id": "a\\n"}',
        '{"text": "a", "temprature": 1}',
        '{"text": "a", "temperature": "1"}',
        '{"text": "a", "temperature": NaN}',
        '{"text": "a", "temperature": Infinity}',
        '{"text": "a", "max_new_tokens": 1.5}',
        '{"text": "a", "max_new_tokens": true}',
        '{"text": "a", "stream": 1}',
        '{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        '{"text": "a", "\\ud800": 1}',
        '{"text": "a", "seed": ' + "9" * 5_000 + "}",
        '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_a_body_that_says_nothing_sensible_is_a_bad_request(
    client: TestClient, content: str | bytes
) -> None:
    assert_failed(chat(client, content), 400)


@pytest.mark.parametrize("content", ["{", "nul", '{"text": "a",}', "text=a", '{"text": "a"'])
def test_a_broken_body_is_a_plain_line(client: TestClient, content: str) -> None:
    assert_failed(chat(client, content), 400, "the body is no JSON")


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "a", "temperature": -1}',
        '{"text": "a", "temperature": 101}',
        '{"text": "a", "top_p": 0}',
        '{"text": "a", "top_p": 1.1}',
        '{"text": "a", "max_new_tokens": 0}',
        '{"text": "a", "max_new_tokens": 100000}',
        '{"text": "a", "seed": -1}',
        '{"text": "a", "seed": 1' + "0" * 30 + "}",
    ],
)
def test_a_number_out_of_its_range_cannot_be_processed(client: TestClient, content: str) -> None:
    assert_failed(chat(client, content), 422)


def test_too_long_is_too_large(client: TestClient) -> None:
    assert_failed(chat(client, '{"text": "' + "a" * 100_001 + '"}'), 413, "100000")
    message = '{"role": "user", "content": "a"}'
    messages = ",".join([message] * 1_001)
    assert_failed(chat(client, f'{{"text": "a", "messages": [{messages}]}}'), 413, "1000")


@pytest.mark.parametrize("position", ["-1", "a", "1.5", "%20", "1" * 5_000])
def test_a_path_that_cannot_be_is_not_found(client: TestClient, position: str) -> None:
    assert_failed(client.get(f"/position/{position}"), 404)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("size=65", 422),
        ("size=-1", 422),
        ("size=a", 422),
        ("layers=a", 422),
        ("layers=1%0A", 422),
        ("text=", 400),
        ("text=abcdef", 413),
    ],
)
def test_a_query_that_does_not_fit_says_how(client: TestClient, query: str, status: int) -> None:
    assert_failed(client.get(f"/position/1?{query}"), status, query.partition("=")[0])


def test_a_long_message_is_cut(client: TestClient) -> None:
    assert_failed(chat(client, '{"text": "a", "' + "k" * 2_000 + '": 1}'), 400, "kkk")


def test_unknown_routes_and_methods_are_json_too(client: TestClient) -> None:
    assert_failed(client.get("/nothing"), 404)
    response = client.delete("/chat")
    assert_failed(response, 405)
    assert response.headers["allow"] == "POST"
