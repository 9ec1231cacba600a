"""What reaches the routes, and what every answer carries."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from sdlms.explorer.http.access import Access
from sdlms.explorer.http.guard import SECURITY_HEADERS, Guard
from sdlms.explorer.http.hosts import LOOPBACK
from sdlms.explorer.http.limits import Limits

TOKEN = "correct-horse-battery"
JSON = {"content-type": "application/json"}
HOME = "http://localhost:8000"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what reached it."""
    request = Request(scope, receive)
    if request.url.path == "/fails":
        raise RuntimeError("a bug")
    said = {"path": request.url.path, "body": (await request.body()).decode()}
    await JSONResponse(said)(scope, receive, send)


def client(token: str | None = None, **headers: str) -> TestClient:
    guard = Guard(echo, Limits(body_bytes=100), Access(token), LOOPBACK)
    return TestClient(guard, HOME, headers=headers, follow_redirects=False)


def assert_refused(response: Any, status: int) -> None:
    assert response.status_code == status
    assert list(response.json()) == ["detail"] and "\n" not in response.json()["detail"]
    assert_secure(response)


def assert_secure(response: Any) -> None:
    assert (
        SECURITY_HEADERS.items()
        <= {name: response.headers[name.lower()] for name in SECURITY_HEADERS}.items()
    )
    assert response.headers["cache-control"] == "no-store"


def test_a_request_comes_through_unchanged() -> None:
    response = client().post("/api/x", content='{"a": 1}', headers=JSON)
    assert response.json() == {"path": "/api/x", "body": '{"a": 1}'}
    assert_secure(response)


def test_the_policy_allows_no_script_of_others_and_no_frame() -> None:
    policy = dict(
        part.split(" ", 1) for part in SECURITY_HEADERS["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:9", "LOCALHOST"])
def test_own_names_are_answered(host: str) -> None:
    assert client(host=host).get("/").status_code == 200


@pytest.mark.parametrize("host", ["evil.org", "evil.org:8000", "localhost.evil.org", "", "a b"])
def test_another_name_is_refused_whatever_is_asked(host: str) -> None:
    for path in ("/", "/api/health", "/static/app.js"):
        assert_refused(client(host=host).get(path), 421)


def test_two_names_or_none_are_refused() -> None:
    for hosts in ([b"localhost", b"evil.org"], []):
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
        sent = asyncio.run(
            answered({**scope, "headers": [(b"host", host) for host in hosts]}, iter([]))
        )
        assert sent[0]["status"] == 421


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_another_sites_page_changes_nothing(method: str) -> None:
    for origin in ("http://evil.org", "null", "http://localhost:9000", "http://localhost", "x"):
        assert_refused(client(origin=origin).request(method, "/api/x"), 403)
    for origin in (HOME, "http://LOCALHOST:8000", "https://localhost:8000"):
        assert client(origin=origin).request(method, "/api/x").status_code == 200


def test_another_sites_page_cannot_make_the_model_work() -> None:
    for site in ("cross-site", "same-site", "whatever"):
        assert_refused(client(**{"sec-fetch-site": site}).get("/api/activations/a/1"), 403)
        assert client(**{"sec-fetch-site": site}).get("/").status_code == 200  # a link to the page
    for site in ("same-origin", "none"):
        assert client(**{"sec-fetch-site": site}).get("/api/activations/a/1").status_code == 200


def test_without_the_token_nothing_is_said() -> None:
    for path in ("/", "/api/health", "/static/app.js", "/openapi.json", "/?token=wrong"):
        response = client(TOKEN).get(path)
        assert_refused(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in response.text
    assert client(TOKEN, authorization=f"Bearer {TOKEN}").get("/api/health").status_code == 200


def test_the_address_with_the_token_opens_the_page_once_and_for_all() -> None:
    browser = client(TOKEN)
    entry = browser.get(f"/?token={TOKEN}")
    assert entry.status_code == 303 and TOKEN not in str(entry.headers)
    assert_secure(entry)
    assert browser.get("/").status_code == 200
    assert browser.post("/api/x", content="{}", headers=JSON).status_code == 200


def test_a_wrong_host_is_refused_before_the_token_is_compared() -> None:
    assert_refused(client(TOKEN, host="evil.org").get(f"/?token={TOKEN}"), 421)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"]
)
def test_a_body_of_json_comes_through(kind: str) -> None:
    assert client().post("/api/x", content="{}", headers={"content-type": kind}).is_success


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "json"]
)
def test_a_body_of_anything_else_is_refused(kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    assert_refused(client().post("/api/x", content="{}", headers=headers), 415)
    assert client().post("/api/x", headers=headers).status_code == 200  # there is no body


def test_a_body_may_be_as_long_as_is_allowed_and_no_longer() -> None:
    assert client().post("/api/x", content="x" * 100, headers=JSON).status_code == 200
    assert_refused(client().post("/api/x", content="x" * 101, headers=JSON), 413)


@pytest.mark.parametrize("length", ["101", "9" * 30])
def test_a_length_that_is_too_much_is_refused_unread(length: str) -> None:
    headers = [(b"host", b"localhost"), (b"content-length", length.encode())]
    sent = asyncio.run(answered(posted(headers), unreadable()))
    assert sent[0]["status"] == 413


def test_a_body_without_a_length_is_bounded_while_it_comes() -> None:
    taken = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal taken
        while True:
            taken += 30
            yield {"type": "http.request", "body": b"x" * 30, "more_body": True}

    sent = asyncio.run(answered(posted([(b"host", b"localhost")]), endless()))
    assert sent[0]["status"] == 413
    assert taken == 120


def test_a_client_that_leaves_within_its_body_gets_nothing() -> None:
    leaving = iter(
        [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    assert asyncio.run(answered(posted([(b"host", b"localhost")]), leaving)) == []


def test_what_the_app_says_of_itself_stays() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("", headers={"Cache-Control": "no-cache"})(scope, receive, send)

    guard = Guard(app, Limits(), Access(None), LOOPBACK)
    response = TestClient(guard, HOME).get("/")
    assert response.headers["cache-control"] == "no-cache"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        client().get("/fails")


def test_there_are_no_web_sockets() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async def ask() -> list[Any]:
        sent: list[Any] = []
        guard = Guard(app, Limits(), Access(None), LOOPBACK)
        await guard({"type": "websocket"}, anext_of(iter([])), lambda m: later(sent, m))
        return sent

    assert asyncio.run(ask()) == []


def posted(headers: list[tuple[bytes, bytes]]) -> Scope:
    return {
        **{"type": "http", "method": "POST", "path": "/api/x", "query_string": b""},
        "headers": headers,
    }


def unreadable() -> Iterator[Any]:
    raise AssertionError("the body was read")
    yield


async def later(sent: list[Any], message: Any) -> None:
    sent.append(message)


def anext_of(messages: Iterator[Any]) -> Any:
    async def each() -> AsyncIterator[Any]:
        for message in messages:
            yield message

    return each().__anext__


async def answered(scope: Scope, messages: Iterator[Any]) -> list[Any]:
    """What the guard sends."""
    sent: list[Any] = []
    guard = Guard(echo, Limits(body_bytes=100), Access(None), LOOPBACK)
    await guard(scope, anext_of(messages), lambda message: later(sent, message))
    return sent
