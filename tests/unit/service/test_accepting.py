from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from array import array
from functools import partial
from typing import TYPE_CHECKING

import pytest

from egress_router.metrics import Registry
from egress_router.relay.dataplane import DataPlane, Forwarding, Limits, Pair
from egress_router.service.accept_pauses import AcceptPauses
from tests.serving import LOOPS, listening
from tests.unit.relay.relay_thread import RelayThread
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.relay.news import Arrival, End


class Acceptor(Forwarding):
    """A port whose connections are handed over."""

    def __init__(self, accepting: AcceptingPlane, port: int) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self.accepting = accepting
        self.port = port

    def accepted(self, arrival: Arrival) -> None:
        family, kind = socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        sock = socket.socket(family, kind, 0, arrival.descriptor)
        self.accepting.entered.append((sock, *arrival.client, self.port))
        self.accepting.early += arrival.early
        self.accepting.places.append(arrival.admission)

    def ended(self, end: End) -> None:
        os.close(end.given)
        self.accepting.turned_away.append(end.reason)


class AcceptingPlane:
    """A data plane that hands over what it accepts."""

    def __init__(self, relay_thread: RelayThread, limits: Limits | None = None) -> None:
        self.relay_thread = relay_thread
        self.registry = Registry()
        self.entered: list[tuple[socket.socket, str, int, int]] = []
        self.places: list[Pair] = []
        self.early = b""
        self.turned_away: list[int] = []
        self.plane = relay_thread.call(lambda: DataPlane(relay_thread.loop, limits))
        self.plane.tell_pauses(AcceptPauses(self.registry))

    def listen(self, **listeners: socket.socket) -> None:
        by_port = {int(name.removeprefix("p")): each for name, each in listeners.items()}
        self.relay_thread.call(lambda: self.plane.listen_on(by_port, partial(Acceptor, self)))

    def stop(self) -> None:
        """To be called in the loop."""
        self.plane.listen_on({}, partial(Acceptor, self))
        self.plane.catch_up()

    def close(self) -> None:
        self.relay_thread.call(self.stop)
        self.relay_thread.call(self.plane.close)
        for sock, *_ in self.entered:
            sock.close()
        self.relay_thread.close()


@pytest.fixture(params=sorted(LOOPS))
def accepting(request: pytest.FixtureRequest) -> Iterator[AcceptingPlane]:
    made = AcceptingPlane(RelayThread(*LOOPS[request.param]()))
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
def test_a_connection_comes_ready_for_the_relay(accepting: AcceptingPlane, host: str) -> None:
    listener = listening()
    accepting.listen(p8080=listener)
    with socket.create_connection((host, port_of(listener))) as peer:
        until(lambda: accepting.entered)
        sock, client, client_port, port = accepting.entered[0]
        assert (client, client_port, port) == (host, peer.getsockname()[1], 8080)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_ports_come_and_go_without_touching_the_others(accepting: AcceptingPlane) -> None:
    first, second, third = listening(), listening(), listening()
    ports = [port_of(each) for each in (first, second, third)]
    accepting.listen(p1=first, p2=second)
    accepting.listen(p2=second, p3=third)
    assert first.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    for port in ports[1:]:
        socket.create_connection(("127.0.0.1", port)).close()
    until(lambda: [port for *_, port in accepting.entered] == [2, 3])


def test_a_new_socket_for_a_known_port_replaces_the_old_one(accepting: AcceptingPlane) -> None:
    old, new = listening(), listening()
    port = port_of(new)
    accepting.listen(p1=old)
    accepting.listen(p1=new)
    assert old.fileno() == -1
    with socket.create_connection(("127.0.0.1", port)):
        until(lambda: accepting.entered)


def test_stopping_takes_in_those_who_wait_at_the_door(accepting: AcceptingPlane) -> None:
    listener = listening()
    address = ("127.0.0.1", port_of(listener))
    with contextlib.ExitStack() as stack:

        def knock_and_stop() -> None:
            # Inside the loop's turn: nothing can be accepted in between.
            for _ in range(100):
                stack.enter_context(socket.create_connection(address))
            accepting.stop()

        accepting.listen(p1=listener)
        accepting.relay_thread.call(knock_and_stop)
        assert len(accepting.entered) == 100
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_exhausted_descriptors_pause_accepting_with_one_line(
    accepting: AcceptingPlane, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listening()
    address = ("127.0.0.1", port_of(listener))
    accepting.listen(p1=listener)
    with contextlib.ExitStack() as stack, caplog.at_level(logging.INFO):
        clients = [stack.enter_context(socket.socket()) for _ in range(20)]
        lowest = os.dup(0)
        os.close(lowest)
        with descriptors(lowest):
            for client in clients:
                client.connect(address)
            until(lambda: "accepting pauses" in caplog.messages)
            assert accepting.entered == []
        until(lambda: len(accepting.entered) == 20)
        until(lambda: "accepting goes on" in caplog.messages)
    assert caplog.messages == ["accepting pauses", "accepting goes on"]
    assert accepting.registry.snapshot()["accept_pauses_total"].numbers == {(): 1}


def test_what_has_come_already_comes_with_the_socket(accepting: AcceptingPlane) -> None:
    listener = listening()
    address = ("127.0.0.1", port_of(listener))
    with socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1")
        accepting.listen(p1=listener)
        until(lambda: accepting.entered)
        assert accepting.early == b"GET / HTTP/1.1"


def test_a_place_is_kept_until_it_is_given_back() -> None:
    counts = memoryview(array("i", [0]))
    with contextlib.closing(
        AcceptingPlane(RelayThread(*LOOPS["own"]()), Limits(1, 1, None, counts, 0))
    ) as accepting:
        listener = listening()
        address = ("127.0.0.1", port_of(listener))
        accepting.listen(p1=listener)
        with socket.create_connection(address), socket.create_connection(address):
            until(lambda: (len(accepting.entered), accepting.turned_away) == (1, [12]))
        accepting.entered[0][0].close()
        assert counts[0] == 1
        accepting.relay_thread.call(lambda: accepting.plane.cut(accepting.places[0]))
        until(lambda: counts[0] == 0)
        with socket.create_connection(address):
            until(lambda: len(accepting.entered) == 2)
