"""How full connection tracking is, and how many source ports are in use towards each destination.

One source address has about 64,000 ports for each destination address and port; a router that runs out of
them refuses connections without a word.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel import sysctl
from egress_router.net.netlink_dump import attributes, rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from egress_router.grammar.address import IPAddress

# Protocol number, address and port of a destination.
Destination = tuple[int, "IPAddress", int]
# One of our addresses, and where its connections go.
Way = tuple["IPAddress", Destination]

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_GET = (1 << 8) | 1  # subsystem ctnetlink, IPCTNL_MSG_CT_GET
_FAMILY_HEADER = 4  # struct nfgenmsg, before the attributes
_TUPLE_ORIGINAL, _TUPLE_REPLY, _TUPLE_IP, _TUPLE_PROTO = 1, 2, 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_TCP_NUMBER = b"\x06"
_PROTOCOL_INFO, _TCP, _TCP_STATE = 4, 1, 1
# ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK of enum tcp_conntrack (linux/netfilter/nf_conntrack_tcp.h)
_OPEN_STATES = range(3, 7)
_SYN_SENT = 1
_ESTABLISHED = 3
_STATUS, _DST_NAT = 3, 0x20  # linux/netfilter/nf_conntrack_common.h: this router's own queries lack it
_TIMEOUT = 7
_SYN_SENT_SECONDS = 120  # the kernel's default
_ANSWER_SECONDS = 3


def usage() -> tuple[int, int] | None:
    """Return how many entries connection tracking has and may have; None where the kernel does not say."""
    count = sysctl.read("net/netfilter/nf_conntrack_count")
    most = sysctl.read("net/netfilter/nf_conntrack_max")
    return None if count is None or most is None else (count, most)


@dataclass(frozen=True, slots=True)
class Connections:
    """The source ports in use, by source and destination, and how many redirected connections are open.

    A port stays in use for a while after its connection has ended (TIME_WAIT), and while one is tried.
    `waiting` are TCP connections that may still be accepted, by family and local port: their SYN was sent
    less than three seconds ago.
    """

    source_ports: Counter[Way]
    open: int
    waiting: Counter[tuple[int, int]]


def connections(sources: Collection[IPAddress]) -> Connections:
    """Return what connection tracking has of connections that leave with these addresses.

    Raises:
        RefusedError: the kernel does not let this process look.
    """
    found: Counter[Way] = Counter()
    waiting: Counter[tuple[int, int]] = Counter()
    opened = 0
    longest = sysctl.read("net/netfilter/nf_conntrack_tcp_timeout_syn_sent") or _SYN_SENT_SECONDS
    by_bytes = {address.packed: address for address in sources}
    try:
        for entry in _entries():
            reply = attributes(entry.get(_TUPLE_REPLY, b""))
            addresses = list(attributes(reply.get(_TUPLE_IP, b"")).values())
            source = by_bytes.get(addresses[1]) if len(addresses) == 2 else None
            if source is None:
                continue
            fields = attributes(reply.get(_TUPLE_PROTO, b""))
            port = fields.get(_SOURCE_PORT)
            if port is not None:
                destination = fields[_NUMBER][0], ip_address(addresses[0]), int.from_bytes(port, "big")
                found[source, destination] += 1
                state = _tcp_state(entry)
                redirected = int.from_bytes(entry.get(_STATUS, b""), "big") & _DST_NAT
                opened += bool(redirected) and (state is None or state in _OPEN_STATES)
                left = int.from_bytes(entry.get(_TIMEOUT, b""), "big")
                if state == _SYN_SENT and longest - left < _ANSWER_SECONDS:
                    waiting[4 if len(addresses[0]) == 4 else 6, _local_port(entry)] += 1
    except OSError as error:
        raise RefusedError(f"cannot read connection tracking ({error.strerror})", "grant NET_ADMIN") from None
    return Connections(found, opened, waiting)


@dataclass(frozen=True, slots=True)
class OutgoingFlow:
    """A TCP connection that leaves with one of our addresses: where it goes, and by which port."""

    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    is_open: bool


def outgoing(sources: Collection[IPAddress]) -> list[OutgoingFlow]:
    """Return the TCP connections that leave with these addresses; none where the kernel does not say."""
    by_bytes = {address.packed: address for address in sources}
    found = []
    try:
        for entry in _entries():
            reply = attributes(entry.get(_TUPLE_REPLY, b""))
            addresses = list(attributes(reply.get(_TUPLE_IP, b"")).values())
            fields = attributes(reply.get(_TUPLE_PROTO, b""))
            source = by_bytes.get(addresses[1]) if len(addresses) == 2 else None
            if source is None or fields.get(_NUMBER) != _TCP_NUMBER:
                continue
            own, theirs = (int.from_bytes(fields[each], "big") for each in (_DESTINATION_PORT, _SOURCE_PORT))
            state = _tcp_state(entry)
            is_open = state is None or state <= _ESTABLISHED
            found.append(OutgoingFlow(source, own, ip_address(addresses[0]), theirs, is_open))
    except OSError:
        return []
    return found


def _local_port(entry: dict[int, bytes]) -> int:
    original = attributes(attributes(entry.get(_TUPLE_ORIGINAL, b"")).get(_TUPLE_PROTO, b""))
    return int.from_bytes(original.get(_DESTINATION_PORT, b""), "big")


def _entries() -> Iterator[dict[int, bytes]]:
    for row in rows(_NETLINK_NETFILTER, _GET, bytes(_FAMILY_HEADER)):
        yield attributes(row, _FAMILY_HEADER)


def _tcp_state(entry: dict[int, bytes]) -> int | None:
    """Return the state of a TCP connection; other protocols have none."""
    tcp = attributes(entry.get(_PROTOCOL_INFO, b"")).get(_TCP)
    return None if tcp is None else attributes(tcp).get(_TCP_STATE, b"\0")[0]
