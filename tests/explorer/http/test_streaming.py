"""Streams over real HTTP: they come as they are made, end with what went wrong, and are closed."""

import json
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from sdlms.explorer.events import Pieces
from sdlms.explorer.http import streaming
from sdlms.explorer.http.streaming import (
    FAILED,
    file_stream,
    last_event,
    line_stream,
    while_wanted,
)
from sdlms.explorer.refusals import TooLarge
from tests.explorer.http_server import ask, served, wait_until


class Endless:
    """Numbers; says when the first was made, and when it was closed."""

    def __init__(self) -> None:
        self.begun, self.closed = threading.Event(), threading.Event()
        self.n_made = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.begun.set()
        self.n_made += 1
        self.closed.wait(0.01)
        return {"event": "token", "number": self.n_made}

    def take(self) -> list[Any]:
        return [item for _, item in zip(range(1), self, strict=False)]

    def give_up(self) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


class Stuck(Endless):
    """Makes one item, and the next only when it is closed."""

    def __next__(self) -> Any:
        if self.n_made:
            self.begun.set()
            wait_until(self.closed)
            raise StopIteration
        self.n_made += 1
        return {"event": "start"}


def app_of(items: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/lines", response_model=None)
    def lines() -> Response:
        return line_stream(items)

    @app.get("/file", response_model=None)
    def file() -> Response:
        return file_stream(items, "text/csv", "a.csv")

    @app.get("/last", response_model=None)
    async def last(request: Request) -> Response:
        return JSONResponse(await last_event(items, request))

    return app


@pytest.mark.parametrize("path", ["/lines", "/last"])
@pytest.mark.parametrize("kind", [Endless, Stuck])
def test_a_client_that_goes_away_closes_the_items(path: str, kind: type[Endless]) -> None:
    items = kind()
    with served(app_of(items)) as host:
        caller = ask(host, path)
        wait_until(items.begun)
        assert not items.closed.is_set()
        caller.close()
        wait_until(items.closed)


def test_what_is_asked_is_given_up_when_the_client_goes_away() -> None:
    begun, given_up = threading.Event(), threading.Event()
    app = FastAPI()

    def answer() -> str:
        begun.set()
        wait_until(given_up)
        return "late"

    @app.get("/asked", response_model=None)
    async def asked(request: Request) -> Response:
        return JSONResponse(await while_wanted(request, given_up, answer))

    with served(app) as host:
        caller = ask(host, "/asked")
        wait_until(begun)
        assert not given_up.is_set()
        caller.close()
        wait_until(given_up)


class Wide(Endless):
    """Makes pieces that soon fill what a connection holds."""

    def __next__(self) -> Any:
        self.n_made += 1
        return {"event": "token", "text": "a" * 100_000}


def test_a_client_that_reads_nothing_closes_the_items_and_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    items = Wide()
    with served(app_of(items)) as host:
        caller = ask(host, "/lines")
        wait_until(items.closed)
        assert items.n_made < 200  # some megabytes, which the system holds
        caller.close()
    assert "a client read nothing for 0.3 s" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_client_that_reads_slowly_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    n_lines, length = 600, 25_000
    with (
        served(app_of(iter_of(*({"text": "a" * length} for _ in range(n_lines))))) as host,
        httpx.stream("GET", f"http://{host}/lines") as response,
    ):
        n_bytes = 0
        for number, piece in enumerate(response.iter_bytes(2**20)):
            n_bytes += len(piece)
            time.sleep(0.1 if number < 5 else 0)
    assert n_bytes > n_lines * length


def test_a_server_that_stops_closes_the_items() -> None:
    items = Endless()
    with served(app_of(items)) as host:
        caller = ask(host, "/lines")
        wait_until(items.begun)
    assert items.closed.is_set()
    caller.close()


def test_lines_come_while_the_next_is_made() -> None:
    go_on = threading.Event()

    def items() -> Generator[Any]:
        yield {"text": "né ☕\n"}
        yield None  # the next one takes long
        wait_until(go_on)
        yield {"second": 2}

    with (
        served(app_of(Pieces(items()))) as host,
        httpx.stream("GET", f"http://{host}/lines") as response,
    ):
        lines = response.iter_lines()
        assert json.loads(next(lines)) == {"text": "né ☕\n"}
        go_on.set()
        assert json.loads(next(lines)) == {"second": 2}
        assert response.headers["content-type"] == "application/x-ndjson"


def test_items_are_closed_at_their_end_too() -> None:
    closed = threading.Event()

    def items() -> Generator[Any]:
        try:
            yield {"event": "start", "a": 1}
            yield {"event": "done", "a": 2}
        finally:
            closed.set()

    with served(app_of(Pieces(items()))) as host:
        assert httpx.get(f"http://{host}/last").json() == {"a": 2}
    assert closed.is_set()


def test_a_refusal_on_the_way_is_the_last_line() -> None:
    def items() -> Generator[Any]:
        yield {"event": "start"}
        raise TooLarge("too long")

    with served(app_of(Pieces(items()))) as host:
        response = httpx.get(f"http://{host}/lines")
    last = json.loads(response.text.splitlines()[-1])
    assert last == {"event": "error", "status": 413, "detail": "too long"}


def test_a_bug_on_the_way_says_so_and_breaks_the_answer_off() -> None:
    def items() -> Generator[Any]:
        yield {"event": "start"}
        raise RuntimeError("a bug")

    lines = []
    with served(app_of(Pieces(items()))) as host:
        with httpx.stream("GET", f"http://{host}/lines") as response:
            with pytest.raises(httpx.RemoteProtocolError):
                lines.extend(response.iter_lines())
                lines.extend(response.iter_lines())
    assert json.loads(lines[-1]) == {"event": "error", "status": 500, "detail": FAILED}


def test_an_error_event_is_the_status_of_what_has_no_lines() -> None:
    def items() -> Generator[Any]:
        yield {"event": "start"}
        yield {"event": "error", "status": 429, "detail": "busy"}

    with served(app_of(Pieces(items()))) as host:
        response = httpx.get(f"http://{host}/last")
    assert (response.status_code, response.json()) == (429, {"detail": "busy"})


def test_what_is_no_number_is_null() -> None:
    with served(app_of(iter_of({"nats": [float("nan"), float("inf"), 1.5]}))) as host:
        assert httpx.get(f"http://{host}/lines").text == '{"nats":[null,null,1.5]}\n'


def test_a_value_that_is_no_json_is_not_sent() -> None:
    with served(app_of(iter_of({"entropy": object()}))) as host:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://{host}/lines")


def test_a_file_comes_in_pieces_under_its_name() -> None:
    with served(app_of(iter_of("a,b\n", b"1,2\n"))) as host:
        response = httpx.get(f"http://{host}/file")
    assert response.text == "a,b\n1,2\n"
    assert response.headers["content-disposition"] == 'attachment; filename="a.csv"'
    assert response.headers["content-type"].startswith("text/csv")


def iter_of(*items: Any) -> Pieces[Any]:
    return Pieces(item for item in items)
