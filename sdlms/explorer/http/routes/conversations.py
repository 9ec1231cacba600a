"""Conversations: listed, read, renamed, kept, exported and deleted."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response, StreamingResponse

from sdlms.explorer.http.answer_schemas import CacheStatus, ConversationInfo, Summary
from sdlms.explorer.http.request_schemas import Change, ConversationId, ExportQuery
from sdlms.explorer.http.routes.describing import Responses, TheExplorer, answers
from sdlms.explorer.http.streaming import file_stream
from sdlms.explorer.refusals import BadRequest

router = APIRouter(prefix="/api", tags=["conversations"])
MEDIA_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
FILES: Responses = {
    200: {
        "description": "A file to save.",
        "content": {
            kind.partition(";")[0]: {"schema": {"type": "object" if name == "json" else "string"}}
            for name, kind in MEDIA_TYPES.items()
        },
    }
}


@router.get("/conversations", response_model=None, responses=answers(list[Summary]))
def conversations(explorer: TheExplorer) -> Response:
    """All conversations."""
    return JSONResponse(explorer.conversations())


@router.get(
    "/conversations/{conversation_id}",
    response_model=None,
    responses=answers(ConversationInfo, 404),
)
def conversation(conversation_id: ConversationId, explorer: TheExplorer) -> Response:
    """One conversation with all its tokens."""
    return JSONResponse(explorer.conversation(conversation_id))


@router.patch(
    "/conversations/{conversation_id}",
    response_model=None,
    responses=answers(ConversationInfo, 400, 404),
)
def change(conversation_id: ConversationId, body: Change, explorer: TheExplorer) -> Response:
    """Rename a conversation, or keep its files whatever their age."""
    if body.title is None and body.persisted is None:
        raise BadRequest("say what changes: title, persisted, or both")
    explorer.update(conversation_id, body.title, body.persisted)
    return JSONResponse(explorer.conversation(conversation_id))


@router.get(
    "/export/{conversation_id}",
    response_model=None,
    response_class=StreamingResponse,
    responses=answers(None, 404) | FILES,
)
def export(
    conversation_id: ConversationId,
    explorer: TheExplorer,
    query: Annotated[ExportQuery, Query()],
) -> Response:
    """The conversation and its lens as a file; HTML needs no other file."""
    pieces = explorer.export(conversation_id, query.format)
    return file_stream(pieces, MEDIA_TYPES[query.format], f"{conversation_id}.{query.format}")


@router.delete(
    "/cache/{conversation_id}",
    status_code=204,
    response_class=Response,
    responses=answers(None, 404),
)
def delete(conversation_id: ConversationId, explorer: TheExplorer) -> Response:
    """Delete a conversation and all that is stored of it."""
    explorer.delete(conversation_id)
    return Response(status_code=204)


@router.get("/cache/status", response_model=None, responses=answers(CacheStatus))
def cache_status(explorer: TheExplorer) -> Response:
    """How full the cache is."""
    return JSONResponse(explorer.status())
