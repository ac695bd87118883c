"""Connections that end, as the kernel's connection tracking reports them (libnetfilter_conntrack, ctnetlink).

A TCP connection is reported when it closes, not two minutes later when its entry is removed: its bytes are
read then, because the event has none. Other flows are reported when the kernel forgets them.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from egress_router.errors import RefusedError
from egress_router.kernel import sysctl
from egress_router.net.netlink_dump import attributes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from egress_router.grammar.address import IPAddress

# From linux/netlink.h and, in linux/netfilter, nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h and
# nf_conntrack_tcp.h.
_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP = 12, 270, 1
_GROUP_UPDATE, _GROUP_DESTROY = 2, 3
_NEW, _GET, _DELETE = (1 << 8) | 0, (1 << 8) | 1, (1 << 8) | 2
_ERROR, _REQUEST = 2, 1
_HEADER = struct.Struct("=IHHII")
_FAMILY_HEADER = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO = 1, 2, 3, 4
_SENT, _RECEIVED, _ID, _TIMESTAMP = 9, 10, 12, 20
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PACKETS, _BYTES = 1, 2
_TCP, _TCP_STATE = 1, 1
_TIME_WAIT, _CLOSE = 7, 8
_SEEN_REPLY, _ASSURED, _DST_NAT = 0x2, 0x4, 0x20
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_BUFFER = 65_536
_QUEUE = 8 << 20  # bytes of events that wait for this process
_MAX_REPORTED = 100_000  # reported TCP connections whose entry is not removed yet
_SYSCTLS: Final = ("net/netfilter/nf_conntrack_acct", "net/netfilter/nf_conntrack_timestamp")


@dataclass(frozen=True, slots=True)
class Flow:
    """A redirected connection that has ended.

    `number` is the kernel's number of the entry. `started` is in nanoseconds since 1970; it and the bytes are
    None if the kernel does not keep them.
    """

    number: int
    protocol: str
    client: IPAddress
    client_port: int
    local_port: int
    address: IPAddress
    port: int
    source: IPAddress
    source_port: int
    reason: str
    sent: int | None
    received: int | None
    started: int | None


def keep_details() -> bool:
    """Make the kernel count bytes and note times of connections from now on; say whether it does."""
    kept = [sysctl.ensure(name, 1) for name in _SYSCTLS]  # all of them, whatever the first says
    return all(kept)


class FlowEvents:
    """A socket that is readable when flows have ended; `read` returns them. `lost` counts lost events."""

    def __init__(self, sources: Collection[IPAddress]) -> None:
        """Begin to listen for flows that leave with one of these addresses.

        Raises:
            RefusedError: the kernel does not let this process listen.
        """
        self._sources = {address.packed for address in sources}
        self._reported: dict[int, None] = {}  # entries of TCP connections, in the order of their ends
        self.lost = 0
        try:
            self._events = _opened()
            self._questions = socket.socket(socket.AF_NETLINK, _KIND, _NETLINK_NETFILTER)
            for group in (_GROUP_UPDATE, _GROUP_DESTROY):
                self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError as error:
            raise RefusedError(
                f"cannot listen for the ends of connections ({error.strerror})", "grant NET_ADMIN"
            ) from None
        self._questions.settimeout(1.0)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._events.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._events.close()
        self._questions.close()

    def read(self) -> list[Flow]:
        """Return the flows that ended, from one batch of events."""
        try:
            data = self._events.recv(_BUFFER)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.lost += 1
            return []
        return [flow for kind, body in _messages(data) if (flow := self._ended(kind, body)) is not None]

    def _ended(self, kind: int, body: bytes) -> Flow | None:
        entry = attributes(body, _FAMILY_HEADER.size)
        number = int.from_bytes(entry.get(_ID, b""), "big")
        if not _status(entry) & _DST_NAT:
            return None
        if kind == _DELETE:
            if number in self._reported:
                del self._reported[number]
                return None
            return self._flow(number, entry)
        if kind != _NEW or _tcp_state(entry) not in {_TIME_WAIT, _CLOSE} or number in self._reported:
            return None
        flow = self._flow(number, {**entry, **self._details(body[0], entry)})
        if flow is not None:
            self._reported[number] = None
            if len(self._reported) > _MAX_REPORTED:
                del self._reported[next(iter(self._reported))]
        return flow

    def _flow(self, number: int, entry: dict[int, bytes]) -> Flow | None:
        original, reply = _Tuple.of(entry.get(_ORIGINAL)), _Tuple.of(entry.get(_REPLY))
        if original is None or reply is None or reply.to.packed not in self._sources:
            return None
        return Flow(
            number,
            original.protocol,
            original.origin,
            original.origin_port,
            original.to_port,
            reply.origin,
            reply.origin_port,
            reply.to,
            reply.to_port,
            _reason(entry),
            _number(entry.get(_SENT), _BYTES),
            _number(entry.get(_RECEIVED), _BYTES),
            _number(entry.get(_TIMESTAMP), 1),
        )

    def _details(self, family: int, entry: dict[int, bytes]) -> dict[int, bytes]:
        """Ask for the bytes and the start of a connection that has just closed."""
        original = entry.get(_ORIGINAL, b"")
        question = _FAMILY_HEADER.pack(family, 0, 0)
        question += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(original), _ORIGINAL | _NESTED) + original
        with contextlib.suppress(OSError):  # then the record lacks them
            self._questions.send(_HEADER.pack(_HEADER.size + len(question), _GET, _REQUEST, 1, 0) + question)
            for kind, body in _messages(self._questions.recv(_BUFFER)):
                if kind != _ERROR:
                    found = attributes(body, _FAMILY_HEADER.size)
                    return {key: found[key] for key in (_SENT, _RECEIVED, _TIMESTAMP) if key in found}
        return {}


_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC


def _opened() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, _KIND | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
    for option in (socket.SO_RCVBUF, 33):  # SO_RCVBUFFORCE goes past net.core.rmem_max, with NET_ADMIN
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, _QUEUE)
    sock.bind((0, 0))  # without a port of its own, a socket gets no multicast (netlink(7))
    return sock


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class _Tuple:
    """One direction of a flow."""

    protocol: str
    origin: IPAddress
    origin_port: int
    to: IPAddress
    to_port: int

    @classmethod
    def of(cls, packed: bytes | None) -> _Tuple | None:
        if packed is None:
            return None
        parts = attributes(packed)
        addresses = list(attributes(parts.get(_TUPLE_IP, b"")).values())
        fields = attributes(parts.get(_TUPLE_PROTOCOL, b""))
        protocol = _PROTOCOLS.get(fields.get(_NUMBER, b"\0")[0])
        if len(addresses) != 2 or protocol is None or not {_SOURCE_PORT, _DESTINATION_PORT} <= fields.keys():
            return None
        origin, to = map(ip_address, addresses)
        ports = (int.from_bytes(fields[each], "big") for each in (_SOURCE_PORT, _DESTINATION_PORT))
        return cls(protocol, origin, next(ports), to, next(ports))


def _status(entry: dict[int, bytes]) -> int:
    return int.from_bytes(entry.get(_STATUS, b""), "big")


def _tcp_state(entry: dict[int, bytes]) -> int | None:
    tcp = attributes(entry.get(_PROTOCOL_INFO, b"")).get(_TCP)
    return None if tcp is None else attributes(tcp).get(_TCP_STATE, b"\0")[0]


def _reason(entry: dict[int, bytes]) -> str:
    status, state = _status(entry), _tcp_state(entry)
    if not status & _SEEN_REPLY:
        # A connection whose only answer was a reset is forgotten at once (tcp_packet in
        # nf_conntrack_proto_tcp.c), and that packet was counted.
        return "refused" if _number(entry.get(_RECEIVED), _PACKETS) else "timeout"
    if state == _CLOSE:
        return "reset" if status & _ASSURED else "refused"
    return "finished" if state == _TIME_WAIT else "idle"


def _number(packed: bytes | None, key: int) -> int | None:
    value = None if packed is None else attributes(packed).get(key)
    return None if value is None else int.from_bytes(value, "big")
