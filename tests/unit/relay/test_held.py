"""What all connections together hold for readers that are slow."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import socket
import termios
import threading
from typing import TYPE_CHECKING

from egress_router.relay.dataplane import Forwarding
from egress_router.relay.tunnel import CloseReason
from tests.serving import LOOPS, listening
from tests.unit.relay.relay_thread import RelayThread
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.relay.news import Arrival

CHUNK = 65_536
BODY = b"".join(hashlib.blake2b(str(number).encode()).digest() for number in range(16_000))


@contextlib.contextmanager
def relaying(most_held: int) -> Iterator[RelayThread]:
    with contextlib.closing(RelayThread(*LOOPS["own"](), most_held=most_held)) as relay_thread:
        yield relay_thread


def overflows(relay_thread: RelayThread) -> float:
    family = relay_thread.call(relay_thread.registry.snapshot)["limit_hits_total"]
    return family.numbers[("limit", "relay_bytes"),]


def send(sock: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=sock.sendall, args=(BODY,))
    thread.start()
    return thread


def received(sock: socket.socket) -> bytes:
    parts = bytearray()
    while len(parts) < len(BODY):
        part = sock.recv(CHUNK)
        assert part
        parts += part
    return bytes(parts)


def test_what_waits_for_slow_readers_is_bounded_in_all_and_nothing_is_lost() -> None:
    most = 4 * CHUNK
    with relaying(most) as relay_thread:
        tunnels = [relay_thread.tunnel(send_buffer=4096) for _ in range(20)]
        senders = [send(each) for client, server, _ in tunnels for each in (client, server)]
        until(lambda: overflows(relay_thread) >= 20)
        assert relay_thread.call(lambda: relay_thread.plane.held) < most + CHUNK
        for client, server, _ in tunnels:
            assert received(server) == BODY
            assert received(client) == BODY
        for thread in senders:
            thread.join(WAIT_SECONDS)
        until(lambda: relay_thread.call(lambda: relay_thread.plane.held) == 0)


def test_the_end_of_a_stream_comes_after_what_was_left_with_its_source() -> None:
    with relaying(0) as relay_thread:
        client, server, _ = relay_thread.tunnel(send_buffer=4096)
        sender = send(client)
        until(lambda: overflows(relay_thread) >= 1)
        assert received(server) == BODY
        sender.join(WAIT_SECONDS)
        client.close()
        assert server.recv(1) == b""
        server.close()
        closing = relay_thread.closing()
        assert (closing.reason, closing.sent) == (CloseReason.FINISHED, len(BODY))


def fill(relay_thread: RelayThread, sock: socket.socket) -> int:
    """Send until neither this kernel nor the relay takes more; return how much that was."""
    sent = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(BODY)
            select.select([], [sock], [], 0.1)  # longer than an acknowledgement is delayed
            relay_thread.call(relay_thread.plane.settle)
            relay_thread.call(relay_thread.plane.settle)  # what came before the first one is done now
    sock.settimeout(WAIT_SECONDS)
    return sent


def test_a_direction_that_is_held_back_is_counted_once_until_its_sink_has_taken_all() -> None:
    with relaying(0) as relay_thread:
        client, server, _ = relay_thread.tunnel(send_buffer=4096)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # more would be bulk: it has a pipe
        left = fill(relay_thread, client)
        begun = overflows(relay_thread)
        assert begun >= 1
        for _ in range(3):
            before = relay_thread.sent.value
            while relay_thread.sent.value == before:
                left -= len(server.recv(1024))
                relay_thread.call(relay_thread.plane.catch_up)
        assert overflows(relay_thread) == begun

        def is_held_back_again() -> bool:
            nonlocal left
            while left:
                left -= len(server.recv(CHUNK))
            client.send(b"a pause ends bulk")
            assert server.recv(CHUNK)
            left = fill(relay_thread, client)
            return overflows(relay_thread) > begun

        until(is_held_back_again)  # on a busy machine the next bytes may be bulk, too, and go through a pipe


def test_a_tunnel_whose_first_bytes_nobody_takes_ends_where_too_much_is_held() -> None:
    with relaying(CHUNK) as relay_thread:
        relay_thread.tunnel(send_buffer=4096, to_upstream=BODY)
        until(lambda: relay_thread.closings)
        assert relay_thread.closing().reason is CloseReason.CLOSED
        assert overflows(relay_thread) == 1
        until(lambda: relay_thread.call(lambda: relay_thread.plane.held) == 0)


def test_urgent_data_passes_where_too_much_is_held() -> None:
    with relaying(0) as relay_thread:
        client, server, _ = relay_thread.tunnel()
        client.send(b"ab")
        client.send(b"!", 1)  # MSG_OOB
        client.sendall(b"cd")
        parts = b""
        while len(parts) < 4:
            parts += server.recv(10)
        assert parts.replace(b"!", b"") == b"abcd"


class Acceptor(Forwarding):
    """Keeps the clients that are handed over."""

    def __init__(self) -> None:
        super().__init__(0.0, 0.0, 0, False, True)
        self.arrivals: list[Arrival] = []

    def accepted(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)


def has_arrived(sock: socket.socket) -> bool:
    """Say whether the other side's kernel has acknowledged everything (tcp(7), SIOCOUTQ)."""
    return fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)) == bytes(4)


def test_what_python_was_given_is_not_held_any_more() -> None:
    """The connection may stay open for hours, and the bytes that came with it are Python's."""
    with relaying(1 << 60) as relay_thread:
        plane, acceptor, listener = relay_thread.plane, Acceptor(), listening()
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), WAIT_SECONDS) as client:
            client.sendall(b"early")
            until(lambda: has_arrived(client))
            relay_thread.call(lambda: plane.listen(listener, acceptor))
            until(lambda: acceptor.arrivals)
            (arrival,) = acceptor.arrivals
            assert arrival.early == b"early"
            assert relay_thread.call(lambda: plane.held) == 0
            assert plane.open_connections() == 1
        os.close(arrival.descriptor)
        relay_thread.call(lambda: plane.cut(arrival.admission))
        relay_thread.call(lambda: plane.stop_listening(listener))
        relay_thread.call(lambda: plane.release_line(acceptor))
