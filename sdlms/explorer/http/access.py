"""The token: who may ask a server that others can reach.

It comes as `Authorization: Bearer TOKEN`, or once as `/?token=TOKEN`; then the browser gets a
cookie. The cookie is not the token itself: a browser sends it to every port of the host.
"""

import hashlib
import hmac
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

COOKIE = "sdlms_explore"
SCHEME = "bearer "


class Access:
    """Compares what a client shows with the token, in a time that tells nothing of it.

    Args:
        token: of the server; None lets everybody in.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._cookie = hmac.new(self._token or b"", COOKIE.encode(), hashlib.sha256).hexdigest()

    def allows(self, connection: HTTPConnection) -> bool:
        """Whether a request shows the token, or the cookie that stands for it."""
        if self._token is None:
            return True
        header = connection.headers.get("authorization", "")
        if header[: len(SCHEME)].lower() == SCHEME:
            return self._is_token(header[len(SCHEME) :].strip())
        return _equal(connection.cookies.get(COOKIE, ""), self._cookie.encode())

    def entry(self, connection: HTTPConnection) -> Response | None:
        """The way to the page with a cookie, where the address holds the token; else None."""
        if self._token is None or connection.scope["path"] != "/":
            return None
        given = parse_qs(connection.scope["query_string"].decode("latin-1")).get("token", [""])
        if not self._is_token(given[-1]):
            return None
        response = RedirectResponse("./", status_code=303)  # the token leaves the address bar
        response.set_cookie(COOKIE, self._cookie, httponly=True, samesite="strict", path="/")
        return response

    def _is_token(self, given: str) -> bool:
        """Whether it is the server's."""
        return self._token is not None and _equal(given, self._token)


def _equal(given: str, expected: bytes) -> bool:
    """Compare in constant time; headers may hold any character."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected)
