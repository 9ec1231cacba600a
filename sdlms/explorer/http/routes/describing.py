"""What the routes have in common: the explorer they ask, and how their errors are described."""

from typing import Annotated, Any

from fastapi import Depends, Request

from sdlms.explorer.http.answer_schemas import Failure
from sdlms.explorer.service import Explorer

Responses = dict[int | str, dict[str, Any]]

EVERYWHERE = (401, 403, 413, 415, 421, 422, 500, 503)
MEANINGS = {
    400: "Malformed JSON, an empty text, an unknown role, or a field that contradicts another.",
    401: "The token is missing or wrong.",
    403: "Another site's page asks.",
    404: "No such conversation or position.",
    413: "The request, a text or the conversation is too long.",
    415: "The body is no JSON.",
    421: "The Host header names another server.",
    422: "A number, layer or lens that there is not.",
    429: "As much as can be done at once is being done; Retry-After says when to ask again.",
    500: "A bug of the server; its log has the traceback.",
    503: "The server is being stopped.",
}


async def _explorer_of(request: Request) -> Explorer:
    """The explorer that this server serves; not in a thread, as nothing waits."""
    explorer: Explorer = request.app.state.explorer
    return explorer


TheExplorer = Annotated[Explorer, Depends(_explorer_of)]


def answers(model: Any, *statuses: int, stream: str = "") -> Responses:
    """What a route may answer.

    Args:
        model: type of the answer 200; None where it has no JSON.
        statuses: of the errors that this route has beside those that every route has.
        stream: what the answer says line by line, where the client may ask for lines.
    """
    said: Responses = {
        status: {"model": Failure, "description": MEANINGS[status]}
        for status in sorted({*EVERYWHERE, *statuses})
    }
    if model is not None:
        said[200] = {"model": model, "description": "As asked."}
    if stream:
        lines = {"application/x-ndjson": {"schema": {"type": "string"}}}
        said[200] |= {"content": lines, "description": f"As asked; with stream=true {stream}."}
    return said
