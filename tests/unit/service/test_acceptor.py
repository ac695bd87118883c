from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.metrics import Registry
from egress_router.service.acceptor import Acceptor
from tests.serving import LOOPS, listening
from tests.unit.relay.room import Room, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


class Door:
    """An acceptor in a loop of its own, and what it let in."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.registry = Registry()
        self.entered: list[tuple[socket.socket, str, int, int]] = []
        self.acceptor = Acceptor(room.loop, self.registry, lambda *each: self.entered.append(each))

    def listen(self, **listeners: socket.socket) -> None:
        by_port = {int(name.removeprefix("p")): each for name, each in listeners.items()}
        self.room.call(lambda: self.acceptor.listen(by_port))

    def close(self) -> None:
        self.room.call(self.acceptor.stop)
        for sock, *_ in self.entered:
            sock.close()
        self.room.close()


@pytest.fixture(params=sorted(LOOPS))
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    made = Door(Room(*LOOPS[request.param]()))
    yield made
    made.close()


@contextlib.contextmanager
def descriptors(most: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_comes_ready_for_the_relay(door: Door, host: str) -> None:
    listener = listening()
    door.listen(p8080=listener)
    with socket.create_connection((host, port_of(listener))) as peer:
        eventually(lambda: door.entered)
        sock, client, client_port, port = door.entered[0]
        assert (client, client_port, port) == (host, peer.getsockname()[1], 8080)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ports_come_and_go_without_touching_the_others(door: Door) -> None:
    first, second, third = listening(), listening(), listening()
    ports = [port_of(each) for each in (first, second, third)]
    door.listen(p1=first, p2=second)
    door.listen(p2=second, p3=third)
    assert first.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    for port in ports[1:]:
        socket.create_connection(("127.0.0.1", port)).close()
    eventually(lambda: [port for *_, port in door.entered] == [2, 3])


def test_a_new_socket_for_a_known_port_replaces_the_old_one(door: Door) -> None:
    old, new = listening(), listening()
    port = port_of(new)
    door.listen(p1=old)
    door.listen(p1=new)
    assert old.fileno() == -1
    with socket.create_connection(("127.0.0.1", port)):
        eventually(lambda: door.entered)


def test_stopping_takes_in_those_who_wait_at_the_door(door: Door) -> None:
    listener = listening()
    address = ("127.0.0.1", port_of(listener))
    with contextlib.ExitStack() as stack:

        def knock_and_stop() -> None:
            # Inside the loop's turn: nothing can be accepted in between.
            for _ in range(100):
                stack.enter_context(socket.create_connection(address))
            door.acceptor.stop()

        door.listen(p1=listener)
        door.room.call(knock_and_stop)
        assert len(door.entered) == 100
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_exhausted_descriptors_pause_accepting_with_one_line(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listening()
    address = ("127.0.0.1", port_of(listener))
    door.listen(p1=listener)
    with contextlib.ExitStack() as stack, caplog.at_level(logging.INFO):
        clients = [stack.enter_context(socket.socket()) for _ in range(20)]
        lowest = os.dup(0)
        os.close(lowest)
        with descriptors(lowest):
            for client in clients:
                client.connect(address)
            eventually(lambda: "accepting pauses" in caplog.messages)
            assert door.entered == []
            # Long enough for it to try, in vain, several times over.
            door.room.call(lambda: None)
            tries = door.acceptor._resume
            for _ in range(5):
                door.room.call(tries)
        eventually(lambda: len(door.entered) == 20)
        eventually(lambda: "accepting goes on" in caplog.messages)
    assert caplog.messages == ["accepting pauses", "accepting goes on"]
    assert door.registry.snapshot()["accept_pauses_total"].numbers == {(): 1}
