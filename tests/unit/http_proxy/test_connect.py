"""CONNECT through a real proxy: what becomes a tunnel, what does not, and how tunnels end."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from egress_router.names.answer import Failure
from tests.serving import LOOPS
from tests.unit.http_proxy.asking import connect
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import LOOPBACK, OK, Client, Peer, answering, counted, echo, origin, proxy
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_a_tunnel_carries_bytes_both_ways(loop: str) -> None:
    with origin(echo) as server, proxy(loop=loop) as (running, port), Client(port) as client:
        client.send(connect(server.authority))
        assert client.head() == "HTTP/1.1 200 Connection established"
        client.send(b"ping")
        assert client.take(4) == b"ping"
        assert counted(running, "tunnels_open") == 1
        # While it is open: a tunnel of a week must not show as one burst at its end.
        assert counted(running, "bytes_total", direction="received") == 4
        client.end()
        assert client.rest() == b""
        until(lambda: running.call(running.server.open_connections) == 0)
        assert counted(running, "tunnels_open") == 0
        assert counted(running, "bytes_total", direction="sent") == 4
        assert counted(running, "bytes_total", direction="received") == 4
        assert server.received == b"ping"
        # Not the answer to CONNECT, which is the proxy's.
        assert answers(running) == [1]


def test_a_tunnel_without_a_byte_of_its_destination_has_no_time_to_one() -> None:
    with origin(silent) as server, proxy() as (running, port), Client(port) as client:
        client.send(connect(server.authority))
        client.head()
        client.end()
        client.rest()
        until(lambda: running.call(running.server.open_connections) == 0)
        assert answers(running) == [0]


def answers(running: Running[Guarded[AccessList]]) -> list[int]:
    """How many times to a first byte were noted, for each rule that has connections."""
    found = running.call(running.context.registry.snapshot)["rule_first_byte_seconds"].histograms
    return [sum(counts) for _, counts, _ in found.values()]


def silent(peer: Peer) -> None:
    peer.read()


def test_bytes_behind_the_head_are_forwarded() -> None:
    with origin(echo) as server, proxy() as (_, port), Client(port) as client:
        client.send(connect(server.authority) + "early" + "x" * 100_000)
        client.head()
        assert client.take(100_005) == b"early" + b"x" * 100_000


def test_bytes_that_come_while_connecting_are_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, a_example="127.0.0.1", slow=True)
    with origin(echo) as server, proxy("a.example\n") as (_, port), Client(port) as client:
        client.send(connect(f"a.example:{server.port}"))
        client.send("soon")
        client.head()
        assert client.take(4) == b"soon"


def test_a_head_may_come_byte_by_byte() -> None:
    with origin(echo) as server, proxy() as (_, port), Client(port) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in "\r\n" + connect(server.authority):
            client.send(byte)
        assert client.head().startswith("HTTP/1.1 200")


def test_half_close_still_brings_the_answer() -> None:
    def count(peer: Peer) -> None:
        peer.read_to_the_end()
        peer.send(str(len(peer.received)).encode())

    with origin(count) as server, proxy() as (_, port), Client(port) as client:
        client.send(connect(server.authority))
        client.head()
        client.send(b"x" * 200_000)
        client.end()
        assert client.rest() == b"200000"


def test_http_1_0_and_ipv6() -> None:
    with origin(echo, "::1") as server, proxy() as (_, port), Client(port) as client:
        client.send(f"CONNECT {server.authority} HTTP/1.0\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 200")


@pytest.mark.parametrize(
    ("rules", "target", "status", "words"),
    [
        ("!127.0.0.1\n*", "127.0.0.1:{port}", 403, "line 1 (!127.0.0.1) denies it"),
        ("other.example", "127.0.0.1:{port}", 403, "no rule allows it"),
        ("*", "127.0.0.1:{port}", 403, "covers remote addresses only"),
        ("!127.0.0.0/8\na.example\n*", "a.example:{port}", 403, "line 1 (!127.0.0.0/8) denies it"),
        ("!a.example\n127.0.0.0/8", "A.Example.:{port}", 403, "line 1 (!a.example) denies it"),
        ("127.0.0.0/8", "[::ffff:127.0.0.2]:{port}", 502, "refused"),
        ("127.0.0.0/8", "127.1:{port}", 400, "unambiguous"),
        ("127.0.0.0/8", "127.0.0.1", 400, "port is missing"),
        ("a.example", "unknown.example:1", 403, "no rule allows it"),
        ("!unknown.example\n127.0.0.0/8\n*", "unknown.example:1", 403, "line 1 (!unknown.example) denies it"),
        ("127.0.0.0/8:1\n!unknown.example\n*", "unknown.example:2", 403, "line 2 (!unknown.example) denies"),
        ("127.0.0.0/8\n!unknown.example\n*", "unknown.example:1", 502, "does not exist"),
        ("127.0.0.0/8", "unknown.example:1", 502, "does not exist"),
        ("127.0.0.0/8", "silent.example:1", 504, "name servers do not answer"),
        ("*", "unknown.example:1", 502, "does not exist"),
        ("*", "empty.example:1", 502, "no address"),
        ("*", "broken.example:1", 502, "name servers failed"),
        ("*", "silent.example:1", 504, "name servers do not answer"),
        ("*", "busy.example:1", 503, "too many names are being looked up"),
    ],
)
def test_what_does_not_become_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, rules: str, target: str, status: int, words: str
) -> None:
    know(
        monkeypatch,
        a_example="127.0.0.1",
        empty_example=Failure.NO_ADDRESS,
        broken_example=Failure.SERVER_FAILURE,
        silent_example=Failure.TIMEOUT,
        busy_example=Failure.OVER_LIMIT,
    )
    with origin(echo) as server, proxy(rules) as (_, port), Client(port) as client:
        client.send(connect(target.format(port=server.port)) + "bytes for the origin")
        head, body = client.answer()
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert "\r\nProxy-Status: egress-router; error=" in head
        assert words in body.decode()
        assert client.rest() == b""
        assert not server.peers


def test_ports_that_connect_may_name() -> None:
    with origin(echo) as server, proxy(CONNECT_PORTS="443") as (running, port):
        with Client(port) as client:
            client.send(connect(server.authority))
            assert client.head().startswith("HTTP/1.1 403")
        assert counted(running, "requests_total", verdict="denied", reason="connect_port") == 1
        assert not server.peers
        with origin(answering(OK)) as plain, Client(port) as client:
            client.send(f"GET http://{plain.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head().startswith("HTTP/1.1 200")


def test_the_proxy_does_not_reach_itself() -> None:
    with proxy("0.0.0.0/0\n::/0\n") as (_, port):
        for target in (
            f"127.0.0.1:{port}",
            f"127.9.9.9:{port}",
            f"[::1]:{port}",
            f"0.0.0.0:{port}",
            "[::1]:9797",
        ):
            with Client(port) as client:
                client.send(connect(target))
                head, body = client.answer()
                assert head.startswith("HTTP/1.1 403")
                assert b"port of the egress router itself" in body


def test_an_upstream_that_resets_is_seen_as_a_reset() -> None:
    go = threading.Event()

    def cut(peer: Peer) -> None:
        go.wait(WAIT_SECONDS)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.sock.close()

    with origin(cut) as server, proxy() as (running, port), Client(port) as client:
        client.send(connect(server.authority))
        client.head()
        go.set()
        with pytest.raises(ConnectionResetError):
            client.rest()
        until(lambda: running.call(running.server.open_connections) == 0)


def test_tunnels_that_new_rules_deny_end_after_the_drain_time_and_others_stay() -> None:
    with (
        origin(echo, "127.0.0.1") as one,
        origin(echo, "127.0.0.2") as two,
        proxy(LOOPBACK, drain_seconds=0.1) as (running, port),
        Client(port) as first,
        Client(port) as second,
    ):
        for client, server in ((first, one), (second, two)):
            client.send(connect(server.authority))
            client.head()
        running.apply("127.0.0.2\n")
        with pytest.raises(ConnectionResetError):
            first.rest()
        second.send(b"still")
        assert second.take(5) == b"still"
        with Client(port) as late:
            late.send(connect(one.authority))
            assert late.head().startswith("HTTP/1.1 403")


def test_idle_tunnels_end() -> None:
    with origin(echo) as server, proxy(IDLE_SECONDS="0.2") as (running, port), Client(port) as client:
        client.send(connect(server.authority))
        client.head()
        assert client.rest() == b""
        until(lambda: counted(running, "idle_closed_total", limit="idle_seconds") == 1)
        assert counted(running, "limit_hits_total") == 0
