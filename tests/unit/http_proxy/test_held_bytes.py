from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from egress_router.http_proxy.held_bytes import HeldBytes
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import OK, Client, Peer, answering, counted, origin, proxy
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


@dataclass(eq=False)
class Connection:
    """Gives way as a connection does: it drops at once what it holds."""

    held: HeldBytes
    gone: list[Connection] = field(default_factory=list)

    def give_way(self) -> None:
        self.gone.append(self)
        self.held.hold(self, 0)


def test_the_biggest_give_way_first_and_only_as_many_as_must() -> None:
    turns: list[Callable[[], None]] = []
    gone: list[Connection] = []
    held = HeldBytes(1000, turns.append)
    sizes = [100, 300, 50, 200, 250]
    connections = [Connection(held, gone) for _ in sizes]
    for connection, size in zip(connections, sizes, strict=True):
        held.hold(connection, size)
    assert (held.total, turns) == (900, [])
    held.hold(connections[0], 250)
    held.hold(connections[2], 100)
    assert len(turns) == 1  # one walk for all that came in one turn
    turns.pop()()
    assert gone == [connections[1]]
    assert held.total == 800
    held.hold(connections[0], 0)
    assert held.total == 550
    held.hold(connections[4], 800)
    held.hold(connections[4], 0)
    assert held.total == 300
    turns.pop()()
    assert gone == [connections[1]]


def unfinished(size: int) -> bytes:
    return b"GET http://a.example/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * size


def test_unfinished_heads_are_bounded_in_all() -> None:
    with origin(answering(OK)) as server, proxy(HELD_BYTES="1048576") as (running, port):
        clients = [Client(port) for _ in range(40)]
        biggest = Client(port)
        biggest.send(unfinished(60_000))
        for client in clients:
            client.send(unfinished(40_000))
        assert biggest.head().startswith("HTTP/1.1 503")
        until(lambda: counted(running, "limit_hits_total", limit="held_bytes") >= 14)
        with Client(port) as other:
            other.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert other.answer()[1] == b"ok"
        for client in (*clients, biggest):
            client.sock.close()
        assert counted(running, "refused_total", reason="held_bytes") >= 14


def test_early_data_behind_a_connect_that_waits_is_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    names = know(monkeypatch, a_example="127.0.0.1", slow=True)

    async def resolve(*_: object, **__: object) -> None:
        await running.context.loop.create_future()

    monkeypatch.setattr(names, "resolve", resolve)
    with proxy("a.example\n", HELD_BYTES="1048576") as (running, port):
        clients = [Client(port) for _ in range(40)]
        for client in clients:
            client.send(b"CONNECT a.example:443 HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 40_000)
        until(lambda: counted(running, "refused_total", reason="held_bytes") >= 14)
        assert counted(running, "upstream_failures_total") == 0
        for client in clients:
            client.sock.close()


def test_answers_for_slow_readers_are_bounded_in_all() -> None:
    def much(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            peer.send(b"x" * 100_000)

    with origin(much) as server, proxy(HELD_BYTES="1048576") as (running, port):
        # What is left of a read where the client's buffer is full: some ten KiB each.
        clients = [Client(port) for _ in range(160)]
        for client in clients:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(f"GET http://{server.authority}/ HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: counted(running, "limit_hits_total", limit="held_bytes") >= 1)
        for client in clients:
            client.sock.close()


def test_what_tunnels_hold_is_bounded_in_all_and_others_go_on() -> None:
    # The kernel remembers by address how fast a peer was, and gives fast ones large buffers (tcp_metrics).
    unknown = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"
    with (
        socket.create_server((unknown, 0), backlog=64) as slow,
        origin(answering(OK)) as server,
        proxy(RELAY_BYTES="1048576") as (running, port),
    ):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # and nobody reads there
        slow.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000
        )  # else the proxy's kernel takes a MiB each
        clients = [Client(port) for _ in range(40)]
        for client in clients:
            client.send(f"CONNECT {unknown}:{slow.getsockname()[1]} HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head().startswith("HTTP/1.1 200")
            client.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.sock.send(b"x" * 400_000)
        until(lambda: counted(running, "limit_hits_total", limit="relay_bytes") >= 5)
        for method, expected in (("GET http://{}/", b"ok"), ("CONNECT {}", b"")):
            with Client(port) as other:
                other.send(f"{method.format(server.authority)} HTTP/1.1\r\nHost: x\r\n\r\n")
                assert other.answer()[1] == expected
        for client in clients:
            client.sock.close()
