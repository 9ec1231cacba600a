"""Ports that are taken early, refusals in one line, and a server that stops when it is told."""

import asyncio
import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sdlms.errors import UserError
from sdlms.explorer.http import serving
from sdlms.explorer.http.serving import listen, url_of
from tests.explorer.http_server import served

PROGRAM = """
import signal, sys
from starlette.responses import PlainTextResponse
from sdlms.explorer.http.limits import Limits
from sdlms.explorer.http.serving import listen, serve, url_of
signal.signal(signal.SIGTERM, signal.default_int_handler)
with listen("127.0.0.1", 0) as listener:
    sys.stdout.write(url_of("127.0.0.1", listener) + "\\n")
    sys.stdout.flush()
    try:
        serve(PlainTextResponse("here"), listener, Limits(stop_seconds=1))
    except KeyboardInterrupt:
        sys.exit("stopped")
"""


def test_any_free_port_is_named_in_the_url() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of("127.0.0.1", listener) == f"http://127.0.0.1:{port}/"
        assert url_of("::1", listener) == f"http://[::1]:{port}/"


def test_a_taken_port_names_the_next_free_one() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError) as refused:
            listen("127.0.0.1", port)
        message = str(refused.value)
        assert message.startswith(f"--port {port} is taken on 127.0.0.1.") and "\n" not in message
        free = int(message.rpartition(" ")[2])
        listen("127.0.0.1", free).close()
        assert free > port or free == 0


def test_a_port_is_taken_as_soon_as_it_is_listened_on() -> None:
    with listen("127.0.0.1", 0) as listener:
        # Nobody answers yet, and still the caller is not turned away.
        socket.create_connection(listener.getsockname(), timeout=5).close()


def test_a_connection_sends_at_once_and_waits_for_no_more() -> None:
    async def accepted() -> int:
        """What the event loop makes of a caller's connection."""
        listener, called = listen("127.0.0.1", 0), asyncio.get_running_loop().create_future()

        def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken = writer.get_extra_info("socket")
            called.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(take, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return int(await called)

    assert asyncio.run(accepted()) != 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems wait for ever")
def test_a_connection_to_one_who_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SEND_SECONDS", 1)
    with listen("127.0.0.1", 0) as listener:
        caller = socket.create_connection(listener.getsockname(), timeout=5)
        taken, _ = listener.accept()
        with caller, taken, selectors.DefaultSelector() as ended:
            taken.setblocking(False)
            with suppress(BlockingIOError):
                while taken.send(bytes(10**6)):
                    pass
            ended.register(taken, selectors.EVENT_READ)
            assert ended.select(20)
            with pytest.raises(TimeoutError):
                taken.recv(1)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("203.0.113.7", "--host 203.0.113.7 is no address of this machine"),
        ("no.such.host.invalid", "--host 'no.such.host.invalid' is neither an address nor"),
        ("", "--host '' is neither"),
        ("a b", "--host 'a b' is neither"),
    ],
)
def test_a_host_that_is_not_here_gets_one_line(host: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        listen(host, 0)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "--port 80 may not be taken"),
        (errno.ENOBUFS, "cannot listen on here, port 80"),
    ],
)
def test_what_else_the_system_refuses_gets_one_line(
    number: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(host: str, port: int) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(serving, "_listening", refuse)
    with pytest.raises(UserError, match=message):
        listen("here", 80)


def test_where_no_port_is_near_any_is_offered() -> None:
    assert serving._next_free("127.0.0.1", 65535) == 0


def test_answers_name_no_server_and_believe_no_proxy() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{scope['scheme']} {scope['client'][0]}")(scope, receive, send)

    with served(app) as host:
        forwarded = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}
        response = httpx.get(f"http://{host}/", headers=forwarded)
    assert response.text == "http 127.0.0.1"
    assert "server" not in response.headers


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_goes_on_to_the_command(kind: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(url).text == "here"
        process.send_signal(kind)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (1, "stopped\n")
