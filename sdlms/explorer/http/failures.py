"""Every error as the API gives it: `{"detail": one line}`, with the status for what is wrong."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response

from sdlms.explorer.http.limits import Limits
from sdlms.explorer.http.streaming import FAILED
from sdlms.explorer.refusals import Refusal
from sdlms.progress import LOGGER

TOO_LONG = ("string_too_long", "too_long")
OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
EMPTY = ("missing", "string_too_short")
AGAIN_LATER = (429, 503)
LONGEST = 300  # characters of a detail


def add_failures(app: FastAPI, limits: Limits) -> None:
    """Have the app answer as the API says, whatever goes wrong."""

    def refuse(request: Request, error: Exception) -> Response:
        if not isinstance(error, Refusal):
            raise error
        headers = {"Retry-After": str(limits.retry_seconds)} if error.status in AGAIN_LATER else {}
        return failed(error.status, str(error), headers)

    app.add_exception_handler(Refusal, refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(Exception, _confess)


def _refuse_invalid(request: Request, error: Exception) -> Response:
    """What does not fit the API's description; the first thing of it."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    return failed(status_of(first), detail_of(first))


def _confess(request: Request, error: Exception) -> Response:
    """Our own bug: the log has the traceback, the client a plain line."""
    LOGGER.error(f"{request.method} {request.url.path} failed", exc_info=error)
    return failed(500, FAILED)


def status_of(error: dict[str, Any]) -> int:
    """The status of one thing that does not fit the description.

    A path that cannot be is not found; too long is too large; a number out of range, or a word that
    a query may not have, cannot be processed; the rest is a bad request.
    """
    place, kind = error["loc"][0], error["type"]
    if place == "path":
        return 404
    if kind in TOO_LONG:
        return 413
    if kind in OUT_OF_RANGE:
        return 422
    return 400 if place == "body" or kind in EMPTY else 422


def detail_of(error: dict[str, Any]) -> str:
    """One line: where, and what is wrong there."""
    if error["type"] == "json_invalid":
        return "the body is no JSON"
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}"


def failed(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error; half of a surrogate pair, which a client's JSON may have, is no text."""
    line = " ".join(detail.split())[:LONGEST].encode("utf-8", "replace").decode()
    return JSONResponse({"detail": line}, status, headers)
