"""What the model would say: at a position, over a conversation, and where it looked."""

from functools import partial
from threading import Event as Flag
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from sdlms.explorer.http.answer_schemas import Attention, Matches, NamedTokens, Overview, Panel
from sdlms.explorer.http.request_schemas import (
    ActivationsQuery,
    AttentionQuery,
    ConversationId,
    LensQuery,
    NamedQuery,
    Position,
    SearchQuery,
    numbers_of,
)
from sdlms.explorer.http.routes.describing import TheExplorer, answers
from sdlms.explorer.http.streaming import line_stream, while_wanted
from sdlms.explorer.refusals import BadRequest

PANEL = (
    "the header, then one state a line; where the context has to be measured, a panel of the "
    "clicked position alone before it"
)
router = APIRouter(prefix="/api", tags=["predictions"])


@router.get(
    "/activations/{conversation_id}/{position}",
    response_model=None,
    responses=answers(Panel, 404, stream=PANEL),
)
def activations(
    conversation_id: ConversationId,
    position: Position,
    explorer: TheExplorer,
    query: Annotated[ActivationsQuery, Query()],
) -> Response:
    """What every layer predicts at a position and those before it, the final state first."""
    parts = explorer.activations(conversation_id, position, query.question())
    if query.stream:
        return line_stream(parts)
    panel: dict[str, Any] = {}
    for part in parts:
        if "positions" in part:  # the clicked token alone may come first
            panel = {**part, "states": []}
        else:
            panel["states"].append(part)
    return JSONResponse(panel)


@router.get(
    "/attention/{conversation_id}/{position}",
    response_model=None,
    responses=answers(Attention, 404),
)
async def attention(
    conversation_id: ConversationId,
    position: Position,
    explorer: TheExplorer,
    query: Annotated[AttentionQuery, Query()],
    request: Request,
) -> Response:
    """Where the token at a position looked, by layer and head; given up when the client goes."""
    layers, given_up = numbers_of(query.layers), Flag()
    ask = partial(explorer.attention, conversation_id, position, layers, given_up)
    return JSONResponse(await while_wanted(request, given_up, ask))


@router.get("/search/{conversation_id}", response_model=None, responses=answers(Matches, 400, 404))
def search(
    conversation_id: ConversationId, explorer: TheExplorer, query: Annotated[SearchQuery, Query()]
) -> Response:
    """Where a token is among the likeliest."""
    _check_one(query)
    return JSONResponse(explorer.search(conversation_id, query.question()))


@router.get("/overview/{conversation_id}", response_model=None, responses=answers(Overview, 404))
def overview(
    conversation_id: ConversationId, explorer: TheExplorer, query: Annotated[LensQuery, Query()]
) -> Response:
    """The conversation in a line: where each prediction was decided, and how sure it is."""
    return JSONResponse(explorer.overview(conversation_id, query.lens))


@router.get("/tokens", response_model=None, responses=answers(NamedTokens, 400))
def tokens(explorer: TheExplorer, query: Annotated[NamedQuery, Query()]) -> Response:
    """The tokens of a text, or the one with an id."""
    _check_one(query)
    if query.token_id is not None:
        return JSONResponse({"tokens": [explorer.token(query.token_id)]})
    return JSONResponse({"tokens": explorer.tokens_of(query.text or "")})


def _check_one(query: NamedQuery) -> None:
    """Refuse a token that is named twice or not at all.

    Raises:
        BadRequest: so it is.
    """
    if (query.text is None) == (query.token_id is None):
        raise BadRequest("name the token by text or by token_id, not both")
