"""What tunnels carry: every byte, both ways, half-closed, in bulk and urgent."""

from __future__ import annotations

import contextlib
import hashlib
import random
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.tunnel import CloseReason
from tests.unit.relay.relay_thread import RelayThread, pair
from tests.unit.relay.streams import MIB, read_all, read_exactly, stuff
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator


def noise(seed: int, count: int) -> Iterator[bytes]:
    source = random.Random(seed)
    while count:
        part = source.randbytes(min(count, source.randrange(1, 300_000)))
        count -= len(part)
        yield part


@contextlib.contextmanager
def sending(sock: socket.socket, parts: Iterator[bytes], *, end: bool = True) -> Iterator[None]:
    def send() -> None:
        for part in parts:
            sock.sendall(part)
        if end:
            sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def digest(sock: socket.socket) -> tuple[int, str]:
    seen = hashlib.blake2b()
    count = 0
    while part := sock.recv(MIB):
        seen.update(part)
        count += len(part)
    return count, seen.hexdigest()


def expected(seed: int, count: int) -> tuple[int, str]:
    return count, hashlib.blake2b(b"".join(noise(seed, count))).hexdigest()


def test_bytes_go_both_ways_and_are_counted(relay_thread: RelayThread) -> None:
    client, server, tunnel = relay_thread.tunnel()
    client.sendall(b"question")
    assert read_exactly(server, 8) == b"question"
    server.sendall(b"the answer")
    assert read_exactly(client, 10) == b"the answer"
    relay_thread.call(relay_thread.registry.snapshot)
    assert relay_thread.call(lambda: (tunnel.sent, tunnel.received)) == (8, 10)
    assert (relay_thread.sent.value, relay_thread.received.value) == (8, 10)
    client.close()
    assert server.recv(1) == b""
    server.close()
    closing = relay_thread.closing()
    assert (closing.reason, closing.sent, closing.received) == (CloseReason.FINISHED, 8, 10)
    assert closing.seconds >= 0


def test_what_was_read_before_the_tunnel_goes_first(relay_thread: RelayThread) -> None:
    client, server, _ = relay_thread.tunnel(to_upstream=b"head ", to_client=b"greeting ")
    client.sendall(b"body")
    server.sendall(b"rest")
    assert read_exactly(server, 9) == b"head body"
    assert read_exactly(client, 13) == b"greeting rest"


def test_the_end_behind_the_last_bytes_is_passed_on(relay_thread: RelayThread) -> None:
    for _ in range(50):
        client, server, _ = relay_thread.tunnel()
        server.sendall(b"all of the answer")
        server.close()
        assert read_all(client) == b"all of the answer"
        client.close()


def test_half_close_lets_the_answer_through(relay_thread: RelayThread) -> None:
    client, server, _ = relay_thread.tunnel()
    client.sendall(b"all I have to say")
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b"all I have to say"
    server.sendall(b"a late answer")
    assert read_exactly(client, 13) == b"a late answer"
    server.close()
    assert client.recv(1) == b""
    assert relay_thread.closing().reason is CloseReason.FINISHED


def test_the_upstream_may_half_close_first(relay_thread: RelayThread) -> None:
    client, server, _ = relay_thread.tunnel()
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.sendall(b"still here")
    client.close()
    assert read_all(server) == b"still here"
    assert relay_thread.closing().reason is CloseReason.FINISHED


@pytest.mark.parametrize("megabytes", [1, 50])
def test_both_ways_at_once_byte_for_byte(relay_thread: RelayThread, megabytes: int) -> None:
    client, server, _ = relay_thread.tunnel()
    count = megabytes * MIB
    answers: list[tuple[int, str]] = []
    with sending(client, noise(1, count)), sending(server, noise(2, count)):
        reader = threading.Thread(target=lambda: answers.append(digest(server)))
        reader.start()
        assert digest(client) == expected(2, count)
        reader.join(WAIT_SECONDS)
    assert answers == [expected(1, count)]
    closing = relay_thread.closing()
    assert (closing.reason, closing.sent, closing.received) == (CloseReason.FINISHED, count, count)


def test_a_slow_reader_stops_the_writer_and_gets_everything(relay_thread: RelayThread) -> None:
    client, server, tunnel = relay_thread.tunnel()
    sent = 0

    def is_stopped() -> bool:
        nonlocal sent
        sent += stuff(server)
        return relay_thread.call(lambda: tunnel.received) < sent

    until(is_stopped)
    # What the writer got rid of sits in kernel buffers and at most one pipe, whose size does not grow.
    assert sent < 64 * MIB
    server.shutdown(socket.SHUT_WR)
    assert len(read_all(client)) == sent
    client.close()
    assert relay_thread.closing().received == sent


def test_messages_after_a_bulk_transfer_arrive_at_once(relay_thread: RelayThread) -> None:
    """After bulk, small messages are copied again; none may be left in a pipe."""
    client, server, _ = relay_thread.tunnel()
    for size in (3 * MIB, 1, 100, 2 * MIB, 5):
        sender = threading.Thread(target=server.sendall, args=(b"y" * size,))
        sender.start()
        assert len(read_exactly(client, size)) == size
        sender.join()
    until(lambda: relay_thread.plane.pipes_lent == 0)


def test_urgent_data_does_not_stall_what_follows(relay_thread: RelayThread) -> None:
    """Often enough that bytes before and behind the urgent mark also come with one edge."""
    client, server, _ = relay_thread.tunnel()
    for _ in range(200):
        client.sendall(b"abc")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"def")
        assert read_exactly(server, 6) == b"abcdef"


def test_urgent_data_in_the_middle_of_bulk_stalls_and_cuts_nothing(relay_thread: RelayThread) -> None:
    """splice(2) does not get past an urgent mark, and takes it for the end if the end is behind it."""
    for _ in range(5):
        client, server, _ = relay_thread.tunnel()

        def send() -> None:
            client.sendall(b"a" * (5 * MIB))  # noqa: B023
            client.send(b"!", socket.MSG_OOB)  # noqa: B023
            client.sendall(b"b" * (5 * MIB))  # noqa: B023
            client.shutdown(socket.SHUT_WR)  # noqa: B023

        sender = threading.Thread(target=send)
        sender.start()
        assert len(read_all(server)) == 10 * MIB
        sender.join(WAIT_SECONDS)


def test_sockets_that_are_watched_already_are_taken_over(relay_thread: RelayThread) -> None:
    client, inner_client = pair()
    inner_server, server = pair()
    edges: list[int] = []
    for sock in (inner_client, inner_server):
        sock.setblocking(False)
    relay_thread.call(lambda: relay_thread.poller.add(inner_client.fileno(), edges.append))
    client.sendall(b"seen before the tunnel")
    until(lambda: edges and edges[-1] & select.EPOLLIN)
    tunnel = relay_thread.call(
        lambda: relay_thread.relay.start(inner_client, inner_server, 60, relay_thread.closings.append)
    )
    assert read_exactly(server, 22) == b"seen before the tunnel"
    relay_thread.call(tunnel.close)
    client.close()
    server.close()


def test_one_bulk_tunnel_leaves_turns_to_the_others(relay_thread: RelayThread) -> None:
    bulk_client, bulk_server, _ = relay_thread.tunnel()
    client, server, _ = relay_thread.tunnel()
    stop = threading.Event()

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                bulk_server.sendall(b"b" * MIB)

    def swallow() -> None:
        with contextlib.suppress(OSError):
            while bulk_client.recv(MIB):
                pass

    threads = [threading.Thread(target=flood), threading.Thread(target=swallow)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        client.sendall(b"ping")
        assert read_exactly(server, 4) == b"ping"
    stop.set()
    threads[0].join(WAIT_SECONDS)
    bulk_server.close()
    threads[1].join(WAIT_SECONDS)


def test_hundreds_of_short_connections(relay_thread: RelayThread) -> None:
    for _ in range(500):
        client, server, _ = relay_thread.tunnel()
        client.sendall(b"q")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"q"
        server.sendall(b"a")
        server.close()
        assert read_all(client) == b"a"
        client.close()
    until(lambda: len(relay_thread.closings) == 500)
    assert {closing.reason for closing in relay_thread.closings} == {CloseReason.FINISHED}
