"""The token in a header, in the address and as a cookie."""

import pytest
from starlette.requests import Request

from sdlms.explorer.http.access import COOKIE, Access

TOKEN = "correct-horse-battery"


def request(path: str = "/", query: str = "", **headers: str) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode()}
    return Request({**scope, "headers": raw})


def cookie_of(access: Access) -> str:
    entry = access.entry(request(query=f"token={TOKEN}"))
    assert entry is not None
    return entry.headers["set-cookie"].partition(";")[0]


def test_without_a_token_everybody_may() -> None:
    assert Access(None).allows(request())
    assert Access(None).entry(request(query="token=x")) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_header_shows_the_token(scheme: str) -> None:
    assert Access(TOKEN).allows(request(authorization=f"{scheme} {TOKEN}"))


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"),
        *(f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", "Bearer \xe4\xf6\xfc"),
    ],
)
def test_anything_else_does_not(value: str) -> None:
    assert not Access(TOKEN).allows(request(authorization=value))


def test_the_address_gives_a_cookie_that_is_not_the_token() -> None:
    access = Access(TOKEN)
    entry = access.entry(request(query=f"token={TOKEN}"))
    assert entry is not None and entry.status_code == 303
    assert entry.headers["location"] == "./"  # the token is gone from the address
    cookie = entry.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert access.allows(request(cookie=cookie.partition(";")[0]))


@pytest.mark.parametrize("query", ["", "token=", "token=wrong", f"tokens={TOKEN}", "token=%ff"])
def test_a_wrong_address_gives_none(query: str) -> None:
    assert Access(TOKEN).entry(request(query=query)) is None


def test_only_the_page_takes_the_token_from_its_address() -> None:
    assert Access(TOKEN).entry(request(path="/api/health", query=f"token={TOKEN}")) is None
    assert not Access(TOKEN).allows(request(path="/api/health", query=f"token={TOKEN}"))


def test_another_tokens_cookie_opens_nothing() -> None:
    assert not Access("another-long-token").allows(request(cookie=cookie_of(Access(TOKEN))))
    assert not Access(TOKEN).allows(request(cookie=f"{COOKIE}={TOKEN}"))
    assert not Access(TOKEN).allows(request(cookie=f"{COOKIE}="))


def test_a_wrong_header_is_not_mended_by_a_cookie() -> None:
    access = Access(TOKEN)
    assert not access.allows(request(cookie=cookie_of(access), authorization="Bearer wrong"))
