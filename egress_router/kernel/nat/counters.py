"""What goes through each redirected port, counted by the kernel.

Elements come with traffic (dynamic sets), so that 30,000 lines without traffic cost nothing.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel.nat.source_ports import TABLE
from egress_router.kernel.tables import attributes, nested, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOLS = ("tcp", "udp", "sctp")
# Earlier versions had their counters here.
OLD_TABLE = "egress_router_counts"
_VERSIONS = (4, 6)
_KINDS = ("connections", "sent", "received")

# linux/netfilter/nf_tables.h, nfnetlink.h
_NETLINK_NETFILTER, _INET = 12, 1
_GET_ELEMENTS = (10 << 8) | 13  # subsystem nftables, NFT_MSG_GETSETELEM
_FAMILY_HEADER = 4  # struct nfgenmsg, before the attributes
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_KEY, _EXPRESSION = 1, 7  # NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_EXPR
_VALUE = 1  # NFTA_DATA_VALUE
_EXPRESSION_DATA = 2  # NFTA_EXPR_DATA
_BYTES, _PACKETS = 1, 2  # NFTA_COUNTER_*
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through: connections begun, and packets and bytes to the destination and back."""

    connections: int = 0
    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum."""
        return Traffic(
            self.connections + other.connections,
            self.sent_packets + other.sent_packets,
            self.sent_bytes + other.sent_bytes,
            self.received_packets + other.received_packets,
            self.received_bytes + other.received_bytes,
        )


# Traffic by protocol, family and local port.
Counts = dict[tuple[str, int, int], Traffic]
_NOTHING = Traffic()


def declarations(version: int) -> Iterator[str]:
    """Yield the sets of a family."""
    for kind in _KINDS:
        for protocol in PROTOCOLS:
            # As large as there are ports, so that a scan cannot fill them.
            yield f"set {kind}_{protocol}{version} {{ type inet_service; size 65536; flags dynamic; }}"


def count(kind: str, protocol: str, version: int) -> str:
    """Return the statement that counts a packet for the local port that it came to."""
    return f"add @{kind}_{protocol}{version} {{ ct original proto-dst counter }}"


def read() -> Counts:
    """Return what was counted so far.

    Raises:
        RefusedError: the kernel does not let this process look.
    """
    found: Counts = {}
    seen = False
    for version in _VERSIONS:
        for protocol in PROTOCOLS:
            for kind in _KINDS:
                try:
                    for port, packets, size in _elements(f"{kind}_{protocol}{version}"):
                        key = (protocol, version, port)
                        found[key] = found.get(key, _NOTHING).plus(_counted(kind, packets, size))
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


def _counted(kind: str, packets: int, size: int) -> Traffic:
    if kind == "connections":
        return Traffic(connections=packets)
    if kind == "sent":
        return Traffic(sent_packets=packets, sent_bytes=size)
    return Traffic(received_packets=packets, received_bytes=size)


def _elements(name: str) -> Iterator[tuple[int, int, int]]:
    """Yield port, packets and bytes of each element of a set."""
    question = struct.pack("=BBH", _INET, 0, 0) + _text(_TABLE, TABLE) + _text(_SET, name)
    for row in rows(_NETLINK_NETFILTER, _GET_ELEMENTS, question):
        for element in nested(attributes(row, _FAMILY_HEADER).get(_ELEMENTS, b"")):
            yield from _element(attributes(element))


def _element(found: dict[int, bytes]) -> Iterator[tuple[int, int, int]]:
    port = attributes(found.get(_KEY, b"")).get(_VALUE)
    counter = attributes(attributes(found.get(_EXPRESSION, b"")).get(_EXPRESSION_DATA, b""))
    if port is not None and _PACKETS in counter:
        packets, size = (int.from_bytes(counter[each], "big") for each in (_PACKETS, _BYTES))
        yield int.from_bytes(port, "big"), packets, size


def _text(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
