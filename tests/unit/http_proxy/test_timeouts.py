from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from egress_router.http_proxy.connection import ClientConnection
from egress_router.http_proxy.server import REAL
from tests.manual_clock import ManualClock
from tests.unit.http_proxy.asking import get
from tests.unit.http_proxy.names import know
from tests.unit.http_proxy.origin import (
    OK,
    Client,
    Peer,
    answering,
    counted,
    origin,
    proxy,
    sent_at_once,
    worker_of,
)
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.logged import Lines
    from tests.serving import Running


def test_slow_heads_are_refused_and_silent_clients_let_go() -> None:
    with proxy(HEAD_SECONDS="0.2") as (running, port):
        with sent_at_once(running, port, "GET http://a.example/ HT") as client, Client(port) as silent:
            assert client.head().startswith("HTTP/1.1 408")
            assert silent.rest() == b""
        assert counted(running, "limit_hits_total", limit="head_seconds") == 1
        assert counted(running, "limit_hits_total") == 1
        assert counted(running, "idle_closed_total", limit="head_seconds") == 1


def test_idle_connections_are_let_go_and_a_second_head_has_its_time() -> None:
    with (
        origin(answering(OK, OK, OK)) as server,
        proxy(HEAD_SECONDS="0.2", KEEPALIVE_SECONDS="0.2") as (running, port),
    ):
        with sent_at_once(running, port, get(server)) as client:
            client.answer()
            assert client.rest() == b""
        assert counted(running, "limit_hits_total") == 0
        assert counted(running, "idle_closed_total", limit="keepalive_seconds") == 1
        with sent_at_once(running, port, get(server) + "GET ") as client:
            client.answer()
            assert client.head().startswith("HTTP/1.1 408")


def test_silent_origins_time_out() -> None:
    with origin(Peer.read_to_the_end) as server, proxy(ANSWER_SECONDS="0.2") as (running, port):
        with Client(port) as client:
            client.send(get(server))
            head, body = client.answer()
            assert head.startswith("HTTP/1.1 504")
            assert "error=connection_read_timeout" in head
            assert b"did not answer" in body
        assert counted(running, "limit_hits_total", limit="answer_seconds") == 1
        assert server.peers[0].ended.wait(WAIT_SECONDS)


def test_interim_answers_do_not_put_the_answer_off() -> None:
    clock = ManualClock()
    with (
        origin(Peer.read_to_the_end) as server,
        proxy(needs=replace(REAL, clock=clock), ANSWER_SECONDS="0.3") as (_, port),
        Client(port) as client,
    ):
        client.send(get(server))
        until(lambda: b"\r\n\r\n" in server.received)
        for _ in range(2):
            server.peers[0].send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            assert client.head().startswith("HTTP/1.1 103")
            clock.advance(0.2)
        assert client.head().startswith("HTTP/1.1 504")


def test_an_answer_may_pause_longer_than_it_may_take_to_begin() -> None:
    clock = ManualClock()
    with (
        origin(Peer.read_to_the_end) as server,
        proxy(needs=replace(REAL, clock=clock), ANSWER_SECONDS="0.3") as (running, port),
        Client(port) as client,
    ):
        client.send(get(server))
        until(lambda: b"\r\n\r\n" in server.received)
        server.peers[0].send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 8\r\n\r\nhalf")
        assert client.head().startswith("HTTP/1.1 200")
        assert client.take(4) == b"half"
        later = threading.Event()
        running.call(lambda: worker_of(running).deadlines.add(0.3, later.set))
        clock.advance(1.0)
        assert later.wait(WAIT_SECONDS), "the time to begin was over before this one"
        server.peers[0].send(b"half")
        assert client.take(4) == b"half"
        assert counted(running, "limit_hits_total") == 0


def test_an_answer_that_stops_half_way_is_cut() -> None:
    def stop(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        peer.read_to_the_end()

    with origin(stop) as server, proxy(IDLE_SECONDS="0.2") as (running, port), Client(port) as client:
        client.send(get(server))
        with pytest.raises(ConnectionResetError):
            client.rest()
        assert counted(running, "limit_hits_total", limit="idle_seconds") == 1


SIZE = 30_000  # one segment, even of half a window: the proxy reads it at once
LARGE = f"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: {SIZE}\r\n\r\n".encode() + b"x" * SIZE


def test_a_client_that_does_not_take_the_last_piece_of_its_answer_is_cut(records: Lines) -> None:
    clock = ManualClock()
    with (
        origin(answering(LARGE)) as server,
        proxy(needs=replace(REAL, clock=clock), ANSWER_SECONDS="40", IDLE_SECONDS="60") as (running, port),
        Client(port, receives=4096) as client,
    ):
        held = held_answer(running, client, get(server))
        clock.advance(50)
        while held_for_client(running) == held:  # it takes a bit, and its time begins anew
            client.sock.recv(1000)
        assert held_for_client(running) > 0
        clock.advance(59)
        what_is_due_happens(running)
        assert running.call(running.server.open_connections) == 1

        def is_cut() -> bool:
            clock.advance(61)  # once more, where the client's kernel has made room for a bit only now
            what_is_due_happens(running)
            return running.call(running.server.open_connections) == 0

        until(is_cut)
        assert counted(running, "limit_hits_total", limit="idle_seconds") == 1
        assert server.peers[0].ended.wait(WAIT_SECONDS)
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert [each["reason"] for each in records.seen if each["event"] == "closed"] == ["late"]


def test_an_upload_that_is_given_up_does_not_cut_the_answer_that_its_client_still_takes() -> None:
    clock = ManualClock()
    with (
        origin(answering(LARGE)) as server,
        proxy(needs=replace(REAL, clock=clock), ANSWER_SECONDS="30", IDLE_SECONDS="60") as (running, port),
        Client(port, receives=4096) as client,
    ):
        held_answer(running, client, get(server, "Content-Length: 9").replace("GET", "PUT", 1) + "half")
        clock.advance(32)
        until(lambda: counted(running, "limit_hits_total", limit="answer_seconds") == 1)
        clock.advance(10)  # far longer than a lingering close waits
        what_is_due_happens(running)
        assert client.answer()[1] == b"x" * SIZE
        client.end()
        until(lambda: running.call(running.server.open_connections) == 0)


def held_answer(running: Running[Guarded[AccessList]], client: Client, request: str) -> int:
    """Let a client ask and read nothing; wait until the proxy has the whole answer, and holds the rest of it."""
    until(lambda: running.call(running.server.open_connections) == 1)
    running.call(
        lambda: connection_of(running).stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    )
    client.send(request)
    until(lambda: f" received={SIZE}>" in running.call(lambda: repr(connection_of(running))))
    until(lambda: held_for_client(running) > 0)
    return held_for_client(running)


def what_is_due_happens(running: Running[Guarded[AccessList]]) -> None:
    """Have the proxy look at the clock, which was set to a whole second: see `Deadlines` for its steps."""
    later = threading.Event()
    running.call(lambda: worker_of(running).deadlines.add(0.0, later.set))
    assert later.wait(WAIT_SECONDS)


def held_for_client(running: Running[Guarded[AccessList]]) -> int:
    return running.call(lambda: len(connection_of(running).stream.out))


def connection_of(running: Running[Guarded[AccessList]]) -> ClientConnection:
    (connection,) = worker_of(running).connections
    assert isinstance(connection, ClientConnection)
    return connection


def resets(client: Client) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.sock.close()


@contextlib.contextmanager
def full_queue() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops further handshakes."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        port: int = listener.getsockname()[1]
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield port


def test_silent_destinations_time_out(records: Lines) -> None:
    with full_queue() as silent, proxy(CONNECT_SECONDS="0.3") as (running, port), Client(port) as client:
        client.send(f"CONNECT 127.0.0.1:{silent} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 504")
        assert counted(running, "limit_hits_total", limit="connect_seconds") == 1
        assert counted(running, "upstream_failures_total", reason="timeout") == 1
        rule = "127.0.0.0/8"
        assert counted(running, "rule_connections_total", rule=rule) == 1
        assert counted(running, "rule_failures_total", rule=rule) == 1
    request = records.seen[0]
    assert (request["address"], request["reason"]) == ("127.0.0.1", "timeout")
    assert isinstance(request["connect_seconds"], float)
    assert request["connect_seconds"] >= 0.3


def test_a_client_that_resets_while_a_connection_is_made_is_let_go(
    records: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = know(monkeypatch)

    async def resolve(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(names, "resolve", resolve)
    # Nothing else ends it in time.
    with full_queue() as silent, proxy("127.0.0.0/8\na.example\n", CONNECT_SECONDS="3600") as (running, port):
        for authority in (f"127.0.0.1:{silent}", "a.example:443"):
            with Client(port) as client:
                client.send(f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n")
                until(lambda: running.call(running.server.open_connections) == 1)
                resets(client)
            until(lambda: running.call(running.server.open_connections) == 0)
    assert [(each["event"], each["reason"]) for each in records.seen[1::2]] == [("closed", "abandoned")] * 2
    assert [each["reason"] for each in records.seen[::2]] == ["abandoned"] * 2


def test_a_client_that_ends_its_stream_while_a_connection_is_made_is_not_forgotten() -> None:
    with full_queue() as silent, proxy(CONNECT_SECONDS="0.6") as (_, port), Client(port) as client:
        client.send(f"CONNECT 127.0.0.1:{silent} HTTP/1.1\r\nHost: x\r\n\r\n")
        client.end()
        assert client.head().startswith("HTTP/1.1 504")
