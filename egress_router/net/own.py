"""Which addresses and networks are this pod's own, or its neighbours': the one place for all modes."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from egress_router.net import rtnetlink
from egress_router.net.route import source_towards

if TYPE_CHECKING:
    from collections.abc import Collection

    from egress_router.grammar.address import IPAddress, IPNetwork


def addresses() -> frozenset[IPAddress]:
    """Return every address of this network namespace.

    Raises:
        OSError: the kernel cannot be asked.
    """
    return frozenset(address for _, address in rtnetlink.addresses())


def addresses_of(interface: str) -> frozenset[IPAddress]:
    """Return the addresses of one interface; none if it does not exist, or the kernel cannot be asked."""
    try:
        wanted = socket.if_nametoindex(interface)
        return frozenset(address for index, address in rtnetlink.addresses() if index == wanted)
    except OSError:
        return frozenset()


def comes_back(address: IPAddress, sources: Collection[IPAddress]) -> bool:
    """Return whether a connection to an address may come back to this pod, translated on its way.

    It cannot if the address is the pod's own, or if it leaves with one of `sources` for a closed network.
    """
    try:
        source = ip_address(source_towards(address))
    except OSError:
        return False
    return source != address and source not in sources


def is_own(address: IPAddress) -> bool:
    """Return whether an address is one of this pod's: a connection there would come from the same address."""
    if address.is_loopback or address.is_unspecified:
        return True
    try:
        return source_towards(address) == str(address)
    except OSError:
        return False


def neighbours(egress: str) -> frozenset[IPNetwork]:
    """Return what is on the links of the pod's other interfaces: their networks and their gateways.

    A gateway there is the node, which offers other services, too. Without the egress interface there is
    nothing to return: everything is reached through one interface then.
    """
    try:
        egress_index = socket.if_nametoindex(egress)
    except OSError:
        return frozenset()
    found: set[IPNetwork] = set()
    for index, network, gateway in rtnetlink.routes():
        if index == egress_index:
            continue
        if gateway is not None:
            found.add(ip_network(gateway))
        elif network is not None:
            found.add(network)
    return frozenset(found)
