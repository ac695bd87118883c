"""EGRESS_SOURCE and EGRESS_GATEWAY: the addresses, their subnets, and whether they fit together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.grammar.address import (
    AddressError,
    IPAddress,
    IPNetwork,
    parse_address,
    parse_network,
)
from egress_router.grammar.locality import Locality, locality
from egress_router.settings.variables import Environment, Variable, each

if TYPE_CHECKING:
    from collections.abc import Mapping

# Without leading zeros: they would only hide how many digits there are.
_LENGTH = re.compile(r"[1-9][0-9]{0,2}")
_NO_HOST = {Locality.LOOPBACK, Locality.UNSPECIFIED, Locality.MULTICAST, Locality.BROADCAST}


@dataclass(frozen=True, slots=True)
class Source:
    """An address to claim, the length of its subnet (all bits: not given), and its gateway."""

    address: IPAddress
    prefix: int
    gateway: IPAddress

    @property
    def knows_subnet(self) -> bool:
        """Whether a subnet was given; without one, only the gateway is reachable directly."""
        return self.prefix < self.address.max_prefixlen


def _host(text: str) -> IPAddress:
    address = parse_address(text)
    if locality(address) in _NO_HOST:
        raise AddressError(f"{text!r} cannot be an address on a subnet ({locality(address).value})")
    return address


def _source(text: str) -> tuple[IPAddress, int]:
    address_text, slash, length = text.partition("/")
    address = _host(address_text)
    if isinstance(address, IPv6Address) and address.is_link_local:
        raise AddressError(f"{address_text!r} is link-local, and no gateway forwards it")
    if not slash:
        return address, address.max_prefixlen
    if not _LENGTH.fullmatch(length) or int(length) > address.max_prefixlen:
        raise AddressError(f"invalid subnet length {length!r} (a number from 1 to {address.max_prefixlen})")
    subnet = parse_network(text)
    if _is_reserved(address, subnet):
        raise AddressError(f"{address} is the network or broadcast address of {subnet}")
    return address, int(length)


def _is_reserved(address: IPAddress, subnet: IPNetwork) -> bool:
    """Whether an IPv4 subnet reserves an address; a subnet of two addresses reserves none (RFC 3021)."""
    return (
        isinstance(address, IPv4Address)
        and subnet.prefixlen < 31
        and address in {subnet.network_address, subnet.broadcast_address}
    )


def _sources(text: str) -> tuple[tuple[IPAddress, int], ...]:
    found = each(text, _source)
    addresses = [address for address, _ in found]
    for address in addresses:
        if addresses.count(address) > 1:
            raise AddressError(f"{address} stands there twice")
    return tuple(found)


def _addresses(text: str) -> tuple[IPAddress, ...]:
    return tuple(address for address, _ in _sources(text))


def _gateways(text: str) -> tuple[IPAddress, ...]:
    if "/" in text:
        raise AddressError("expected an address without a length")
    found = each(text, _host)
    if len({address.version for address in found}) != len(found):
        raise AddressError("expected one address, or one IPv4 and one IPv6 address separated by a comma")
    return tuple(found)


SOURCE = Variable(
    "EGRESS_SOURCE",
    "addresses to claim, separated by commas, each with the length of its subnet (`192.168.12.99/24`;"
    " without: only the gateway is reachable there); with addresses of both families it is dual-stack",
    None,
    _sources,
)
# For the proxies, whose rules may name one of them as the source of a connection.
OPTIONAL_SOURCE = Variable(SOURCE.name, SOURCE.meaning, "", lambda text: _addresses(text) if text else ())
GATEWAY = Variable(
    "EGRESS_GATEWAY",
    "next hop for everything outside the cluster; comma-separated IPv6 second",
    None,
    _gateways,
)


def known_sources(environ: Mapping[str, str]) -> tuple[IPAddress, ...] | None:
    """Return the addresses of EGRESS_SOURCE for `check`; None: they are not known.

    A variable that is present and empty is known to be unset; one that is not present may be given elsewhere.
    """
    return Environment(environ).read(OPTIONAL_SOURCE) if SOURCE.name in environ else None


def read_sources(environment: Environment) -> tuple[Source, ...]:
    """Read both variables, pair each address with the gateway of its family, report what does not fit."""
    addresses, gateways = environment.read(SOURCE), environment.read(GATEWAY)
    if addresses is None or gateways is None:
        return ()
    by_version = {gateway.version: gateway for gateway in gateways}
    sources = []
    versions = dict.fromkeys(address.version for address, _ in addresses)
    for version in versions:
        if version not in by_version:
            reason = f"has no IPv{version} gateway, but EGRESS_SOURCE has an IPv{version} address"
            environment.reject(Problem(GATEWAY.name, None, None, reason))
    for address, prefix in addresses:
        gateway = by_version.get(address.version)
        if gateway is None:
            continue
        source = Source(address, prefix, gateway)
        problem = _misfit(source)
        if problem is not None:
            environment.reject(Problem(GATEWAY.name, None, str(gateway), problem))
        sources.append(source)
    for gateway in gateways:
        if gateway.version in versions:
            continue
        reason = f"is an IPv{gateway.version} gateway, but EGRESS_SOURCE has no address of that family"
        environment.reject(Problem(GATEWAY.name, None, str(gateway), reason))
    return tuple(sources)


def _misfit(source: Source) -> str | None:
    """Say why the gateway cannot be that of the source; None if it can."""
    if source.gateway == source.address:
        return "is EGRESS_SOURCE itself; expected the next hop"
    link_local = isinstance(source.gateway, IPv6Address) and source.gateway.is_link_local
    if not source.knows_subnet or link_local:
        return None
    subnet = parse_network(f"{source.address}/{source.prefix}")
    if source.gateway not in subnet:
        return f"is not on the subnet {subnet} of EGRESS_SOURCE (leave its length out if that is meant)"
    if _is_reserved(source.gateway, subnet):
        return f"is the network or broadcast address of {subnet}; expected the next hop"
    return None
