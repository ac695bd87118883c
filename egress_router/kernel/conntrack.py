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
from egress_router.kernel.tables import attributes, rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from egress_router.grammar.address import IPAddress

# Protocol number, address and port of a destination.
Destination = tuple[int, "IPAddress", int]

# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
_NETLINK_NETFILTER = 12
_GET = (1 << 8) | 1  # subsystem ctnetlink, IPCTNL_MSG_CT_GET
_FAMILY_HEADER = 4  # struct nfgenmsg, before the attributes
_TUPLE_REPLY, _TUPLE_IP, _TUPLE_PROTO = 2, 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_PROTOCOL_INFO, _TCP_INFO, _TCP_STATE = 4, 1, 1  # CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE
_TCP = b"\x06"
_ESTABLISHED = 3  # enum tcp_conntrack; the states behind it are those of closing


def usage() -> tuple[int, int] | None:
    """Return how many entries connection tracking has and may have; None where the kernel does not say."""
    count = sysctl.read("net/netfilter/nf_conntrack_count")
    most = sysctl.read("net/netfilter/nf_conntrack_max")
    return None if count is None or most is None else (count, most)


def source_ports(sources: Collection[IPAddress]) -> Counter[Destination]:
    """Return how many source ports of these addresses are in use towards each destination.

    Raises:
        RefusedError: the kernel does not let this process look.
    """
    found: Counter[Destination] = Counter()
    packed = {address.packed for address in sources}
    try:
        for reply in _replies():
            addresses = list(attributes(reply.get(_TUPLE_IP, b"")).values())
            if len(addresses) != 2 or addresses[1] not in packed:
                continue
            fields = attributes(reply.get(_TUPLE_PROTO, b""))
            port = fields.get(_SOURCE_PORT)
            if port is not None:
                found[fields[_NUMBER][0], ip_address(addresses[0]), int.from_bytes(port, "big")] += 1
    except OSError as error:
        raise RefusedError(f"cannot read connection tracking ({error.strerror})", "grant NET_ADMIN") from None
    return found


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A TCP connection that leaves with one of our addresses: where it goes, and by which port."""

    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    is_open: bool


def outgoing(sources: Collection[IPAddress]) -> list[Outgoing]:
    """Return the TCP connections that leave with these addresses; none where the kernel does not say."""
    by_bytes = {address.packed: address for address in sources}
    found = []
    try:
        for entry in _entries():
            reply = attributes(entry.get(_TUPLE_REPLY, b""))
            addresses = list(attributes(reply.get(_TUPLE_IP, b"")).values())
            fields = attributes(reply.get(_TUPLE_PROTO, b""))
            source = by_bytes.get(addresses[1]) if len(addresses) == 2 else None
            if source is None or fields.get(_NUMBER) != _TCP:
                continue
            state = attributes(attributes(entry.get(_PROTOCOL_INFO, b"")).get(_TCP_INFO, b"")).get(_TCP_STATE)
            ports = (int.from_bytes(fields[each], "big") for each in (_DESTINATION_PORT, _SOURCE_PORT))
            own, theirs = ports
            is_open = state is not None and state[0] <= _ESTABLISHED
            found.append(Outgoing(source, own, ip_address(addresses[0]), theirs, is_open))
    except OSError:
        return []
    return found


def _entries() -> Iterator[dict[int, bytes]]:
    """Yield the attributes of every entry."""
    for row in rows(_NETLINK_NETFILTER, _GET, bytes(_FAMILY_HEADER)):
        yield attributes(row, _FAMILY_HEADER)


def _replies() -> Iterator[dict[int, bytes]]:
    """Yield the reply tuple of every entry: who answers, and to which address."""
    for entry in _entries():
        yield attributes(entry.get(_TUPLE_REPLY, b""))
