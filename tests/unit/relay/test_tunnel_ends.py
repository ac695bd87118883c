"""How tunnels end: by resets, because they are idle, when they are closed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.tunnel import CloseReason
from tests.serving import LOOPS
from tests.unit.relay.relay_thread import RelayThread, pair
from tests.unit.relay.streams import MIB, read_all, read_exactly, reset, stuff
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


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
