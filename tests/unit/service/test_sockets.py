from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.errors import RefusedError
from egress_router.service import limits, sockets
from tests.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def listening(
    workers: int, *, by_client: bool = False, bind: sockets.Bind = sockets.bound_to
) -> Iterator[sockets.Listening]:
    made = sockets.Listening(workers, by_client=by_client, bind=bind)
    try:
        yield made
    finally:
        made.close()


def connect(port: int, source: str) -> None:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family) as client:
        client.bind((source, 0))
        client.connect(("::1" if ":" in source else "127.0.0.1", port))


def waiting(listener: socket.socket) -> int:
    """Accept and count what waits in an accept queue."""
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def taken(made: sockets.Listening, port: int, workers: int, expected: int) -> list[int]:
    """Accept for each worker until `expected` came: a client is connected a moment before it can be accepted."""
    counts = [0] * workers

    def all_came() -> bool:
        for index in range(workers):
            counts[index] += waiting(made.of_worker(index)[port])
        return sum(counts) >= expected

    until(all_came, f"{expected} connections")
    return counts


@pytest.mark.parametrize("workers", [1, 3])
def test_every_worker_has_a_queue_and_both_families_come_in(workers: int) -> None:
    port = free_port()
    with listening(workers) as made:
        assert made.change(frozenset({port})) == {port}
        for number in range(30):
            connect(port, f"127.0.0.{number % 5 + 1}")
        connect(port, "::1")
        assert sum(taken(made, port, workers, 31)) == 31


def test_by_client_all_connections_of_an_address_come_to_one_worker() -> None:
    port = free_port()
    with listening(4, by_client=True) as made:
        made.change(frozenset({port}))
        used = set()
        for source in [f"127.0.0.{number}" for number in range(1, 9)] + ["::1"]:
            for _ in range(5):
                connect(port, source)
            counts = taken(made, port, 4, 5)
            assert sorted(counts) == [0, 0, 0, 5], f"{source} is spread: {counts}"
            used.add(counts.index(5))
        assert used == {0, 1, 2, 3}


def test_a_change_is_whole_or_not_at_all() -> None:
    first, second, taken = free_port(), free_port(), free_port()
    with listening(2) as made, socket.create_server(("127.0.0.1", taken)):
        made.change(frozenset({first}))
        with pytest.raises(RefusedError, match=f"port {taken} .Address already in use"):
            made.change(frozenset({second, taken}))
        connect(first, "127.0.0.1")
        with pytest.raises(ConnectionRefusedError):
            connect(second, "127.0.0.1")
        assert made.change(frozenset({second})) == {second}
        with pytest.raises(ConnectionRefusedError):
            connect(first, "127.0.0.1")


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_it_listens_on_ipv4(missing: int) -> None:
    def without_ipv6(family: socket.AddressFamily, host: str, port: int, *, shared: bool) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(missing, "no IPv6")
        return sockets.bound_to(family, host, port, shared=shared)

    port = free_port()
    with listening(2, bind=without_ipv6) as made:
        made.change(frozenset({port}))
        connect(port, "127.0.0.1")


@pytest.mark.parametrize(
    ("wanted", "workers", "descriptors", "expected"),
    [
        (10_000, 1, 1_048_576, 524_223),
        (10_000, 2, 20_130, 10_000),
        (10_000, 1, 1024, 447),
        (10_000, 1, 10, 1),
    ],
)
def test_the_connection_limit_follows_from_the_descriptors(
    wanted: int, workers: int, descriptors: int, expected: int
) -> None:
    assert limits.connections(wanted, workers, descriptors, ports=2) == expected
