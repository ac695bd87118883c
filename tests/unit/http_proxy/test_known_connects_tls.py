"""A known CONNECT with TLS in it: the name in the ClientHello decides as if Python had read it."""

from __future__ import annotations

import random
import socket

import pytest

from egress_router.tls.server_name import SniMatch, compare
from tests.unit.http_proxy.known_tunnels import Tunnel, head, ping, quiet, repeated
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import counted, echo, origin
from tests.unit.http_proxy.test_sni import ALERT, hello
from tests.unit.tls.hellos import is_taken, with_one_byte_wrong
from tests.waiting import until


@pytest.mark.parametrize("mode", ["report", "enforce", "off"])
@pytest.mark.parametrize("name", ["a.example", "A.Example", None])
def test_a_name_in_tls_that_is_right_is_no_matter_for_python(
    monkeypatch: pytest.MonkeyPatch, mode: str, name: str | None
) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello(name)
    with origin(echo) as server, quiet("a.example\n", SNI=mode) as (running, port):

        def repeats() -> bool:
            ping(port, head(f"a.example:{server.port}"), sent)
            return repeated(running) > 0

        until(repeats)
        assert counted(running, "sni_mismatch_total") == 0


def test_a_name_in_tls_that_is_wrong_is(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("b.example")
    with origin(echo) as server, quiet("a.example\n", SNI="enforce") as (running, port):
        first = head(f"a.example:{server.port}")
        ping(port, first)
        for _ in range(3):
            with Tunnel(port, first) as tunnel:
                tunnel.send(sent)
                assert tunnel.rest() == ALERT
        assert counted(running, "sni_mismatch_total", action="closed") == 3
        assert server.received == b"ping"
        assert repeated(running) == 0
    with origin(echo) as server, quiet("a.example\n", SNI="report") as (running, port):
        first = head(f"a.example:{server.port}")
        ping(port, first)
        for _ in range(3):
            ping(port, first, sent)
        assert counted(running, "sni_mismatch_total", action="reported") == 3
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "tunnels_open") == 0


def test_a_hello_in_pieces_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1")
    sent = hello("a.example")
    with origin(echo) as server, quiet("a.example\n", SNI="enforce") as (running, port):
        first = head(f"a.example:{server.port}")
        ping(port, first)
        with Tunnel(port, first) as tunnel:
            tunnel.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(sent)):
                tunnel.send(sent[at : at + 1])
            assert tunnel.take(len(sent)) == sent
        assert repeated(running) == 0


def fits(sent: bytes) -> bool:
    """Say whether Python lets these bytes pass in a tunnel to a.example; one that ends in a part of a hello does not."""
    right = {SniMatch.SAME, SniMatch.ABSENT}
    return sent[:1] != b"\x16" or is_taken(
        sent, lambda said: said is not None and compare(said, "a.example") in right
    )


def test_no_hello_gets_through_that_python_would_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a right one are changed, doubled and left out."""
    know(monkeypatch, a_example="127.0.0.1")
    right = hello("a.example")
    variants = [hello("b.example"), right + b"early", b"\x16", b"\x15" + right[1:]]
    variants += with_one_byte_wrong(right, right.index(b"a.example"), random.Random(7))
    with origin(echo) as server, quiet("a.example\n", SNI="enforce", HEAD_SECONDS="1") as (running, port):
        first = head(f"a.example:{server.port}")
        for sent in variants:
            with Tunnel(port, first) as tunnel:
                tunnel.send(sent)
                tunnel.end()
                came = tunnel.rest()
            assert came == (sent if fits(sent) else ALERT), sent
        assert repeated(running) > 10
