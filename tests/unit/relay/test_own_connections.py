"""A connection that was dialled for Python and comes back to a port that Python serves is known again."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.dataplane import Forwarding
from egress_router.relay.dial import Dial, DialError, Dialled
from egress_router.relay.own_connections import save_first_packets
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.relay.news import Arrival
    from tests.unit.relay.relay_thread import RelayThread

FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


class Port(Forwarding):
    """Notes for each connection how often it has come back, and closes it."""

    def __init__(self, relay_thread: RelayThread, host: str) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self._relay_thread = relay_thread
        self._listener = socket.create_server((host, 0), family=FAMILIES[host])
        self._listener.setblocking(False)
        self.place = (ip_address(host), self._listener.getsockname()[1])
        self.turns: list[int] = []
        save_first_packets(self._listener)
        relay_thread.call(lambda: relay_thread.plane.listen(self._listener, self))

    def accepted(self, arrival: Arrival) -> None:
        with socket.socket(fileno=arrival.descriptor) as sock:
            self.turns.append(self._relay_thread.plane.turns(arrival.admission, sock))
        self._relay_thread.plane.cut(arrival.admission)

    def dial(self, turns: int | None) -> None:
        """Connect to this port, for a client whose own connection has come back `turns` times."""
        results: list[Dialled | DialError] = []
        plane, count = self._relay_thread.plane, len(self.turns)
        self._relay_thread.call(lambda: Dial(plane, [self.place], 10.0, results.append, turns=turns))
        until(lambda: results and len(self.turns) > count)
        (result,) = results
        assert isinstance(result, Dialled)
        result.sock.close()

    def close(self) -> None:
        self._relay_thread.call(lambda: self._relay_thread.plane.stop_listening(self._listener))
        self._relay_thread.call(lambda: self._relay_thread.plane.release_line(self))


@pytest.fixture(params=sorted(FAMILIES))
def port(request: pytest.FixtureRequest, relay_thread: RelayThread) -> Iterator[Port]:
    with contextlib.closing(Port(relay_thread, request.param)) as made:
        yield made


def test_a_connection_that_comes_back_is_known_again_and_others_are_not(port: Port) -> None:
    port.dial(None)
    port.dial(0)
    with socket.create_connection((str(port.place[0]), port.place[1])):
        until(lambda: len(port.turns) == 3)
    assert port.turns == [0, 1, 0]


def test_each_time_that_it_comes_back_is_counted(port: Port) -> None:
    port.dial(0)
    port.dial(1)
    port.dial(2)
    assert port.turns == [1, 2, 3]
