"""Compares the name in a ClientHello with where the connection is allowed to go."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, parse_host

if TYPE_CHECKING:
    from egress_router.grammar.address import Host
    from egress_router.tls.client_hello import ClientHello


class NameFault(enum.Enum):
    """Why a ClientHello has no name to decide on; the value is used in records."""

    NO_NAME = "no_sni"
    ADDRESS = "sni_is_address"
    BAD_NAME = "sni_is_no_host_name"


class SniMatch(enum.Enum):
    """How the ClientHello in a CONNECT tunnel relates to the host of the CONNECT."""

    ABSENT = "no SNI: nothing to compare"
    SAME = "the SNI is the host of the CONNECT"
    ASK_LIST = "the CONNECT named an address: the list decides on the SNI"
    OTHER = "the SNI is not the host of the CONNECT"


def server_name(hello: ClientHello) -> str | NameFault:
    """Return the name that a ClientHello asks for, in the form that rules compare, or why it has none.

    RFC 6066 3 allows no addresses; a trailing dot, which it does not allow either, is removed as everywhere.
    """
    if hello.server_name is None:
        return NameFault.NO_NAME
    try:
        host = parse_host(hello.server_name)
    except AddressError:
        return NameFault.BAD_NAME
    return NameFault.ADDRESS if isinstance(host, IPv4Address | IPv6Address) else host


def compare(hello: ClientHello, connect_host: Host) -> SniMatch:
    """Compare the SNI with the host of a CONNECT; `connect_host` is already normalised."""
    name = server_name(hello)
    if name is NameFault.NO_NAME:
        return SniMatch.ABSENT
    if isinstance(name, NameFault):
        return SniMatch.OTHER
    if isinstance(connect_host, str):
        # A short name that was sent with a dot (`db.`) is looked up with it, and compared without it.
        return SniMatch.SAME if name == connect_host.removesuffix(".") else SniMatch.OTHER
    return SniMatch.ASK_LIST
