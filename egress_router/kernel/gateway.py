"""Whether the gateway on the egress interface answers, seen without privilege.

Sources: rtnetlink(7), linux/neighbour.h.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from egress_router.kernel.tables import attributes, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress, IPNetwork

_NETLINK_ROUTE = 0
_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_NEIGHBOUR = 18, 22, 26, 30
_MAIN_TABLE = 254
_ANSWERED = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # REACHABLE STALE DELAY PROBE NOARP PERMANENT
_UP = 0x1
_DISCARD = 9


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface with its addresses, the gateways of its default routes, and those that do not answer."""

    name: str
    index: int
    is_up: bool
    addresses: tuple[IPAddress, ...]
    gateways: tuple[IPAddress, ...]
    silent: tuple[IPAddress, ...]


def look(name: str) -> Interface | None:
    """Return what the kernel knows of an interface of this network namespace; None where there is none.

    A gateway that the kernel never had to ask counts as silent: `provoke` makes it ask.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return None
    up = any(number == index and flags & _UP for number, flags in _links())
    own = tuple(address for number, address in addresses() if number == index)
    gateways = tuple(gateway for number, gateway in _default_routes() if number == index)
    answered = {address for number, address, state in _neighbours() if number == index and state & _ANSWERED}
    return Interface(name, index, up, own, gateways, tuple(each for each in gateways if each not in answered))


def provoke(interface: Interface, gateway: IPAddress) -> None:
    """Send a datagram to the gateway's discard port, so that the kernel has to find out who it is."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        # Refusals (no route, interface down) show in the tables; nothing is to be said here.
        with contextlib.suppress(OSError):
            where = (
                (str(gateway), _DISCARD)
                if gateway.version == 4
                else (str(gateway), _DISCARD, 0, interface.index)
            )
            sender.sendto(b"", where)


def _links() -> Iterator[tuple[int, int]]:
    for body in rows(_NETLINK_ROUTE, _GET_LINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
        yield index, flags


def addresses() -> Iterator[tuple[int, IPAddress]]:
    """Yield every address of this network namespace, with the index of its interface."""
    for body in rows(_NETLINK_ROUTE, _GET_ADDRESS, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        index = struct.unpack_from("=I", body, 4)[0]
        found = attributes(body, 8)
        packed = found.get(2) or found.get(1)  # IFA_LOCAL, IFA_ADDRESS
        if packed:
            yield index, ip_address(packed)


def neighbours(egress: str) -> frozenset[IPNetwork]:
    """Return what is on the links of the pod's other interfaces: their networks and their gateways.

    A gateway there is the node, which serves more than routes. Without the egress interface there is no such
    side: everything is reached through one interface then.
    """
    try:
        outside = socket.if_nametoindex(egress)
    except OSError:
        return frozenset()
    found: set[IPNetwork] = set()
    for index, network, gateway in _routes():
        if index == outside:
            continue
        if gateway is not None:
            found.add(ip_network(gateway))
        elif network is not None:
            found.add(network)
    return frozenset(found)


def _default_routes() -> Iterator[tuple[int, IPAddress]]:
    for index, network, gateway in _routes():
        if network is None and gateway is not None:
            yield index, gateway


def _routes() -> Iterator[tuple[int, IPNetwork | None, IPAddress | None]]:
    """Yield interface, network (None: default route) and gateway (None: on the link) of the main table."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in rows(
            _NETLINK_ROUTE, _GET_ROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        ):
            length, table = body[1], body[4]
            found = attributes(body, 12)
            to, out, gateway = found.get(1), found.get(4), found.get(5)  # RTA_DST, RTA_OIF, RTA_GATEWAY
            if table != _MAIN_TABLE or not out:
                continue
            network = ip_network((ip_address(to), length)) if to and length else None
            yield struct.unpack("=I", out)[0], network, ip_address(gateway) if gateway else None


def _neighbours() -> Iterator[tuple[int, IPAddress, int]]:
    for body in rows(_NETLINK_ROUTE, _GET_NEIGHBOUR, struct.pack("=BxxxiHBB", 0, 0, 0, 0, 0)):
        index, state = struct.unpack_from("=iH", body, 4)
        packed = attributes(body, 12).get(1)  # NDA_DST
        if packed and len(packed) in {4, 16}:
            yield index, ip_address(packed), state
