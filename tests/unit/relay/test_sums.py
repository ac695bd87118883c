"""Connections of which nobody wants a record: added up where they are served, told as one."""

from __future__ import annotations

import contextlib
import socket
from array import array
from typing import TYPE_CHECKING

import pytest

from egress_router.metrics import DURATION_BUCKETS, LATENCY_BUCKETS
from egress_router.relay.dataplane import Limits
from tests.unit.relay.lines import FULL, NO_ADDRESS, Line, Router
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import Target
    from egress_router.relay.news import Sums
    from tests.unit.relay.relay_thread import RelayThread

TROUBLED = 3  # of plane.h


class Silent(Line):
    def __init__(self, connect_seconds: float = 10.0) -> None:
        super().__init__(connect_seconds, tells=False)
        self.sums: list[Sums] = []
        self.answers: list[tuple[str, int]] = []

    def summed(self, sums: Sums) -> None:
        self.sums.append(sums)

    def answered(self, target: Target, count: int) -> None:
        self.answers.append((str(target[0]), count))

    def connects(self) -> int:
        return sum(sum(each.connects[0]) for each in self.sums)

    def lives(self) -> int:
        return sum(sum(each.lives[0]) for each in self.sums)

    def first_bytes(self) -> int:
        return sum(sum(each.first_bytes[0]) for each in self.sums)

    def refused(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for reason, count in (each for sums in self.sums for each in sums.refused):
            found[reason] = found.get(reason, 0) + count
        return found


@pytest.fixture
def router(relay_thread: RelayThread) -> Iterator[Router]:
    with contextlib.closing(Router(relay_thread)) as made:
        yield made


def exchange(router: Router, host: str) -> None:
    with router.client() as client:
        client.sendall(b"question")
        server, _ = router.servers[host].accept()
        with server:
            assert server.recv(8) == b"question"
            server.sendall(b"answer")
        assert client.recv(6) == b"answer"
        assert client.recv(1) == b""


def test_a_line_that_does_not_tell_adds_up(router: Router) -> None:
    line = Silent()
    router.listen(line, "127.0.0.1")
    for _ in range(20):
        exchange(router, "127.0.0.1")
    router.relay_thread.call(router.plane.catch_up)
    until(lambda: line.lives() == 20)
    assert (line.heard, line.ends) == ([], [])
    assert line.connects() == 20
    assert line.first_bytes() == 20
    assert sum(each.sent for each in line.sums) == 20 * len("question")
    assert sum(each.received for each in line.sums) == 20 * len("answer")
    assert {host for host, _ in line.answers} == {"127.0.0.1"}
    assert sum(count for _, count in line.answers) == 20
    for sums in line.sums:
        assert len(sums.connects[0]) == len(LATENCY_BUCKETS) + 1
        assert len(sums.lives[0]) == len(DURATION_BUCKETS) + 1
        assert 0 <= sums.connects[1] < 10
        assert sums.refused == []


def test_many_short_connections_are_few_records(router: Router) -> None:
    """However many end between two reads of Python: they are one record."""
    line = Silent()
    router.listen(line, "127.0.0.1")
    accepting = [router.client() for _ in range(100)]

    def busy() -> None:  # Python's loop does nothing else meanwhile
        for each in accepting:
            each.close()
            router.servers["127.0.0.1"].accept()[0].close()
        until(lambda: router.plane.open_connections() == 0)

    router.relay_thread.call(busy)
    until(lambda: line.lives() == 100)
    assert line.first_bytes() == 0, "a destination said nothing"
    assert len(line.sums) <= 3


def test_an_address_that_failed_is_told_of_until_it_is_like_the_others(router: Router) -> None:
    """Health is counted in the order in which things happened."""
    line = Silent()
    router.listen(line, "127.0.0.1", "127.0.0.2", good=1)
    router.servers.pop("127.0.0.1").close()
    assert router.served_by() == "127.0.0.2"
    until(lambda: len(line.ends) == 1)
    assert [len(failures) for _, _, failures in line.heard] == [1]
    assert line.sums == []
    router.relay_thread.call(lambda: router.plane.aim(line, router.targets("127.0.0.2"), 1))
    assert router.served_by() == "127.0.0.2"
    until(lambda: line.lives() == 1)
    assert len(line.heard) == 1


def test_successes_after_a_failure_are_told_one_by_one(router: Router) -> None:
    line = Silent()
    router.listen(line, "127.0.0.1")
    address = router.servers["127.0.0.1"].getsockname()
    router.servers.pop("127.0.0.1").close()
    assert router.client().recv(1) == b""
    until(lambda: len(line.ends) == 1)
    with socket.create_server(address) as server:
        router.servers["127.0.0.1"] = server
        for number in range(TROUBLED):
            exchange(router, "127.0.0.1")
            until(lambda: len(line.ends) == 2 + number)  # noqa: B023
        assert len(line.heard) == TROUBLED
        assert line.sums == []
        exchange(router, "127.0.0.1")
        until(lambda: line.lives() == 1)
        assert len(line.heard) == TROUBLED


def test_refusals_are_added_up_by_reason(relay_thread: RelayThread) -> None:
    limits = Limits(1, possible=5, maximum_per_client=None, counts=memoryview(array("i", [0])), slot=0)
    with contextlib.closing(Router(relay_thread, limits)) as router:
        line = Silent()
        router.listen(line)
        waiting = router.client()
        until(lambda: line.asked == 1)
        for _ in range(3):
            assert router.client().recv(1) == b""
        router.relay_thread.call(lambda: router.plane.aim(line, (), 0))
        assert waiting.recv(1) == b""
        until(lambda: line.refused() == {FULL: 3, NO_ADDRESS: 1})
        assert line.connects() == line.lives() == 0
        assert line.ends == []


def test_what_was_not_read_yet_is_told_at_the_end(relay_thread: RelayThread) -> None:
    limits = Limits(9, possible=9, maximum_per_client=None, counts=memoryview(array("i", [0])), slot=0)
    with contextlib.closing(Router(relay_thread, limits)) as router:
        line = Silent()
        router.listen(line, "127.0.0.1")
        client = router.client()
        with router.servers["127.0.0.1"].accept()[0]:
            router.relay_thread.call(lambda: router.plane.close([line]))
            assert (line.connects(), line.lives()) == (1, 1)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
