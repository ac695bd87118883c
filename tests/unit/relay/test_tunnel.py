from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.tunnel import CloseReason
from tests.serving import LOOPS
from tests.unit.relay.relay_thread import RelayThread, pair
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


def read_exactly(sock: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(count - len(parts))
        assert part, f"ended after {len(parts)} of {count} bytes"
        parts += part
    return bytes(parts)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def stuff(sock: socket.socket) -> int:
    """Send until nobody takes any more; return how much went."""
    sock.settimeout(0.3)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += sock.send(b"x" * 65536)
    sock.settimeout(WAIT_SECONDS)
    return sent


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


def test_pipes_come_back_from_tunnels_that_die_with_bytes_in_them(relay_thread: RelayThread) -> None:
    client, server, tunnel = relay_thread.tunnel()
    stuff(server)

    def bulk() -> bool:
        # The first bytes are copied: all that fits may have gone before it counts as bulk.
        read_exactly(client, MIB)
        stuff(server)
        return relay_thread.plane.pipes_lent == 1

    until(bulk)
    relay_thread.call(tunnel.close)
    until(lambda: relay_thread.plane.pipes_lent == 0)
    with pytest.raises(ConnectionResetError):
        read_all(client)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_reset_is_passed_on_as_a_reset(relay_thread: RelayThread, side: str) -> None:
    client, server, _ = relay_thread.tunnel()
    ends = {"client": client, "server": server}
    loser = ends.pop(side)
    (other,) = ends.values()
    loser.sendall(b"last words")
    assert read_exactly(other, 10) == b"last words"
    reset(loser)
    with pytest.raises(ConnectionResetError):
        other.recv(1)
    reason = CloseReason.CLIENT_RESET if side == "client" else CloseReason.UPSTREAM_RESET
    assert relay_thread.closing().reason is reason


def test_a_reset_after_a_half_close_is_noticed(relay_thread: RelayThread) -> None:
    client, server, _ = relay_thread.tunnel()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    reset(client)
    assert relay_thread.closing().reason is CloseReason.CLIENT_RESET
    # What a reset is called after the end of the stream (tcp(7)).
    until(lambda: server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE)


def test_a_reset_is_noticed_while_the_other_side_does_not_read(relay_thread: RelayThread) -> None:
    client, server, tunnel = relay_thread.tunnel()
    stuff(server)
    until(lambda: relay_thread.call(lambda: tunnel.received) > 0)
    reset(server)
    assert relay_thread.closing().reason is CloseReason.UPSTREAM_RESET
    with pytest.raises(ConnectionResetError):
        read_all(client)


def test_the_answer_of_a_server_that_refuses_half_way_arrives(relay_thread: RelayThread) -> None:
    """It answers and closes with the request unread, which resets the connection under the request."""
    client, server, _ = relay_thread.tunnel()
    client.sendall(b"z" * 100_000)
    until(lambda: server.recv(1, socket.MSG_PEEK))
    server.sendall(b"413 too large")
    server.close()
    assert read_exactly(client, 13) == b"413 too large"


def test_urgent_data_does_not_stall_what_follows(relay_thread: RelayThread) -> None:
    """Often enough that both sides of the urgent mark come with one edge, too."""
    client, server, _ = relay_thread.tunnel()
    for _ in range(200):
        client.sendall(b"abc")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"def")
        assert read_exactly(server, 6) == b"abcdef"


def test_urgent_data_in_the_middle_of_bulk_stalls_and_cuts_nothing(relay_thread: RelayThread) -> None:
    """splice(2) does not get past an urgent mark, and takes it for the end where that is behind it."""
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


def test_an_idle_tunnel_ends(relay_thread: RelayThread) -> None:
    client, server, _ = relay_thread.tunnel(idle=0.3, to_upstream=b"the last for long")
    assert read_exactly(server, 17) == b"the last for long"
    closing = relay_thread.closing()
    assert closing.reason is CloseReason.IDLE
    assert closing.seconds >= 0.3
    assert client.recv(1) == b""
    assert server.recv(1) == b""


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_byte_either_way_puts_the_idle_time_off(relay_thread: RelayThread, side: str) -> None:
    client, server, tunnel = relay_thread.tunnel(idle=1.5)
    other, *_ = relay_thread.tunnel(idle=0.5)
    sender, receiver = (client, server) if side == "client" else (server, client)
    assert other.recv(1) == b"", "half a second is over"
    sender.sendall(b"x")
    assert receiver.recv(1) == b"x"
    until(lambda: tunnel in relay_thread.closed)
    assert relay_thread.closed[tunnel].seconds >= 0.5 + 1.5
    assert relay_thread.closed[tunnel].reason is CloseReason.IDLE


def test_a_quiet_tunnel_has_its_peers_probed_and_ends_in_time() -> None:
    with contextlib.closing(RelayThread(*LOOPS["own"](), quiet=0.3)) as relay_thread:
        began = time.monotonic()
        client, server, _ = relay_thread.tunnel(idle=2.0)
        until(lambda: all(map(is_probed, relay_thread.inner)))
        assert time.monotonic() - began >= 0.3, "not before it was quiet"
        client.sendall(b"not dead yet")
        assert read_exactly(server, 12) == b"not dead yet"
        assert relay_thread.closing().seconds >= 0.3 + 2.0
        assert client.recv(1) == b""


def is_probed(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as same:
        return same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_close_resets_both_peers_once(relay_thread: RelayThread) -> None:
    client, server, tunnel = relay_thread.tunnel()
    relay_thread.call(tunnel.close)
    relay_thread.call(tunnel.close)
    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert relay_thread.closing().reason is CloseReason.CLOSED


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


def test_a_socket_that_the_kernel_does_not_watch_ends_the_tunnel(
    relay_thread: RelayThread, tmp_path: Path
) -> None:
    """As it does without memory for one more (epoll_ctl(2)); here because a file cannot be waited for."""
    client, inner_client = pair()
    other = socket.socket()
    with (tmp_path / "file").open("wb") as file:
        os.dup2(file.fileno(), other.fileno())
    relay_thread.call(lambda: relay_thread.relay.start(inner_client, other, 60, relay_thread.closings.append))
    assert relay_thread.closing().reason is CloseReason.CLOSED
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)


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
