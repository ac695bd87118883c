"""The kernel's tables of links, addresses, routes and neighbours, as values.

Sources: rtnetlink(7), linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from egress_router.net.netlink_dump import attributes, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import IPAddress, IPNetwork

_NETLINK_ROUTE = 0
_GET_LINK, _GET_ADDRESS, _GET_ROUTE, _GET_NEIGHBOUR = 18, 22, 26, 30
_MAIN_TABLE = 254


def links() -> Iterator[tuple[int, int]]:
    """Yield index and flags of every interface."""
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


def default_routes() -> Iterator[tuple[int, IPAddress]]:
    """Yield interface and gateway of every default route of the main table."""
    for index, network, gateway in routes():
        if network is None and gateway is not None:
            yield index, gateway


def routes() -> Iterator[tuple[int, IPNetwork | None, IPAddress | None]]:
    """Yield interface, network (None: default route) and gateway (None: on the link) of the main table."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in rows(
            _NETLINK_ROUTE, _GET_ROUTE, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        ):
            length, table = body[1], body[4]
            found = attributes(body, 12)
            to, interface, gateway = found.get(1), found.get(4), found.get(5)  # RTA_DST, RTA_OIF, RTA_GATEWAY
            if table != _MAIN_TABLE or not interface:
                continue
            network = ip_network((ip_address(to), length)) if to and length else None
            yield struct.unpack("=I", interface)[0], network, ip_address(gateway) if gateway else None


def neighbours() -> Iterator[tuple[int, IPAddress, int]]:
    """Yield interface, address and state (NUD_…) of every neighbour."""
    for body in rows(_NETLINK_ROUTE, _GET_NEIGHBOUR, struct.pack("=BxxxiHBB", 0, 0, 0, 0, 0)):
        index, state = struct.unpack_from("=iH", body, 4)
        packed = attributes(body, 12).get(1)  # NDA_DST
        if packed and len(packed) in {4, 16}:
            yield index, ip_address(packed), state
