"""A real HTTP server in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp

from sdlms.explorer.http.limits import Limits
from sdlms.explorer.http.serving import listen, server_of

PATIENCE_SECONDS = 30.0


@contextmanager
def served(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Where `app` answers while the block lasts: host and port; 0 takes any port."""
    listener = listen("127.0.0.1", port)
    server = server_of(app, Limits(stop_seconds=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def wait_until(happened: threading.Event) -> None:
    """Wait for something that another thread does."""
    assert happened.wait(PATIENCE_SECONDS)


def ask(host: str, path: str) -> socket.socket:
    """A request whose answer nobody has read yet."""
    name, _, port = host.partition(":")
    caller = socket.create_connection((name, int(port)))
    caller.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return caller
