"""Replies: generated token by token, whole or as they come."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from sdlms.explorer.http.answer_schemas import ChatReply, ShortReply
from sdlms.explorer.http.request_schemas import ChatBody, ConversationId, RegenerateBody
from sdlms.explorer.http.routes.describing import TheExplorer, answers
from sdlms.explorer.http.streaming import Items, last_event, line_stream

router = APIRouter(prefix="/api", tags=["chat"])
EVENTS = "events start, token (one each), then done or error"


@router.post(
    "/chat/with-activations",
    response_model=None,
    responses=answers(ChatReply, 400, 404, 429, stream=EVENTS),
)
async def chat_with_activations(
    body: ChatBody, request: Request, explorer: TheExplorer
) -> Response:
    """Say something; the reply comes with the tokens of both, each of which can be clicked."""
    events = await run_in_threadpool(explorer.chat, body.request())
    return await _answer(events, body.stream, request)


@router.post("/chat", response_model=None, responses=answers(ShortReply, 400, 404, 429))
async def chat(body: ChatBody, request: Request, explorer: TheExplorer) -> Response:
    """Say something; the reply is text alone, whatever `stream` says."""
    reply = await last_event(await run_in_threadpool(explorer.chat, body.request()), request)
    return JSONResponse({name: reply.get(name) for name in ("conversation_id", "text")})


@router.post(
    "/conversations/{conversation_id}/regenerate",
    response_model=None,
    responses=answers(ChatReply, 400, 404, 429, stream=EVENTS),
)
async def regenerate(
    conversation_id: ConversationId, body: RegenerateBody, request: Request, explorer: TheExplorer
) -> Response:
    """Go on from another token at a position of a reply, in a new conversation."""
    events = await run_in_threadpool(
        explorer.regenerate, conversation_id, body.position, body.token_id, body.sampling()
    )
    return await _answer(events, body.stream, request)


async def _answer(events: Items, stream: bool, request: Request) -> Response:
    """The events, or what they end with."""
    if stream:
        return line_stream(events)
    reply: dict[str, Any] = await last_event(events, request)
    return JSONResponse(reply)
