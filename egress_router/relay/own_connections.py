"""Recognises a connection that comes from this proxy itself, whatever address translation lies between.

A CONNECT to the proxy's own Service address comes back as a new connection, and a CONNECT inside of that as
the next one. Its peer is no own address: the node hides a pod that reaches itself through a Service.

Address translation leaves the timestamps of a connection alone (RFC 7323 3). Linux counts them in
milliseconds of the monotonic clock, and adds a random 32-bit number that each connection has for itself. Who
made the connection can read the timestamp (TCP_TIMESTAMP), and who accepts it can read that of its first
packet (TCP_SAVED_SYN). An unrelated connection agrees by chance with each of ours of the same moment once in
some hundred million: at thousands a second that is one in some hundred thousand. So one match is no loop yet,
but a second one in a row is: a connection that comes back, made for one that came back (`LOOP_TURNS`).

A connection may be accepted before anybody here has heard that it was made. Its first request cannot come
before that, so the question is asked then.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.clock import Clock

# linux/tcp.h; Python has no names for them.
_TCP_TIMESTAMP, _TCP_SAVE_SYN, _TCP_SAVED_SYN = 24, 27, 28
_SAVED_BYTES = 128  # the headers of IPv6 and of TCP with all its options
_TIMESTAMP_OPTION = struct.Struct("!BBI")  # kind 8, length 10, value: RFC 7323 3.2
_BUCKET = 6  # bits: 64 ms
_SLACK = 3  # ms: the two clocks are read one after the other
_MASK = 0xFFFFFFFF

LOOP_TURNS = 2  # a connection that came back so often is a loop


def save_first_packets(listener: socket.socket) -> None:
    """Have the kernel keep the first packet of each connection, until it is asked for or closed."""
    listener.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)


def first_timestamp(packet: bytes) -> int | None:
    """Return the timestamp in the headers of a connection's first packet; None where it has none."""
    tcp = 40 if packet[:1] >= b"\x60" else (packet[0] & 15) * 4 if packet else 0
    at, end = tcp + 20, len(packet)
    while at + 1 < end:
        kind, length = packet[at], packet[at + 1]
        if kind == 8 and at + 6 <= end:
            return int(_TIMESTAMP_OPTION.unpack_from(packet, at)[2])
        if kind == 0 or (kind != 1 and length < 2):
            return None
        at += 1 if kind == 1 else length
    return None


class OwnConnections:
    """The connections that were made lately, by what their timestamps begin with.

    They are kept for as long as one that was accepted may take to send its first request.
    """

    def __init__(self, clock: Clock, kept_seconds: float) -> None:
        self._clock = clock
        self._kept_seconds = kept_seconds
        self._order: deque[tuple[float, int]] = deque()
        # Bucket of the beginning to (beginning, first and last moment at which it may have been made, in ms,
        # how often the connection that it was made for had come back).
        self._made: dict[int, list[tuple[int, int, int, int]]] = {}

    def made(self, sock: socket.socket, seconds: float, turns: int) -> None:
        """Note a connection begun so many seconds ago, for a client's that came back `turns` times."""
        self.note(sock.getsockopt(socket.IPPROTO_TCP, _TCP_TIMESTAMP), seconds, turns)

    def accepted(self, sock: socket.socket, moment: float) -> int:
        """Say how often a connection that was accepted at this moment has come back; 0: it is new."""
        if not self._order:
            return 0
        try:
            packet = sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SAVED_BYTES)
        except OSError:
            return 0
        timestamp = first_timestamp(packet)
        return 0 if timestamp is None else self.turns(timestamp, moment)

    def note(self, timestamp: int, seconds: float, turns: int) -> None:
        """Note a connection whose timestamp is this now; otherwise as `made`."""
        now = self._clock.monotonic()
        self._forget(now - self._kept_seconds)
        ms = int(now * 1000)
        begin = (timestamp - ms) & _MASK
        bucket = begin >> _BUCKET
        self._made.setdefault(bucket, []).append(
            (begin, ms - int(seconds * 1000) - _SLACK, ms + _SLACK, turns)
        )
        self._order.append((now, bucket))

    def turns(self, timestamp: int, moment: float) -> int:
        """Say how often one that began with this timestamp, shortly before `moment`, has come back."""
        ms = int(moment * 1000)
        found = 0
        # It began up to a few buckets of time before that.
        first = ((timestamp - ms - _SLACK) & _MASK) >> _BUCKET
        for bucket in range(first, first + 6):
            for begin, earliest, latest, turns in self._made.get(bucket & (_MASK >> _BUCKET), ()):
                age = ((begin + ms - timestamp + _SLACK) & _MASK) - _SLACK
                if earliest <= ms - age <= latest:
                    found = max(found, turns + 1)
        return found

    def _forget(self, before: float) -> None:
        while self._order and self._order[0][0] < before:
            _, bucket = self._order.popleft()
            entries = self._made[bucket]
            del entries[0]
            if not entries:
                del self._made[bucket]
