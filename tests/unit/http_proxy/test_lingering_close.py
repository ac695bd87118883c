from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from egress_router.clock import SYSTEM
from egress_router.http_proxy.lingering_close import SILENCE, LingeringClose
from egress_router.http_proxy.server import REAL
from egress_router.relay.buffered_socket import BufferedSocket, nothing
from egress_router.relay.deadlines import Deadline, Deadlines
from tests.manual_clock import ManualClock
from tests.serving import LOOPS
from tests.unit.http_proxy.asking import get, has_read
from tests.unit.http_proxy.origin import Client, closing, counted, origin, proxy
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.http_proxy.worker_state import WorkerState
    from tests.logged import Lines


def test_last_words_arrive_while_the_client_goes_on_sending() -> None:
    with proxy("a.example\n") as (running, port):
        for size in (800_000, 30_000_000):
            with Client(port) as client:
                client.send(f"POST http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n")
                for _ in range(10):
                    client.send("x" * (size // 10))
                assert client.head().startswith("HTTP/1.1 403")
        until(lambda: running.call(running.server.open_connections) == 0)


def test_who_goes_on_sending_for_too_long_is_cut() -> None:
    clock = ManualClock()
    with (
        proxy("a.example\n", needs=replace(REAL, clock=clock), LINGER_SECONDS="0.3") as (running, port),
        Client(port) as client,
    ):
        client.send("POST http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        assert client.head().startswith("HTTP/1.1 403")
        clock.advance(0.2)
        client.send("x")
        has_read(running, client)
        assert running.call(running.server.open_connections) == 1
        clock.advance(0.2)
        client.send("x")
        until(lambda: counted(running, "limit_hits_total", limit="linger_seconds") == 1)
        until(lambda: running.call(running.server.open_connections) == 0)


def test_a_request_behind_the_last_one_does_not_cut_the_answer_that_is_still_on_its_way(
    records: Lines,
) -> None:
    body = b"x" * 30_000
    with (
        origin(closing(b"HTTP/1.0 200 OK\r\n\r\n" + body)) as server,
        proxy(needs=replace(REAL, clock=ManualClock())) as (running, port),
        Client(port, receives=4096) as client,
    ):
        client.send(get(server))
        until(lambda: [each for each in records.seen if each["event"] == "closed"])
        client.send(get(server))
        head = client.head()
        assert "\r\nConnection: close" in head
        assert client.rest().count(b"x") == len(body)
        client.end()
        until(lambda: running.call(running.server.open_connections) == 0)


def test_a_client_that_said_close_is_not_waited_for() -> None:
    with origin(closing(b"HTTP/1.0 200 OK\r\n\r\nok")) as server, proxy() as (running, port):
        for request in (get(server, "Connection: close"), get(server).replace("HTTP/1.1", "HTTP/1.0")):
            with Client(port) as client:
                client.send(request)
                assert b"ok" in client.rest()
                assert running.call(running.server.open_connections) == 0


class Times:
    """The time-outs of a worker whose clock a test sets."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._added: list[Deadline] = []

    def add(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        due = self.clock.monotonic() + seconds
        self._added.append(Deadline(set(), due, seconds, callback, self.clock))
        return self._added[-1]

    def let_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for each in [each for each in self._added if each.due <= self.clock.monotonic()]:
            self._added.remove(each)
            each.fire()


@pytest.mark.parametrize(
    ("takes", "linger", "silences", "closes"),
    [(True, 30.0, 7, False), (True, 7.0, 4, True), (False, 30.0, 2, True)],
)
def test_a_client_that_takes_is_not_silent_but_has_its_time_in_all(
    takes: bool, linger: float, silences: int, closes: bool
) -> None:
    loop, poller = LOOPS["own"]()
    times = Times()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = sum(ours.send(b"x" * 10_000) for _ in range(8))
    closed: list[None] = []
    worker = cast("WorkerState", SimpleNamespace(deadlines=times, clock=times.clock))
    stream = BufferedSocket(ours, poller, nothing)
    LingeringClose(worker, stream, b"", linger, lambda: closed.append(None))
    turns = taken = 0
    with theirs:
        while not closed and taken < filled - 10_000:
            taken += len(theirs.recv(10_000)) if takes else 0
            times.let_pass(SILENCE)
            turns += 1
    assert bool(closed) is closes
    assert turns == silences
    stream.close()
    loop.close()


def test_last_words_wait_for_a_slow_reader() -> None:
    loop, poller = LOOPS["own"]()
    deadlines = Deadlines(loop)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += ours.send(b"x" * 10_000)
    closed = loop.create_future()
    worker = cast("WorkerState", SimpleNamespace(deadlines=deadlines, clock=SYSTEM))
    stream = BufferedSocket(ours, poller, nothing)
    LingeringClose(worker, stream, b"words", 30.0, lambda: closed.set_result(None))

    def read() -> bytes:
        data = b""
        while piece := theirs.recv(100_000):
            data += piece
        theirs.close()
        return data

    async def both() -> bytes:
        data = await asyncio.to_thread(read)
        await asyncio.wait_for(closed, WAIT_SECONDS)
        return data

    assert loop.run_until_complete(both()) == b"x" * filled + b"words"
    deadlines.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
