"""How full connection tracking is, and how many source ports are in use towards each destination.

One source address has about 64,000 ports for each destination address and port; if they run out, new
connections fail without a message.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
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
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_TCP_NUMBER = b"\x06"
_PROTOCOL_INFO, _TCP, _TCP_STATE = 4, 1, 1
# ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK of enum tcp_conntrack (linux/netfilter/nf_conntrack_tcp.h)
_OPEN_STATES = range(3, 7)
_SYN_SENT = 1
_ESTABLISHED = 3
_STATUS, _DST_NAT = 3, 0x20  # linux/netfilter/nf_conntrack_common.h: this router's own queries do not have it
_TIMEOUT = 7
_SYN_SENT_SECONDS = 120  # the kernel's default
_ANSWER_SECONDS = 3


def usage() -> tuple[int, int] | None:
    """Return how many entries connection tracking has and may have; None if the kernel does not say."""
    count = sysctl.read("net/netfilter/nf_conntrack_count")
    most = sysctl.read("net/netfilter/nf_conntrack_max")
    return None if count is None or most is None else (count, most)


@dataclass(frozen=True, slots=True)
class Connections:
    """The source ports in use, by source and destination, and how many redirected connections are open.

    A port is also in use while a connection is being tried, and for a while after it has ended (TIME_WAIT).
    `waiting` counts TCP connections that may still be accepted, by family and local port: their SYN was sent
    less than three seconds ago. `clients` and `local_ports` (protocol, family, port) count the open ones.
    """

    source_ports: Counter[Way]
    open: int
    waiting: Counter[tuple[int, int]]
    clients: Counter[IPAddress] = field(default_factory=Counter)
    local_ports: Counter[tuple[str, int, int]] = field(default_factory=Counter)


def connections(sources: Collection[IPAddress]) -> Connections:
    """Return what connection tracking knows about connections that leave with these addresses.

    Raises:
        RefusedError: the kernel does not let this process read it.
    """
    seen = Connections(Counter(), 0, Counter())
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
                seen.source_ports[source, destination] += 1
                if int.from_bytes(entry.get(_STATUS, b""), "big") & _DST_NAT:
                    _add_redirected(seen, entry, longest)
    except OSError as error:
        raise RefusedError(f"cannot read connection tracking ({error.strerror})", "grant NET_ADMIN") from None
    return replace(seen, open=seen.clients.total())


def _add_redirected(seen: Connections, entry: dict[int, bytes], longest: int) -> None:
    """Add a redirected connection, by its client and local port."""
    original = attributes(entry.get(_TUPLE_ORIGINAL, b""))
    addresses = list(attributes(original.get(_TUPLE_IP, b"")).values())
    fields = attributes(original.get(_TUPLE_PROTO, b""))
    protocol = _PROTOCOLS.get(fields.get(_NUMBER, b"\0")[0])
    if protocol is None or not addresses:
        return
    client = ip_address(addresses[0])
    local_port = int.from_bytes(fields.get(_DESTINATION_PORT, b""), "big")
    state = _tcp_state(entry)
    if state is None or state in _OPEN_STATES:
        seen.clients[client] += 1
        seen.local_ports[protocol, client.version, local_port] += 1
    left = int.from_bytes(entry.get(_TIMEOUT, b""), "big")
    if state == _SYN_SENT and longest - left < _ANSWER_SECONDS:
        seen.waiting[client.version, local_port] += 1


@dataclass(frozen=True, slots=True)
class OutgoingFlow:
    """A TCP connection that leaves with one of our addresses: where it goes, and with which source port."""

    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    is_open: bool


def outgoing(sources: Collection[IPAddress]) -> list[OutgoingFlow]:
    """Return the TCP connections that leave with these addresses; none if the kernel does not say."""
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


def _entries() -> Iterator[dict[int, bytes]]:
    for row in rows(_NETLINK_NETFILTER, _GET, bytes(_FAMILY_HEADER)):
        yield attributes(row, _FAMILY_HEADER)


def _tcp_state(entry: dict[int, bytes]) -> int | None:
    """Return the state of a TCP connection; other protocols have none."""
    tcp = attributes(entry.get(_PROTOCOL_INFO, b"")).get(_TCP)
    return None if tcp is None else attributes(tcp).get(_TCP_STATE, b"\0")[0]
