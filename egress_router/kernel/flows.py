"""Removes flows from connection tracking, so that their next packet meets the rules that are in force now.

A UDP flow is then redirected again. A TCP connection breaks, so only those that the egress policy denies are
removed: the client's next packet is answered with a reset. Source: nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.net.netlink_dump import attributes, request, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from egress_router.grammar.address import IPAddress
    from egress_router.policy.redirected import Denial

_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2  # subsystem ctnetlink: IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
_FAMILY_HEADER = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_UDP = 17
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA protocol numbers
_STATUS, _DST_NAT = 3, 0x20  # linux/netfilter/nf_conntrack_common.h: not in this router's own connections
_NESTED = 0x8000
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class UdpFlows:
    """UDP flows from local ports `first` to `last` that were redirected to an address."""

    first: int
    last: int
    address: IPAddress


def forget(flows: Collection[UdpFlows]) -> int:
    """Remove these flows from connection tracking; return how many there were.

    Raises:
        RefusedError: the kernel does not let this process do so.
    """
    wanted: dict[IPAddress, list[UdpFlows]] = {}
    for each in flows:
        wanted.setdefault(each.address, []).append(each)
    return _take_out(lambda body: _is_one(body, wanted))


def cut(denied: Collection[Denial]) -> int:
    """Remove redirected flows to these destinations from connection tracking; return how many there were.

    Raises:
        RefusedError: the kernel does not let this process do so.
    """
    wanted: dict[IPAddress, list[Denial]] = {}
    for each in denied:
        wanted.setdefault(each.address, []).append(each)
    return _take_out(lambda body: _is_denied(body, wanted))


def _take_out(is_one: Callable[[bytes], bool]) -> int:
    try:
        # All are found before one is deleted: a dump may leave out entries if some are deleted during it.
        found = [body for body in rows(_NETLINK_NETFILTER, _GET, bytes(_FAMILY_HEADER.size)) if is_one(body)]
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


def _is_denied(body: bytes, wanted: dict[IPAddress, list[Denial]]) -> bool:
    entry = attributes(body, _FAMILY_HEADER.size)
    if not int.from_bytes(entry.get(_STATUS, b""), "big") & _DST_NAT:
        return False
    # The tuple of the replies: the destination's own address and port come first.
    reply = attributes(entry.get(_TUPLE_REPLY, b""))
    addresses = list(attributes(reply.get(_TUPLE_IP, b"")).values())
    fields = attributes(reply.get(_TUPLE_PROTO, b""))
    number, port = fields.get(_NUMBER, b""), int.from_bytes(fields.get(_SOURCE_PORT, b""), "big")
    for each in wanted.get(ip_address(addresses[0]), ()) if addresses else ():
        if each.protocol is None:
            if number not in {bytes([known]) for known in _NUMBERS.values()}:
                return True
        elif number == bytes([_NUMBERS[each.protocol.value]]) and each.first <= port <= each.last:
            return True
    return False


def _delete(body: bytes) -> bool:
    """Delete an entry that a dump has shown; False: it is already gone."""
    entry = attributes(body, _FAMILY_HEADER.size)
    family = _FAMILY_HEADER.pack(body[0], 0, 0)
    # With its number: the same ports may belong to another flow meanwhile.
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
