"""The server as a process: a port that is taken before anything slow, and a stop that is clean."""

import errno
import socket
import sys
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from sdlms.errors import UserError
from sdlms.explorer.http.hosts import in_url
from sdlms.explorer.http.limits import SEND_SECONDS, Limits

N_TRIED = 100  # ports after a taken one
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Take a port: whoever calls before the server runs is kept waiting, not turned away.

    Args:
        host: an address of this machine, or a name of one.
        port: 0 takes any that is free.

    Raises:
        UserError: the port is taken or not to be had, or the host is none of this machine.
    """
    try:
        return _listening(host, port)
    except socket.gaierror:
        raise UserError(f"--host '{host}' is neither an address nor a known name.") from None
    except OSError as error:
        raise UserError(_reason(error, host, port)) from None


def url_of(host: str, listener: socket.socket) -> str:
    """Where the page is."""
    return f"http://{in_url(host)}:{listener.getsockname()[1]}/"


def serve(app: ASGIApp, listener: socket.socket, limits: Limits) -> None:
    """Answer until a signal says to stop; answers under way get some seconds to end.

    Raises:
        KeyboardInterrupt: when everything has ended; the signal is handed on to whoever is next.
    """
    server_of(app, limits).run(sockets=[listener])


def server_of(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """What serves; HTTP and nothing else."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        proxy_headers=False,  # whoever says he stands for another is not believed
        server_header=False,
        access_log=False,  # addresses may hold the token
        log_config=None,
        log_level="critical",  # what fails is logged by the app itself
        timeout_graceful_shutdown=limits.stop_seconds,
    )
    return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on the host's first address."""
    family, address = _address(host, port)
    # asyncio sends at once only where the protocol is named; else each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # else what was sent to one who reads nothing is kept for ever
            patience = 1000 * SEND_SECONDS
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Family and address as `bind` takes them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _reason(error: OSError, host: str, port: int) -> str:
    """Why a port cannot be had, in one line."""
    if error.errno == errno.EADDRINUSE:
        free = _next_free(host, port)
        return f"--port {port} is taken on {host}. Free is: --port {free}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine."
    if error.errno == errno.EACCES:
        return f"--port {port} may not be taken by you. Ports from 1024 on may."
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"


def _next_free(host: str, port: int) -> int:
    """The next port above that is free at the moment; 0, which takes any, where none is near."""
    for candidate in range(port + 1, min(port + N_TRIED, 65535) + 1):
        try:
            _listening(host, candidate).close()
        except OSError:
            continue
        return candidate
    return 0
