"""Addresses: where the server listens, and by which names a browser may call it.

A page of another site can have its own name point to 127.0.0.1 and then read what is served there
(DNS rebinding). What its browser sends as `Host` is still that name, so the name is checked.
"""

import ipaddress
import re
import socket
from collections.abc import Collection

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
# A name or an IPv4 address, or an IPv6 address in brackets; then perhaps a port.
HOST = re.compile(r"(?:([A-Za-z0-9._-]{1,253})|\[([0-9A-Fa-f:.]{2,45})\])(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    return is_address(host) and ipaddress.ip_address(host).is_loopback


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Names under which a server that listens on `host` may be called; without ports.

    Whoever listens on every address is called by any of them, or by the machine's name.
    """
    own = [socket.gethostname().lower()] if host in EVERY_ADDRESS else []
    return tuple(dict.fromkeys([*LOOPBACK, host.lower(), *own]))


def name_of(header: str) -> str | None:
    """The name in a `Host` header, in lower case, without port and brackets; None if malformed."""
    match = HOST.fullmatch(header)
    return (match[1] or match[2]).lower() if match else None


def is_allowed(header: str, hosts: Collection[str]) -> bool:
    """Whether a `Host` header names this server.

    Any port will do: through a tunnel it is another one, and another site's page cannot choose a
    name of ours with it.
    """
    name = name_of(header)
    if name is None:
        return False
    # An address is no name that could be pointed elsewhere.
    return name in hosts or (is_address(name) and any(host in EVERY_ADDRESS for host in hosts))


def in_url(host: str) -> str:
    """The host as a URL has it: IPv6 in brackets; an address of this machine for every address."""
    if host in EVERY_ADDRESS:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"[{host}]" if ":" in host else host
