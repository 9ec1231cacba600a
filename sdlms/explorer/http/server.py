"""The HTTP server as an ASGI application: routes behind a guard."""

from collections.abc import Collection
from importlib.metadata import version

from fastapi import FastAPI

from sdlms.explorer.http.access import Access
from sdlms.explorer.http.failures import add_failures
from sdlms.explorer.http.guard import Guard
from sdlms.explorer.http.hosts import LOOPBACK
from sdlms.explorer.http.limits import Limits
from sdlms.explorer.http.routes import chat, conversations, model, page, predictions
from sdlms.explorer.service import Explorer

DESCRIPTION = (
    "Chat with a model and see what it would say at every layer. Errors are JSON with a `detail` "
    "of one line. A server with a token wants it in every request: `Authorization: Bearer TOKEN`."
)


def create_app(
    explorer: Explorer,
    limits: Limits | None = None,
    token: str | None = None,
    allowed_hosts: Collection[str] = LOOPBACK,
) -> Guard:
    """The application of one explorer; its routes are the guard's `app`.

    Args:
        explorer: answers everything; closing it is up to the caller.
        limits: of the server.
        token: that every request must show; None where nobody else can reach the server.
        allowed_hosts: names under which the server may be called, without ports.
    """
    limits = limits or Limits()
    app = FastAPI(
        title="sdlms explore",
        version=version("sdlms"),
        description=DESCRIPTION,
        docs_url=None,  # these pages load their scripts from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.explorer = explorer
    add_failures(app, limits)
    for part in (page, model, chat, predictions, conversations):
        app.include_router(part.router)
    return Guard(app, limits, Access(token), allowed_hosts)
