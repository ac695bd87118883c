"""Takes UDP flows out of connection tracking, so that their next packet is redirected anew.

A TCP connection is never taken out: it would break. Source: nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.net.netlink_dump import attributes, request, rows

if TYPE_CHECKING:
    from collections.abc import Collection

    from egress_router.grammar.address import IPAddress

_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2  # subsystem ctnetlink: IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
_FAMILY_HEADER = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_NUMBER, _DESTINATION_PORT = 1, 3
_UDP = 17
_NESTED = 0x8000
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class UdpFlows:
    """UDP flows from local ports `first` to `last` that were redirected to an address."""

    first: int
    last: int
    address: IPAddress


def forget(flows: Collection[UdpFlows]) -> int:
    """Take these flows out of connection tracking; return how many there were.

    Raises:
        RefusedError: the kernel does not let this process do so.
    """
    wanted: dict[IPAddress, list[UdpFlows]] = {}
    for each in flows:
        wanted.setdefault(each.address, []).append(each)
    try:
        # All are found before one is deleted: a dump that goes on meanwhile may leave entries out.
        found = [
            body
            for body in rows(_NETLINK_NETFILTER, _GET, bytes(_FAMILY_HEADER.size))
            if _is_one(body, wanted)
        ]
        return sum(_delete(body) for body in found)
    except OSError as error:
        raise RefusedError(
            f"cannot change connection tracking ({error.strerror})", "grant NET_ADMIN"
        ) from None


def _is_one(body: bytes, wanted: dict[IPAddress, list[UdpFlows]]) -> bool:
    entry = attributes(body, _FAMILY_HEADER.size)
    original = attributes(attributes(entry.get(_TUPLE_ORIGINAL, b"")).get(_TUPLE_PROTO, b""))
    if original.get(_NUMBER) != bytes([_UDP]):
        return False
    reply = list(attributes(attributes(entry.get(_TUPLE_REPLY, b"")).get(_TUPLE_IP, b"")).values())
    port = int.from_bytes(original.get(_DESTINATION_PORT, b""), "big")
    lines = wanted.get(ip_address(reply[0]), ()) if reply else ()
    return any(each.first <= port <= each.last for each in lines)


def _delete(body: bytes) -> bool:
    """Delete an entry that a dump has shown; False: it is gone already."""
    entry = attributes(body, _FAMILY_HEADER.size)
    family = _FAMILY_HEADER.pack(body[0], 0, 0)
    # With its number: the same ports may have become another flow meanwhile.
    question = family + _attribute(_TUPLE_ORIGINAL | _NESTED, entry[_TUPLE_ORIGINAL])
    if _ID in entry:
        question += _attribute(_ID, entry[_ID])
    try:
        request(_NETLINK_NETFILTER, _DELETE, question)
    except FileNotFoundError:
        return False
    return True


def _attribute(kind: int, value: bytes) -> bytes:
    padding = -len(value) % 4
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(padding)
