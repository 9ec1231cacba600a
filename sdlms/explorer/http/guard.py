"""Who may ask, and how much at once: the outermost layer of the server, pure ASGI.

Every answer passes here, the errors of the layers below too, and gets the headers of security.
"""

from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdlms.explorer.http.access import Access
from sdlms.explorer.http.hosts import is_allowed
from sdlms.explorer.http.limits import Limits

POLICY = (
    "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
    "object-src 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
OWN_SITES = ("same-origin", "none")  # none: typed or bookmarked
NOT_STORED = "no-store"  # by any cache, where nothing else is said: answers hold what was chatted


class Guard:
    """Refuses what must not reach the routes; the rest goes on to `app`.

    Args:
        app: the routes.
        limits: of the server.
        access: compares the token.
        hosts: names under which the server may be called, without ports.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, access: Access, hosts: Collection[str]
    ) -> None:
        self.app = app
        self._limits, self._access, self._hosts = limits, access, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; there are no web sockets, and nothing happens at start and end."""
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.update(SECURITY_HEADERS)
                headers.setdefault("Cache-Control", NOT_STORED)
            await send(message)

        request = Request(scope)
        if (answer := self._answer(request)) is not None:
            await answer(scope, receive, guarded)
            return
        body = await self._body(request, receive)
        if isinstance(body, Response):
            await body(scope, receive, guarded)
        elif body is not None:
            await self.app(scope, _replayed(body, receive), guarded)

    def _answer(self, request: Request) -> Response | None:
        """What is said without asking the routes; None lets the request on."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not is_allowed(hosts[0], self._hosts):
            return refused(421, "this server does not answer to the name in the Host header")
        if not _is_own(request, hosts[0]):
            return refused(403, "only the explorer's own page may ask this from a browser")
        if (entry := self._access.entry(request)) is not None:
            return entry
        if not self._access.allows(request):
            answer = refused(401, "open /?token=TOKEN once, or send Authorization: Bearer TOKEN")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return None

    async def _body(self, request: Request, receive: Receive) -> bytes | Response | None:
        """The body as a whole, which is bounded; a refusal; None where the client has gone."""
        too_large = refused(413, f"a request may have {self._limits.body_bytes:,} bytes")
        if (length := request.headers.get("content-length", "0")).isdecimal():
            # Nobody reads what is too long only to refuse it.
            if len(length) > 18 or int(length) > self._limits.body_bytes:
                return too_large
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limits.body_bytes:
                return too_large
        # A page of another site can send any other type without asking first.
        if body and request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
            "application/json"
        ):
            return refused(415, "a body must be JSON: Content-Type: application/json")
        return bytes(body)


def _is_own(request: Request, host: str) -> bool:
    """Whether no other site's page is behind the request, as far as the browser says.

    What changes nothing may come from anywhere, but for the API: what it computes costs time.
    """
    site = request.headers.get("sec-fetch-site", "none")
    if request.scope["path"].startswith("/api/") and site not in OWN_SITES:
        return False
    origin = request.headers.get("origin")
    if request.method in SAFE_METHODS or origin is None:
        return True
    # https: what stands between may have encrypted it.
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, then whatever the client does."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def refused(status: int, detail: str) -> Response:
    """An error as the API gives it."""
    return JSONResponse({"detail": detail}, status)
