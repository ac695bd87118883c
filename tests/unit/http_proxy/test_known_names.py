"""TLS to a transparent port whose name came before is served by the data plane alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from egress_router.tls.server_name import server_name
from tests.unit.http_proxy.known_tunnels import decided, quiet, repeated
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import Client, counted, echo, origin
from tests.unit.http_proxy.test_sni import hello
from tests.unit.tls.hellos import RECORDED, is_taken, with_one_byte_wrong
from tests.waiting import until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.unit.http_proxy.origin import Origin
    from tests.unit.http_proxy.test_known_connects import Proxy

PORT = 1443
DENIED = bytes((21, 3, 1, 0, 2, 2, 49))
ALERT = b"\x15"


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1", b_example="127.0.0.1", www_example_com="127.0.0.1")


def transparent(
    server: Origin, rules: str = "a.example\nwww.example.com\n"
) -> AbstractContextManager[tuple[Proxy, int]]:
    return quiet(rules, TRANSPARENT_PORTS=f"{PORT}:{server.port}", HEAD_SECONDS="1")


def exchange(running: Proxy, sent: bytes) -> bytes:
    """Return what comes back for these bytes and the end behind them."""
    with Client(running.ports[PORT]) as client:
        client.send(sent)
        client.end()
        return client.rest()


def learnt(running: Proxy, sent: bytes) -> None:
    """Send a ClientHello until one is repeated: none is known for long."""

    def repeats() -> bool:
        before = repeated(running)
        assert exchange(running, sent) == sent
        return repeated(running) > before

    until(repeats)


@pytest.mark.parametrize("client", sorted(set(RECORDED) - {"openssl-no-name"}))
def test_the_second_one_is_served_without_python(client: str) -> None:
    with origin(echo) as server, transparent(server) as (running, _):
        learnt(running, RECORDED[client])
        until(lambda: running.call(running.server.open_connections) == 0)
        total = decided(running) + repeated(running)
        assert server.received == RECORDED[client] * int(total)
        assert counted(running, "rule_connections_total", rule="www.example.com") == total
        assert counted(running, "tunnels_open") == 0


def test_it_is_the_name_that_is_known_in_any_spelling() -> None:
    with origin(echo) as server, transparent(server) as (running, _):
        learnt(running, hello("a.example"))
        learnt(running, hello("A.eXample"))
        before = repeated(running)
        for other in (hello("b.example"), hello(None), hello("a.example.")):
            assert exchange(running, other) != b""
        assert repeated(running) == before


def test_a_known_name_on_the_proxy_port_is_no_request() -> None:
    with origin(echo) as server, transparent(server) as (running, port):
        learnt(running, hello("a.example"))
        before = repeated(running)
        with Client(port) as client:
            client.send(hello("a.example"))
            assert client.rest() != hello("a.example")
        assert repeated(running) == before


def test_other_rules_decide_at_once() -> None:
    with origin(echo) as server, transparent(server) as (running, _):
        learnt(running, hello("a.example"))
        running.apply("!a.example\n")
        assert exchange(running, hello("a.example")) == DENIED
        assert counted(running, "requests_total", verdict="denied") == 1


def test_a_server_that_is_gone_is_answered_for_by_python() -> None:
    with origin(echo) as server, transparent(server) as (running, _):
        learnt(running, hello("a.example"))
        server.close()
        for _ in range(2):
            assert exchange(running, hello("a.example"))[:1] == ALERT
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "upstream_failures_total", reason="refused") == 2


def test_a_tunnel_that_other_rules_deny_is_cut() -> None:
    rules = "a.example\n"
    with (
        origin(echo) as server,
        quiet(rules, TRANSPARENT_PORTS=f"{PORT}:{server.port}", drain_seconds=0.1) as (running, _),
    ):
        learnt(running, hello("a.example"))
        with Client(running.ports[PORT]) as client:
            client.send(hello("a.example"))
            assert client.take(len(hello("a.example")))
            running.apply("!a.example\n")
            with pytest.raises(ConnectionResetError):
                client.rest()


def passes(sent: bytes) -> bool:
    """Say whether Python takes these bytes for a ClientHello that names a.example."""
    return sent[:1] == b"\x16" and is_taken(
        sent, lambda said: said is not None and server_name(said) == "a.example"
    )


def test_no_hello_gets_through_that_python_would_not_let_through() -> None:
    """Bytes of a right one are changed, doubled and left out."""
    right = hello("a.example")
    variants = [hello("b.example"), right + b"early", b"\x16"]
    variants += with_one_byte_wrong(right, right.index(b"a.example"), random.Random(11), lowest=1)
    with origin(echo) as server, transparent(server) as (running, _):
        for number, sent in enumerate(variants):
            if number % 20 == 0:
                learnt(running, right)
            assert (exchange(running, sent) == sent) is passes(sent), sent
        assert repeated(running) > 10
