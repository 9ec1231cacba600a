"""Answers that are made while they are sent: one JSON object a line, or the pieces of a file.

The items are made in a thread of the pool, those that come at once together, and the next only when
the client's connection takes more: neither a thread nor memory waits for a client that does not
read. When the client goes away or reads nothing for long, or the server stops, the items' iterator
is closed: that ends a generation.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from threading import Event as Flag
from typing import Any, Protocol, TypeVar

import anyio
import orjson
from fastapi import HTTPException, Request
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from sdlms.explorer.http.limits import SEND_SECONDS
from sdlms.explorer.refusals import Refusal
from sdlms.progress import LOGGER

LINES = "application/x-ndjson"
Result = TypeVar("Result")
FAILED = "the server failed at this; its log says where"


class _Stalled(Exception):
    """The client has its connection open and reads nothing."""


class Items(Protocol):
    """An iterator that can be closed before its end, also while another thread makes an item."""

    def __iter__(self) -> Iterator[Any]:
        """Itself."""

    def __next__(self) -> Any:
        """Make one more item."""

    def take(self) -> Sequence[Any]:
        """One more item, and those that need no waiting for; nothing at the end."""

    def give_up(self) -> None:
        """Say that nobody wants more; does not wait."""

    def close(self) -> None:
        """Make no more; what was begun is given up."""


class ItemStream(StreamingResponse):
    """A response that closes its items however it ends.

    Args:
        items: what is sent.
        chunks: the same as they are sent.
        media_type: of the response.
        headers: of the response.
    """

    def __init__(
        self,
        items: Items,
        chunks: AsyncIterator[str | bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(chunks, headers=headers, media_type=media_type)
        self._items = items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or what the client stays and reads for."""
        try:
            await super().__call__(scope, receive, partial(_send_soon, send))
        except _Stalled:
            LOGGER.warning(f"a client read nothing for {SEND_SECONDS} s and was left")
        finally:
            await _close(self._items)

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Close the items as soon as the client has gone: what is being made may take long."""
        await super().listen_for_disconnect(receive)
        await _close(self._items)


def line_stream(items: Items) -> ItemStream:
    """JSON objects as they are made, one a line; what goes wrong on the way is the last of them."""
    return ItemStream(items, _lines(items), LINES)


def file_stream(items: Items, media_type: str, name: str) -> ItemStream:
    """A file that the browser saves under `name`, made while it is sent."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return ItemStream(items, iterate_in_threadpool(items), media_type, headers)


async def last_event(items: Items, request: Request) -> dict[str, Any]:
    """What a stream of events ends with, without its `event`; its items are closed.

    Args:
        items: events of a generation.
        request: whose client may go away meanwhile, which gives the generation up.

    Raises:
        HTTPException: the stream ended with an error.
    """
    last: dict[str, Any] = {}
    watcher = asyncio.create_task(_close_when_gone(items, request))
    try:
        async for event in iterate_in_threadpool(items):
            last = event
    finally:
        watcher.cancel()
        await _close(items)
    if last.get("event") == "error":
        raise HTTPException(last["status"], last["detail"])
    return {name: value for name, value in last.items() if name != "event"}


async def while_wanted(request: Request, given_up: Flag, ask: Callable[[], Result]) -> Result:
    """What `ask` returns, called in a thread; `given_up` is set when the client goes away."""
    watcher = asyncio.create_task(_call_when_gone(request, given_up.set))
    try:
        return await run_in_threadpool(ask)
    finally:
        watcher.cancel()


async def _send_soon(send: Send, message: Message) -> None:
    """Send, unless the connection takes nothing for too long.

    Raises:
        _Stalled: so it is; whoever serves ends the connection of an answer that is not whole.
    """
    with anyio.move_on_after(SEND_SECONDS) as patience:
        await send(message)
    if patience.cancelled_caught:
        raise _Stalled


async def _close_when_gone(items: Items, request: Request) -> None:
    """Close the items when the client goes away; the body has been read."""
    await _call_when_gone(request, items.give_up)
    await _close(items)


async def _call_when_gone(request: Request, callback: Callable[[], None]) -> None:
    """Wait until the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    callback()


async def _lines(items: Items) -> AsyncIterator[bytes]:
    """The items as lines."""
    try:
        while lines := await run_in_threadpool(_next_lines, items):
            yield lines
    except Refusal as refusal:
        yield _line({"event": "error", "status": refusal.status, "detail": str(refusal)})
    except Exception:  # the status was sent long ago; what is logged is up to the server
        yield _line({"event": "error", "status": 500, "detail": FAILED})
        raise


def _next_lines(items: Items) -> bytes:
    """What comes together; nothing at the end."""
    return b"".join(map(_line, items.take()))


def _line(item: Mapping[str, Any]) -> bytes:
    """One object."""
    return orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE)


async def _close(items: Items) -> None:
    """Close the items, also where this task was cancelled.

    They are given up before a thread is there to close them: all may be at work on such items.
    """
    items.give_up()
    with anyio.CancelScope(shield=True):
        await run_in_threadpool(items.close)
