"""The name inside a CONNECT tunnel to port 443: the client speaks first, so its ClientHello may come late."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.ports import own_address
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import Client, Origin, Peer, counted, origin, proxy
from tests.unit.tls.hellos import hello, sni
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running

ALERT = b"\x15\x03\x01\x00\x02\x02\x31"
RIGHT, WRONG = hello(sni(b"a.example")), hello(sni(b"b.example"))


def echo(peer: Peer) -> None:
    while data := peer.read():
        peer.send(data)


@contextlib.contextmanager
def late(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> Iterator[tuple[Origin, Running[Guarded[AccessList]], Client]]:
    """Yield a client in a tunnel to port 443, later than on other ports a ClientHello may come."""
    host = own_address()
    know(monkeypatch, a_example=host)
    with (
        origin(echo, host, 443) as server,
        origin(echo) as other,
        proxy("*.example\n127.0.0.1\n", SNI=mode) as (running, port),
        Client(port) as client,
        Client(port) as beside,
    ):
        client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        beside.send(f"CONNECT 127.0.0.1:{other.port} HTTP/1.1\r\nHost: x\r\n\r\n")
        beside.head()
        # After 250 ms without a byte this one is a tunnel; the one to port 443, begun before, is none yet.
        until(lambda: counted(running, "tunnels_open") == 1)
        yield server, running, client


def test_a_late_hello_of_another_name_does_not_reach_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    with late(monkeypatch, "enforce") as (server, running, client):
        client.send(WRONG)
        assert client.rest() == ALERT
        assert counted(running, "sni_mismatch_total", action="closed") == 1
        until(lambda: all(peer.ended.is_set() for peer in server.peers))
        assert server.received == b""


def test_a_late_hello_of_the_right_name_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with late(monkeypatch, "enforce") as (_, running, client):
        for at in range(0, len(RIGHT), 7):
            client.send(RIGHT[at : at + 7])
        assert client.take(len(RIGHT)) == RIGHT
        assert counted(running, "tunnels_open") == 2


def test_a_late_hello_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with late(monkeypatch, "report") as (_, running, client):
        client.send(WRONG)
        assert client.take(len(WRONG)) == WRONG
        assert counted(running, "sni_mismatch_total", action="reported") == 1


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_a_server_that_speaks_first_there_is_no_tls_server(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def greet(peer: Peer) -> None:
        peer.send(b"220 ready")
        peer.read_to_the_end()

    host = own_address()
    know(monkeypatch, a_example=host)
    with (
        origin(greet, host, 443),
        proxy("*.example\n", SNI=mode) as (_, port),
        Client(port) as client,
    ):
        client.send("CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        client.head()
        if mode == "enforce":
            assert client.rest() == b""
        else:
            assert client.take(9) == b"220 ready"
