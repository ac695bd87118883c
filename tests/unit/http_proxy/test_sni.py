"""The name inside a CONNECT tunnel is held against the host of the CONNECT."""

from __future__ import annotations

import pytest

from egress_router.http_proxy import tunnel_start
from tests.unit.http_proxy.origin import LOOPBACK, Client, Peer, counted, eventually, know, origin, proxy
from tests.unit.tls.hellos import RECORDED, hello, records, sni

RULES = "www.example.com\n" + LOOPBACK


def connect(authority: str) -> str:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"


def echo(peer: Peer) -> None:
    while data := peer.read():
        peer.send(data)


def greeting(peer: Peer) -> None:
    peer.send(b"220 mail\r\n")
    echo(peer)


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, www_example_com="127.0.0.1")


@pytest.mark.parametrize("mode", ["report", "enforce", "off"])
@pytest.mark.parametrize(
    "first", [RECORDED["curl"], RECORDED["openssl-no-name"], b"GET / HTTP/1.1\r\n\r\n", b"\x00binary"]
)
def test_what_is_for_the_host_or_names_none_passes(mode: str, first: bytes) -> None:
    with origin(echo) as server, proxy(RULES, SNI=mode) as (running, port), Client(port) as client:
        client.send(connect(f"www.example.com:{server.port}"))
        client.head()
        client.send(first)
        assert client.take(len(first)) == first
        assert counted(running, "sni_mismatch_total") == 0
    assert server.received == first


@pytest.mark.parametrize(
    "first",
    [
        hello(sni(b"other.example")),
        hello(sni(b"127.0.0.1")),
        records(b"\x01\x00\x00\x02xx"),  # a ClientHello that is none
    ],
)
def test_another_name_is_closed_where_that_is_enforced(first: bytes) -> None:
    for at in (len(first), 1, 7):
        with origin(echo) as server, proxy(RULES, SNI="enforce") as (running, port), Client(port) as client:
            client.send(connect(f"www.example.com:{server.port}"))
            client.head()
            client.send(first[:at])
            client.send(first[at:])
            with pytest.raises((ConnectionError, EOFError)):
                client.take(1)
            assert counted(running, "sni_mismatch_total", action="closed") == 1
        assert server.received == b""


def test_another_name_is_reported_by_default() -> None:
    first = hello(sni(b"other.example"))
    with origin(echo) as server, proxy(RULES) as (running, port), Client(port) as client:
        client.send(connect(f"www.example.com:{server.port}") + first.decode("latin-1"))
        client.head()
        assert client.take(len(first)) == first
        assert counted(running, "sni_mismatch_total", action="reported") == 1


@pytest.mark.parametrize(("name", "passes"), [(b"www.example.com", True), (b"other.example", False)])
def test_behind_an_address_the_list_decides_on_the_name(name: bytes, passes: bool) -> None:
    first = hello(sni(name))
    rules = "www.example.com\n127.0.0.1:1\n"
    with origin(echo) as server:
        allowed = rules + f"!other.example\n127.0.0.1:{server.port}\n"
        with proxy(allowed, SNI="enforce") as (running, port), Client(port) as client:
            client.send(connect(f"127.0.0.1:{server.port}"))
            client.head()
            client.send(first)
            if passes:
                assert client.take(len(first)) == first
            else:
                with pytest.raises((ConnectionError, EOFError)):
                    client.take(1)
            assert counted(running, "sni_mismatch_total") == (not passes)


@pytest.mark.parametrize("mode", ["report", "enforce"])
def test_a_server_that_speaks_first_is_not_held_up(mode: str) -> None:
    with origin(greeting) as server, proxy(RULES, SNI=mode) as (_, port), Client(port) as client:
        client.send(connect(f"www.example.com:{server.port}"))
        client.head()
        assert client.take(10) == b"220 mail\r\n"
        client.send(b"EHLO")
        assert client.take(4) == b"EHLO"


def test_a_silent_client_gets_its_tunnel_after_a_moment() -> None:
    with origin(echo) as server, proxy(RULES, SNI="enforce") as (running, port), Client(port) as client:
        client.send(connect(f"www.example.com:{server.port}"))
        client.head()
        eventually(lambda: counted(running, "tunnels_open") == 1)
        first = hello(sni(b"other.example"))
        client.send(first)  # too late to be judged
        assert client.take(len(first)) == first


def test_a_client_that_leaves_before_it_speaks_leaves_nothing() -> None:
    with origin(echo) as server, proxy(RULES, SNI="enforce") as (running, port):
        with Client(port) as client:
            client.send(connect(f"www.example.com:{server.port}"))
            client.head()
        eventually(lambda: running.call(running.server.open_connections) == 0)
        eventually(lambda: all(peer.ended.is_set() for peer in server.peers))


def test_rules_that_change_before_the_first_byte_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_start, "SILENT_SECONDS", 60.0)  # the machine may be slow in between
    with origin(echo) as server, proxy(RULES, SNI="enforce") as (running, port), Client(port) as client:
        client.send(connect(f"www.example.com:{server.port}"))
        client.head()
        client.send(RECORDED["curl"][:20])
        # The rest of the hello comes after the list has changed; without it nothing has gone to the origin.
        running.apply("unrelated.example\n")
        try:
            client.send(RECORDED["curl"][20:])
            client.take(1)
        except (ConnectionError, EOFError):
            pass
        else:
            pytest.fail("the tunnel was opened by rules of before")
    assert server.received in (b"", RECORDED["curl"][:20])
