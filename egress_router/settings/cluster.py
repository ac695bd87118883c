"""EGRESS_CLUSTER_CIDRS: the networks that stay on the pod's first interface, and which cannot be given."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING

from egress_router.grammar.address import AddressError, IPNetwork, parse_network
from egress_router.settings.variables import Variable, each

if TYPE_CHECKING:
    from collections.abc import Iterable

# Addresses that are not public (the IANA special-purpose registries, RFC 6890); no two networks overlap.
_NOT_PUBLIC = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")  # RFC 4291 2.4: all global unicast addresses are from here so far
# No cluster has more public addresses than this: four networks of /8 (some borrow 11, 25 or 30.0.0.0/8), one
# of /16. More would act like the default route of the first interface again, past EGRESS_SOURCE.
_MAX_PUBLIC = {4: 4 << 24, 6: 1 << (128 - 16)}


def covers_public_space(networks: Iterable[IPNetwork]) -> bool:
    """Say whether networks together hold more public addresses than a cluster can have."""
    known = list(networks)
    four = collapse_addresses(network for network in known if isinstance(network, IPv4Network))
    six = collapse_addresses(network for network in known if isinstance(network, IPv6Network))
    return sum(map(_public_v4, four)) > _MAX_PUBLIC[4] or sum(map(_public_v6, six)) > _MAX_PUBLIC[6]


def _public_v4(network: IPv4Network) -> int:
    if any(network.subnet_of(other) for other in _NOT_PUBLIC):
        return 0
    inside = (other for other in _NOT_PUBLIC if other.subnet_of(network))
    return network.num_addresses - sum(other.num_addresses for other in inside)


def _public_v6(network: IPv6Network) -> int:
    if not network.overlaps(_PUBLIC_V6):
        return 0
    return min(network.num_addresses, _PUBLIC_V6.num_addresses)


def _network(text: str) -> IPNetwork:
    network = parse_network(text)
    if not network.prefixlen:
        raise AddressError(f"{text!r} is everything; expected the networks of the cluster")
    return network


def _networks(text: str) -> tuple[IPNetwork, ...]:
    given = text.strip(", ")
    networks = tuple(each(given, _network)) if given else ()
    if covers_public_space(networks):
        raise AddressError(
            "these networks together cover public addresses that no cluster has, and what is sent there would"
            " leave past EGRESS_SOURCE; expected the networks of the cluster"
        )
    return networks


CLUSTER_CIDRS = Variable(
    "EGRESS_CLUSTER_CIDRS",
    "extra networks that stay on the pod's first interface, separated by commas",
    "",
    _networks,
)
