"""The control socket between supervisor and worker."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.service.control import (
    MAX_DESCRIPTORS,
    Channel,
    Close,
    Listeners,
    Message,
    Serve,
    StatusRequest,
)
from tests.ports import free_port
from tests.serving import LOOPS
from tests.unit.service.routers import descriptors_below
from tests.waiting import until_async

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator


class End:
    """One end of a channel, and what came out of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.loop = loop
        self.messages: list[Message] = []
        self.sockets: list[socket.socket] = []
        self.ended = 0
        self.channel = Channel(loop, sock, self.received, self.gone)

    def received(self, message: Message, descriptors: list[int]) -> None:
        self.messages.append(message)
        self.sockets += [socket.socket(fileno=each) for each in descriptors]

    def gone(self) -> None:
        self.ended += 1

    def wait(self, condition: Callable[[], bool]) -> None:
        self.loop.run_until_complete(until_async(condition))


@pytest.fixture(params=sorted(LOOPS))
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[End, End]]:
    loop, _ = LOOPS[request.param]()
    left, right = socket.socketpair()
    made = End(loop, left), End(loop, right)
    yield made
    for end in made:
        end.channel.close()
        for sock in end.sockets:
            sock.close()
    loop.close()


def test_messages_come_whole_and_in_order(ends: tuple[End, End]) -> None:
    left, right = ends
    sent = [StatusRequest(1), Serve("x" * 5_000_000, frozenset({80})), StatusRequest(2), Close()]
    for message in sent:
        left.channel.send(message)  # type: ignore[arg-type]
    assert not left.channel.is_idle, "five megabytes do not fit into a socket's buffer"
    right.wait(lambda: len(right.messages) == len(sent))
    assert right.messages == sent
    assert left.channel.is_idle


def test_descriptors_come_with_their_message_even_when_the_way_was_blocked(ends: tuple[End, End]) -> None:
    left, right = ends
    left.channel.send(Serve("x" * 1_000_000, frozenset()))
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(MAX_DESCRIPTORS + 10)]
    descriptors = [server.fileno() for server in servers]
    ports = tuple(server.getsockname()[1] for server in servers)
    left.channel.send(Listeners(ports[:MAX_DESCRIPTORS]), descriptors[:MAX_DESCRIPTORS])
    left.channel.send(Listeners(ports[MAX_DESCRIPTORS:]), descriptors[MAX_DESCRIPTORS:])
    for server in servers:
        server.close()  # the channel has copies of what it still has to send
    right.wait(lambda: len(right.messages) == 3)
    assert tuple(sock.getsockname()[1] for sock in right.sockets) == ports


def test_without_a_free_descriptor_a_message_goes_at_once_or_not_at_all(ends: tuple[End, End]) -> None:
    left, right = ends
    with socket.create_server(("127.0.0.1", 0)) as server:
        with descriptors_below(3, os.getpid()):
            left.channel.send(Listeners((1,)), [server.fileno()])
        right.wait(lambda: len(right.messages) == 1)
        left.channel.send(Serve("x" * 1_000_000, frozenset()))
        os.close(free := os.dup(0))
        with descriptors_below(free + 1, os.getpid()), pytest.raises(OSError, match="Too many open files"):
            left.channel.send(Listeners((2, 3)), [server.fileno(), server.fileno()])
        left.channel.send(Close())
        right.wait(lambda: len(right.messages) == 3)
    assert right.messages[2] == Close()
    assert len(right.sockets) == 1


def test_the_end_of_the_other_side_is_told_once(ends: tuple[End, End]) -> None:
    left, right = ends
    left.channel.close()
    right.wait(lambda: right.ended == 1)
    right.channel.send(Close())
    right.channel.close()
    assert (left.ended, right.ended) == (0, 1)


def test_what_cannot_be_sent_any_more_leaks_no_descriptor(ends: tuple[End, End]) -> None:
    left, right = ends
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        left.channel.send(Serve("x" * 1_000_000, frozenset()))
        left.channel.send(Listeners((port,)), [server.fileno()])
        left.channel.close()
        right.wait(lambda: right.ended == 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
