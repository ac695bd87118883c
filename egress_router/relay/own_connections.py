"""Recognises a connection that comes from this router itself, whatever address translation lies between.

A CONNECT to the proxy's own Service address comes back as a new connection, and a CONNECT inside of that as
the next one. Its peer is no own address: the node hides a pod that reaches itself through a Service.

Address translation leaves the timestamps of a connection alone (RFC 7323 3). Linux counts them in
milliseconds of the monotonic clock, and adds a random 32-bit number that each connection has for itself. Who
made the connection can read the timestamp (TCP_TIMESTAMP), and who accepts it can read that of its first
packet (TCP_SAVED_SYN). An unrelated connection agrees by chance with each of ours of the same moment once in
some hundred million: at thousands a second that is one in some hundred thousand. So one match is no loop yet,
but a second one in a row is: a connection that comes back, made for one that came back (`LOOP_TURNS`).

A connection may be accepted before anybody here has heard that it was made. Its first request cannot come
before that, so the question is asked then. Which worker gets it is the kernel's choice, so what is noted
stands in memory that all workers share.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from egress_router.clock import Clock

# linux/tcp.h; Python has no names for them.
_TCP_TIMESTAMP, _TCP_SAVE_SYN, _TCP_SAVED_SYN = 24, 27, 28
_SAVED_BYTES = 128  # the headers of IPv6 and of TCP with all its options
_TIMESTAMP_OPTION = struct.Struct("!BBI")  # kind 8, length 10, value: RFC 7323 3.2
_BUCKET = 9  # bits: 512 ms
_SLACK = 3  # ms: the two clocks are read one after the other
# A process may have to wait for the CPU between two lines.
_TOGETHER, _TRIES = 0.001, 10
_MASK = 0xFFFFFFFF
# Beginning, last moment at which it may have been made, and how long before that it may have been, all in ms;
# how often the connection that it was made for had come back, and 1: a place without an entry is 0.
_ENTRY = struct.Struct("=IIHH")
_WAYS = 4  # entries of one bucket; the one that is replaced is any of them
_SET = struct.Struct("=" + "IIHH" * _WAYS)
_LONGEST = 0xFFFF

SHARE: Final = 1 << 19  # bytes for each worker: 43,000 entries, nearly five seconds of 9,000 connections each
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

    They are remembered until others take their places. Several processes may write at once: at worst an
    entry is lost, or agrees with nothing.
    """

    def __init__(self, clock: Clock, memory: memoryview) -> None:
        self._clock = clock
        self._memory = memory
        self._sets = len(memory) // _SET.size
        self._way = 0

    def made(self, sock: socket.socket, began: float, turns: int) -> None:
        """Note a connection begun at this moment, for a client's that came back `turns` times."""
        timestamp, now = 0, self._clock.monotonic()
        for _ in range(_TRIES):
            timestamp, before = sock.getsockopt(socket.IPPROTO_TCP, _TCP_TIMESTAMP), now
            now = self._clock.monotonic()
            if now - before < _TOGETHER:
                break
        self.note(timestamp, now, began, turns)

    def accepted(self, sock: socket.socket, moment: float) -> int:
        """Say how often a connection that was accepted at this moment has come back; 0: it is new."""
        try:
            packet = sock.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SAVED_BYTES)
        except OSError:
            return 0
        timestamp = first_timestamp(packet)
        return 0 if timestamp is None else self.turns(timestamp, moment)

    def note(self, timestamp: int, now: float, began: float, turns: int) -> None:
        """Note a connection whose timestamp is this now; otherwise as `made`."""
        ms = int(now * 1000)
        begin = (timestamp - ms) & _MASK
        length = min(ms - int(began * 1000) + 2 * _SLACK, _LONGEST)
        place = (begin >> _BUCKET) % self._sets * _SET.size + self._way * _ENTRY.size
        self._way = (self._way + 1) % _WAYS
        entry = (begin, (ms + _SLACK) & _MASK, length, min(turns + 1, _LONGEST))
        _ENTRY.pack_into(self._memory, place, *entry)

    def turns(self, timestamp: int, moment: float) -> int:
        """Say how often one that began with this timestamp, shortly before `moment`, has come back."""
        ms = int(moment * 1000)
        # It began at most a bucket of time before that.
        first = (timestamp - ms - _SLACK) & _MASK
        found = 0
        for bucket in (first >> _BUCKET, (first + (1 << _BUCKET) & _MASK) >> _BUCKET):
            values = _SET.unpack_from(self._memory, bucket % self._sets * _SET.size)
            for at in range(0, len(values), 4):
                turns = values[at + 3]
                # When its first packet was sent, if it is this one.
                sent = timestamp - values[at]
                if turns > found and (values[at + 1] - sent) & _MASK <= values[at + 2]:
                    age = (ms - sent + _SLACK) & _MASK
                    found = turns if age <= (1 << _BUCKET) + _SLACK else found
        return found
