"""A model of one connection through the data plane: every byte of its two peers, and how it may end."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import time
from typing import TYPE_CHECKING

from egress_router.relay.tunnel import CloseReason, Closing
from tests.unit.relay.streams import reset
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from egress_router.relay.tunnel import Tunnel
    from tests.unit.relay.relay_thread import RelayThread

BLOCK = random.Random(11).randbytes(1 << 20)
SIZES = (1, 100, 5_000, 70_000, 600_000)


def stream(place: int, count: int) -> bytes:
    """Return a part of the endless stream that every side sends."""
    place %= len(BLOCK)
    return (BLOCK[place:] + BLOCK)[:count] if place + count > len(BLOCK) else BLOCK[place : place + count]


class Side:
    """One peer of a connection, and what the model knows of it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.sent = self.got = 0
        self.ended = self.at_end = self.gone = self.urgent = False

    def send(self, size: int) -> None:
        if self.ended or self.gone:
            return
        with contextlib.suppress(BlockingIOError):
            self.sent += self.sock.send(stream(self.sent, size))

    def send_urgent(self) -> None:
        """One only: a second one makes the first an ordinary byte (tcp(7))."""
        if self.urgent or self.ended or self.gone:
            return
        with contextlib.suppress(BlockingIOError):
            self.sock.send(b"!", socket.MSG_OOB)
            self.urgent = True

    def receive(self, size: int) -> None:
        if self.at_end or self.gone:
            return
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(size)
            assert data == stream(self.got, len(data)), f"other bytes than were sent, from {self.got} on"
            self.got += len(data)
            self.at_end = not data

    def end(self) -> None:
        if not self.ended and not self.gone:
            self.ended = True
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        if not self.gone:
            self.gone = True
            reset(self.sock)


class Model:
    """A connection through the data plane: its two peers, and what may become of it."""

    def __init__(self, client: socket.socket, server: socket.socket, tunnel: Tunnel | None) -> None:
        self.client, self.server = Side(client), Side(server)
        self.tunnel = tunnel
        self.allowed: set[CloseReason] = set()
        self.closing: Closing | None = None

    def step(self, dice: random.Random, relay_thread: RelayThread) -> None:
        here = dice.choice([self.client, self.server])
        what = dice.random()
        if what < 0.45:
            here.send(dice.choice(SIZES))
        elif what < 0.96:
            here.receive(dice.choice(SIZES))
        elif what < 0.97:
            here.send_urgent()
        elif what < 0.985:
            here.end()
        elif what < 0.99:
            self.allowed.add(CloseReason.CLIENT_RESET if here is self.client else CloseReason.UPSTREAM_RESET)
            here.reset()
        elif what < 0.993 and self.tunnel is not None:
            self.allowed.add(CloseReason.CLOSED)
            relay_thread.call(self.tunnel.close)

    def finish(self) -> None:
        """Let both sides end, and read to the end."""
        limit = time.monotonic() + WAIT_SECONDS
        while not all(side.at_end or side.gone for side in (self.client, self.server)):
            assert time.monotonic() < limit, f"stuck: {self}"
            for side in (self.client, self.server):
                side.end()
                side.receive(1 << 20)
            waiting = [side.sock for side in (self.client, self.server) if not side.at_end and not side.gone]
            select.select(waiting, [], [], 0.1)

    def close(self) -> None:
        for side in (self.client, self.server):
            side.sock.close()

    def check(self) -> None:
        """Compare the record with the bytes."""
        assert self.closing is not None
        reason, sent, received, _, first_byte = self.closing
        assert self.server.got <= sent <= self.client.sent, str(self)
        assert self.client.got <= received <= self.server.sent, str(self)
        assert first_byte is None or self.server.sent, str(self)
        if reason is CloseReason.FINISHED:
            assert (sent, received) == (self.client.sent, self.server.sent), str(self)
        else:
            assert reason in self.allowed, str(self)
        if not self.allowed:
            assert (self.server.got, self.client.got) == (self.client.sent, self.server.sent), str(self)

    def __str__(self) -> str:
        return f"{vars(self.client)} {vars(self.server)} {self.allowed} {self.closing}"
