from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.dial import Dial, DialError, Dialled, DialReason
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from egress_router.grammar.address import IPAddress
    from tests.unit.relay.relay_thread import RelayThread

Target = tuple["IPAddress", int]
MAX_AT_ONCE = 6
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python has no name for it


@contextlib.contextmanager
def answering(host: str = "127.0.0.1") -> Iterator[Target]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        yield ip_address(host), server.getsockname()[1]


@contextlib.contextmanager
def silent() -> Iterator[Target]:
    """A target whose accept queue is full, so that the kernel drops new connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield ip_address("127.0.0.1"), address[1]


@contextlib.contextmanager
def refusing() -> Iterator[Target]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield ip_address("127.0.0.1"), bound.getsockname()[1]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def result_of(
    relay_thread: RelayThread,
    targets: list[Target],
    seconds: float = 10.0,
    stagger: float = 0.05,
    sources: Sequence[IPAddress | None] = (),
) -> Dialled | DialError:
    results: list[Dialled | DialError] = []
    keep = relay_thread.call(
        lambda: Dial(relay_thread.plane, targets, seconds, results.append, stagger, sources)
    )
    until(lambda: results)
    assert len(results) == 1
    relay_thread.call(keep.cancel)
    return results[0]


def connection_of(relay_thread: RelayThread, targets: list[Target], seconds: float = 10.0) -> Dialled:
    result = result_of(relay_thread, targets, seconds)
    assert isinstance(result, Dialled)
    result.sock.close()
    return result


def error_of(relay_thread: RelayThread, targets: list[Target], seconds: float = 10.0) -> DialError:
    result = result_of(relay_thread, targets, seconds)
    assert isinstance(result, DialError)
    return result


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_is_ready_for_the_relay(relay_thread: RelayThread, host: str) -> None:
    with answering(host) as target:
        result = result_of(relay_thread, [target])
        assert isinstance(result, Dialled)
        with result.sock as sock:
            assert (result.address, result.port) == target == (ip_address(host), sock.getpeername()[1])
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert result.failures == ()
            assert 0 <= result.seconds < 10


def test_what_a_server_says_first_is_not_lost(relay_thread: RelayThread) -> None:
    """Whether it came before the connection was reported, before it was taken over, or after."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for late in (False, True):
            result = result_of(relay_thread, [(ip_address("127.0.0.1"), port)])
            assert isinstance(result, Dialled)
            with result.sock as sock, server.accept()[0] as peer:
                edges: list[int] = []
                if not late:
                    peer.sendall(b"220 ready")
                    assert select.select([sock], [], [], WAIT_SECONDS)[0]
                relay_thread.call(lambda: relay_thread.poller.add(sock.fileno(), edges.append))  # noqa: B023
                if late:
                    until(lambda: edges)  # noqa: B023
                    assert not any(each & select.EPOLLIN for each in edges)
                    peer.sendall(b"220 ready")
                until(lambda: any(each & select.EPOLLIN for each in edges))  # noqa: B023


def test_a_failure_moves_on_to_the_next_address_at_once(relay_thread: RelayThread) -> None:
    with refusing() as first, refusing() as second, answering() as third:
        result = result_of(relay_thread, [first, second, third], stagger=9.0)
        assert isinstance(result, Dialled)
        result.sock.close()
        assert result.port == third[1]
        assert [(each.port, each.reason) for each in result.failures] == [
            (first[1], DialReason.REFUSED),
            (second[1], DialReason.REFUSED),
        ]


def test_a_silent_address_costs_the_stagger_only(relay_thread: RelayThread) -> None:
    with silent() as first, answering() as second:
        result = connection_of(relay_thread, [first, second])
        assert result.port == second[1]
        assert 0.05 <= result.seconds < 5


def test_many_silent_addresses_hold_few_descriptors(relay_thread: RelayThread) -> None:
    with contextlib.ExitStack() as stack:
        silence = [stack.enter_context(silent()) for _ in range(MAX_AT_ONCE + 2)]
        last = stack.enter_context(answering())
        results: list[Dialled | DialError] = []
        most = 0

        def begin() -> Dial:
            return Dial(relay_thread.plane, [*silence, last], 10, results.append, 0.05)

        before = descriptors()
        relay_thread.call(begin)
        while not results:
            most = max(most, descriptors() - before)
        result = results[0]
        assert isinstance(result, Dialled)
        result.sock.close()
        assert result.port == last[1]
        assert [(each.port, each.reason) for each in result.failures] == [
            (port, DialReason.TIMEOUT) for _, port in silence[:3]
        ]
        assert most <= MAX_AT_ONCE


def test_an_earlier_attempt_may_still_win(relay_thread: RelayThread) -> None:
    """The first address answers late, when the second attempt has begun and hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as late, silent() as never:
        address = late.getsockname()
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        results: list[Dialled | DialError] = []
        targets = [(ip_address("127.0.0.1"), address[1]), never]
        relay_thread.call(lambda: Dial(relay_thread.plane, targets, 10, results.append, 0.02))
        for _ in fillers:
            late.accept()[0].close()
        until(lambda: results)
        assert isinstance(results[0], Dialled)
        assert results[0].port == address[1]
        results[0].sock.close()
        for filler in fillers:
            filler.close()


def test_every_address_refuses(relay_thread: RelayThread) -> None:
    with refusing() as first, refusing() as second:
        error = error_of(relay_thread, [first, second])
        assert error.reason is DialReason.REFUSED
        assert [each.port for each in error.failures] == [first[1], second[1]]
        assert f"127.0.0.1 port {first[1]} refused" in str(error)


def test_silence_everywhere_ends_in_time(relay_thread: RelayThread) -> None:
    with silent() as first, refusing() as second, silent() as third:
        begun = time.monotonic()
        error = error_of(relay_thread, [first, second, third], 1.0)
        assert time.monotonic() - begun >= 1.0
        assert error.reason is DialReason.TIMEOUT
        assert {(each.port, each.reason) for each in error.failures} == {
            (first[1], DialReason.TIMEOUT),
            (second[1], DialReason.REFUSED),
            (third[1], DialReason.TIMEOUT),
        }


def test_addresses_that_cannot_be_reached_fail_at_once(relay_thread: RelayThread) -> None:
    broadcast = (ip_address("255.255.255.255"), 9)
    assert error_of(relay_thread, [broadcast]).reason is DialReason.UNREACHABLE
    assert error_of(relay_thread, []).reason is DialReason.UNREACHABLE
    with answering() as target:
        assert connection_of(relay_thread, [broadcast, target]).port == target[1]


def test_no_descriptor_is_our_own_fault(relay_thread: RelayThread) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with answering() as target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            error = error_of(relay_thread, [target])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert error.reason is DialReason.NO_DESCRIPTOR


def test_a_cancelled_dial_calls_nobody(relay_thread: RelayThread) -> None:
    results: list[Dialled | DialError] = []

    def begin_and_cancel(target: Target) -> None:
        Dial(relay_thread.plane, [target], 0.05, results.append).cancel()

    with silent() as never, refusing() as closed, answering() as target:
        for each in (never, closed, (ip_address("255.255.255.255"), 9), target):
            relay_thread.call(lambda each=each: begin_and_cancel(each))  # type: ignore[misc]
        connection_of(relay_thread, [never, target])
    assert results == []


@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "127.0.0.9"), ("::1", "::1")])
def test_a_connection_leaves_with_its_source(relay_thread: RelayThread, host: str, source: str) -> None:
    with answering(host) as target:
        result = result_of(relay_thread, [target], sources=[ip_address(source)])
        assert isinstance(result, Dialled)
        with result.sock as sock:
            assert sock.getsockname()[0] == source
            assert sock.getsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) == 1


@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "203.0.113.9"), ("::1", "2001:db8::9")])
def test_a_source_that_is_not_held_fails_at_once_and_says_so(
    relay_thread: RelayThread, host: str, source: str
) -> None:
    with answering(host) as target:
        error = result_of(relay_thread, [target], sources=[ip_address(source)])
        assert isinstance(error, DialError)
        assert error.reason is DialReason.SOURCE_NOT_HELD
        assert [each.reason for each in error.failures] == [DialReason.SOURCE_NOT_HELD]
        result = result_of(relay_thread, [target, target], sources=[ip_address(source), None])
        assert isinstance(result, Dialled)
        result.sock.close()


def test_what_a_server_answers_says_more_than_a_source_that_is_not_held(relay_thread: RelayThread) -> None:
    with refusing() as target:
        error = result_of(relay_thread, [target, target], sources=[ip_address("203.0.113.9"), None])
        assert isinstance(error, DialError)
        assert error.reason is DialReason.REFUSED


@pytest.mark.parametrize("count", [1, 16])
def test_commands_do_not_wait_for_the_end_of_a_long_turn(relay_thread: RelayThread, count: int) -> None:
    """A single command waits for the end of its turn; 16 wake the thread at once; none is lost."""
    done: list[Dialled | DialError] = []
    with answering() as target:

        def long_turn() -> None:
            for _ in range(count):
                Dial(relay_thread.plane, [target], 10.0, done.append)
            if count > 1:
                until(lambda: connections_to(target) >= 1)

        relay_thread.call(long_turn)
        until(lambda: len(done) == count)
        for each in done:
            assert isinstance(each, Dialled)
            each.sock.close()


def connections_to(target: Target) -> int:
    """Return how many connections the kernel has made to a port of this machine."""
    at = f":{target[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[2].endswith(at) and row[3] == "01" for row in rows)
