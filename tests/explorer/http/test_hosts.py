"""Names and addresses: which let others in, and which a Host header may have."""

import pytest

from sdlms.explorer.http.hosts import (
    LOOPBACK,
    allowed_hosts,
    in_url,
    is_allowed,
    is_loopback,
    name_of,
)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.3.2.1", "::1"])
def test_only_this_machine_reaches_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.0.3", "example.org", "", "127.1", "localhost.evil.org"]
)
def test_others_may_reach_everything_else(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:8000", "::1"),
        ("a.b-c_d:65535", "a.b-c_d"),
    ],
)
def test_the_name_comes_without_port_and_brackets(header: str, name: str) -> None:
    assert name_of(header) == name


@pytest.mark.parametrize(
    "header",
    ["", ":80", "::1", "[::1", "a:b", "a:123456", "a b", "a/b", "a@b", "a,b", "ä", "a\n", "[g]"],
)
def test_a_malformed_header_has_no_name(header: str) -> None:
    assert name_of(header) is None
    assert not is_allowed(header, LOOPBACK)


def test_loopback_is_called_by_its_names_at_any_port() -> None:
    hosts = allowed_hosts("127.0.0.1")
    for header in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost", "localhost:9"):
        assert is_allowed(header, hosts)
    for header in ("evil.org:8000", "127.0.0.1.evil.org:8000", "192.168.0.3:8000", "0.0.0.0:8000"):
        assert not is_allowed(header, hosts)


def test_a_named_host_is_allowed_beside_loopback() -> None:
    hosts = allowed_hosts("Box.lan")
    assert is_allowed("box.lan:8000", hosts) and is_allowed("localhost:8000", hosts)
    assert not is_allowed("lan:8000", hosts)


def test_every_address_is_called_by_any_address_but_not_by_any_name() -> None:
    for host in ("0.0.0.0", "::"):
        hosts = allowed_hosts(host)
        for header in ("192.168.0.3:8000", "[fe80::1]:8000", "localhost:8000"):
            assert is_allowed(header, hosts)
        assert not is_allowed("evil.org:8000", hosts)


def test_every_address_is_called_by_the_machines_own_name() -> None:
    import socket

    assert is_allowed(f"{socket.gethostname()}:8000", allowed_hosts("0.0.0.0"))
    assert socket.gethostname().lower() not in allowed_hosts("127.0.0.1")


@pytest.mark.parametrize(
    ("host", "written"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]")],
)
def test_a_url_names_an_address_that_can_be_opened(host: str, written: str) -> None:
    assert in_url(host) == written
