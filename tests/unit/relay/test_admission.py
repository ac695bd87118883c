"""A tunnel of a client that the data plane admitted: its admission is given back with its end."""

from __future__ import annotations

import contextlib
import os
import socket
from array import array
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.dataplane import DataPlane, Forwarding, Limits, Pair
from egress_router.relay.tunnel import Closing, Relay
from tests.serving import listening
from tests.unit.relay.relay_thread import pair as connected_pair
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.relay.news import Arrival, End
    from tests.unit.relay.relay_thread import RelayThread


class Acceptor(Forwarding):
    """Hands clients over, as many as the limit lets in."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self.inside: list[tuple[Pair, int]] = []
        self.outside = 0

    def accepted(self, arrival: Arrival) -> None:
        assert arrival.early == b""
        self.inside.append((arrival.admission, arrival.descriptor))

    def ended(self, end: End) -> None:
        os.close(end.given)
        self.outside += 1


class Proxy:
    """Lets one client in, and makes a tunnel of it."""

    def __init__(self, relay_thread: RelayThread) -> None:
        self.relay_thread = relay_thread
        self.counts = memoryview(array("i", [0]))
        limits = Limits(1, possible=9, maximum_per_client=1, counts=self.counts, slot=0)
        self.plane = relay_thread.call(lambda: DataPlane(relay_thread.loop, limits))
        self.acceptor = Acceptor()
        self.listener = listening()
        self.address = ("127.0.0.1", self.listener.getsockname()[1])
        relay_thread.call(lambda: self.plane.listen(self.listener, self.acceptor))
        self.closings: list[Closing] = []
        self.client = socket.create_connection(self.address, WAIT_SECONDS)
        until(lambda: self.acceptor.inside)
        self.admission, descriptor = self.acceptor.inside.pop()
        inner, self.server = connected_pair()
        inner.setblocking(False)
        taken = socket.socket(fileno=descriptor)
        relay = Relay(self.plane, relay_thread.poller)
        self.tunnel = relay_thread.call(
            lambda: relay.start(
                taken, inner, 60.0, self.closings.append, to_client=b"hi", admission=self.admission
            )
        )
        assert self.client.recv(2) == b"hi"

    def close(self) -> None:
        self.relay_thread.call(lambda: self.plane.stop_listening(self.listener))
        self.relay_thread.call(lambda: self.plane.close([self.acceptor]))
        self.client.close()
        self.server.close()


@pytest.fixture
def proxy(relay_thread: RelayThread) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(relay_thread)) as made:
        yield made


def test_an_admission_is_given_back_before_python_hears_of_the_end(proxy: Proxy) -> None:
    assert proxy.counts[0] == 1

    def end_while_python_is_busy() -> None:
        proxy.client.close()
        proxy.server.close()
        until(lambda: proxy.counts[0] == 0)
        assert proxy.closings == []
        with socket.create_connection(proxy.address, WAIT_SECONDS):
            until(lambda: proxy.counts[0] == 1)

    proxy.relay_thread.call(end_while_python_is_busy)
    until(lambda: len(proxy.closings) == 1)
    assert proxy.acceptor.outside == 0
    for admission, descriptor in proxy.acceptor.inside:
        os.close(descriptor)
        proxy.relay_thread.call(lambda admission=admission: proxy.plane.cut(admission))  # type: ignore[misc]


def test_to_give_it_back_once_more_does_nothing(proxy: Proxy) -> None:
    proxy.relay_thread.call(proxy.tunnel.close)
    until(lambda: len(proxy.closings) == 1)
    proxy.relay_thread.call(lambda: proxy.plane.cut(proxy.admission))
    proxy.relay_thread.call(proxy.plane.catch_up)
    assert proxy.counts[0] == 0
    assert proxy.plane.open_connections() == 0


def test_an_admission_that_is_given_back_first_leaves_the_tunnel_alone(proxy: Proxy) -> None:
    proxy.relay_thread.call(lambda: proxy.plane.cut(proxy.admission))
    until(lambda: proxy.counts[0] == 0)
    proxy.server.sendall(b"still there")
    assert proxy.client.recv(11) == b"still there"
    proxy.client.close()
    proxy.server.close()
    until(lambda: len(proxy.closings) == 1)
    assert proxy.counts[0] == 0


def test_an_admission_that_is_gone_before_its_tunnel_begins_is_no_matter(
    proxy: Proxy, relay_thread: RelayThread
) -> None:
    proxy.relay_thread.call(lambda: proxy.plane.cut(proxy.admission))
    until(lambda: proxy.counts[0] == 0)
    proxy.relay_thread.call(proxy.plane.catch_up)
    ends = [connected_pair() for _ in range(2)]
    for near, _ in ends:
        near.setblocking(False)
    relay = Relay(proxy.plane, relay_thread.poller)
    closings: list[Closing] = []
    proxy.relay_thread.call(
        lambda: relay.start(
            ends[0][0], ends[1][0], 60.0, closings.append, to_client=b"x", admission=proxy.admission
        )
    )
    assert ends[0][1].recv(1) == b"x"
    for _, far in ends:
        far.close()
    until(lambda: len(closings) == 1)
