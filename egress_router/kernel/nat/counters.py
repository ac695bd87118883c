"""The traffic of each redirected port, counted by the kernel.

Elements are made by traffic (dynamic sets), so that 30,000 lines without traffic cost nothing.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel.nat.counting import KINDS, PROTOCOLS
from egress_router.kernel.nat.source_ports import TABLE
from egress_router.net.netlink_dump import attributes, nested, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress
    from egress_router.policy.redirected import Denial

_VERSIONS = (4, 6)

# linux/netfilter/nf_tables.h, nfnetlink.h
_NETLINK_NETFILTER, _INET = 12, 1
_GET_ELEMENTS = (10 << 8) | 13  # subsystem nftables, NFT_MSG_GETSETELEM
_FAMILY_HEADER = 4  # struct nfgenmsg, before the attributes
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_KEY, _DATA, _EXPRESSION = 1, 2, 7  # NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_EXPR
_VALUE = 1  # NFTA_DATA_VALUE
_EXPRESSION_DATA = 2  # NFTA_EXPR_DATA
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*
_ATTRIBUTE = struct.Struct("=HH")
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA protocol numbers
# Kinds that count connections, each by the first packet that shows it.
_FIELDS = {"accepted": "connections", "denied": "denied", "closed": "closed", "refused": "refused"}
_WORD = 4  # bytes; each part of a concatenated key begins at a multiple of it


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic: connections, and packets and bytes to the destination and back.

    `begun` counts every connection once, however often its first packet is sent again; `connections` those
    that the destination accepted (TCP), or all (UDP and SCTP, where no packet shows this). `denied` are those
    that were rejected by the egress policy, `closed` those whose port led nowhere, `waiting` those that may
    still be accepted, `refused` TCP connections whose first answer was a reset.
    """

    connections: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    begun: int = 0
    denied: int = 0
    closed: int = 0
    waiting: int = 0
    refused: int = 0

    @property
    def failures(self) -> int:
        """Connections that were not accepted."""
        return max(0, self.begun - self.connections - self.waiting)

    @property
    def refusals(self) -> int:
        """Failures with an answer of the destination; the others got no answer."""
        return min(self.refused, self.failures)

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum."""
        return Traffic(
            self.connections + other.connections,
            self.sent_packets + other.sent_packets,
            self.sent_bytes + other.sent_bytes,
            self.received_packets + other.received_packets,
            self.received_bytes + other.received_bytes,
            self.begun + other.begun,
            self.denied + other.denied,
            self.closed + other.closed,
            self.waiting + other.waiting,
            self.refused + other.refused,
        )


# Packets by address, protocol number (0: all protocols without ports) and first port of a denial.
DeniedCounts = dict[tuple["IPAddress", int, int], int]
# Traffic by protocol, family and local port.
Counts = dict[tuple[str, int, int], Traffic]
_NOTHING = Traffic()


def read() -> Counts:
    """Return what was counted so far.

    Raises:
        RefusedError: the kernel does not let this process read it.
    """
    found: Counts = {}
    seen = False
    for version in _VERSIONS:
        for protocol in PROTOCOLS:
            for kind in KINDS:
                try:
                    for port, packets, size in _elements(f"{kind}_{protocol}{version}"):
                        key = (protocol, version, port)
                        found[key] = found.get(key, _NOTHING).plus(_counted(kind, protocol, packets, size))
                except OSError as error:
                    if error.errno != errno.ENOENT:  # a family without a source has none
                        raise RefusedError(
                            f"cannot read the kernel's counters ({error.strerror})", "grant NET_ADMIN"
                        ) from None
                else:
                    seen = True
    if not seen:
        raise RefusedError("the kernel has no counters", "set EGRESS_NAT_BACKEND=nftables")
    return found


def _counted(kind: str, protocol: str, packets: int, size: int) -> Traffic:
    if kind == "begun":
        return Traffic(begun=packets, connections=0 if protocol == "tcp" else packets)
    if kind in _FIELDS:
        return Traffic(**{_FIELDS[kind]: packets})
    if kind == "sent":
        return Traffic(sent_packets=packets, sent_bytes=size)
    return Traffic(received_packets=packets, received_bytes=size)


def denied() -> DeniedCounts:
    """Return how many packets the egress policy has denied since its elements were put in force.

    Raises:
        RefusedError: the kernel does not let this process read it.
    """
    found: DeniedCounts = {}
    for version, size in ((4, 4), (6, 16)):
        for name in (f"denied{version}", f"denied_ports{version}"):
            try:
                for key, packets, _ in _keyed(name):
                    found[_denied_key(key, size)] = packets
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise RefusedError(
                        f"cannot read the kernel's counters ({error.strerror})", "grant NET_ADMIN"
                    ) from None
    return found


def denied_key(denial: Denial) -> tuple[IPAddress, int, int]:
    """Return the key under which a denial is counted."""
    if denial.protocol is None:
        return denial.address, 0, 0
    return denial.address, _NUMBERS[denial.protocol.value], denial.first


def _denied_key(key: bytes, size: int) -> tuple[IPAddress, int, int]:
    if len(key) == size:
        return ip_address(key), 0, 0
    port = size + _WORD
    return ip_address(key[:size]), key[size], int.from_bytes(key[port : port + 2], "big")


def _elements(name: str) -> Iterator[tuple[int, int, int]]:
    """Yield port, packets and bytes of each element of a set of ports."""
    for key, packets, size in _keyed(name):
        yield int.from_bytes(key, "big"), packets, size


def keys(name: str) -> Iterator[bytes]:
    """Yield the key of each element of a set.

    Raises:
        OSError: there is no such set, or the kernel does not let this process read it.
    """
    for element in _listed(name):
        key = attributes(element.get(_KEY, b"")).get(_VALUE)
        if key is not None:
            yield key


def values(name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each element of a map.

    Raises:
        OSError: there is no such map, or the kernel does not let this process read it.
    """
    for element in _listed(name):
        key, value = (attributes(element.get(each, b"")).get(_VALUE) for each in (_KEY, _DATA))
        if key is not None and value is not None:
            yield key, value


def _keyed(name: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield key, packets and bytes of each element of a set; of a range, its first key."""
    for element in _listed(name):
        yield from _element(element)


def _listed(name: str) -> Iterator[dict[int, bytes]]:
    question = struct.pack("=BBH", _INET, 0, 0) + _text(_TABLE, TABLE) + _text(_SET, name)
    for row in rows(_NETLINK_NETFILTER, _GET_ELEMENTS, question):
        for element in nested(attributes(row, _FAMILY_HEADER).get(_ELEMENTS, b"")):
            yield attributes(element)


def _element(found: dict[int, bytes]) -> Iterator[tuple[bytes, int, int]]:
    key = attributes(found.get(_KEY, b"")).get(_VALUE)
    counter = attributes(attributes(found.get(_EXPRESSION, b"")).get(_EXPRESSION_DATA, b""))
    if key is not None and _PACKETS in counter:
        packets, size = (int.from_bytes(counter[each], "big") for each in (_PACKETS, _BYTES))
        yield key, packets, size


def _text(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
