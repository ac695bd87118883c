"""What kind of place an address is, and which IPv4 destinations an IPv6 address carries: two tables.

A rule that means everything covers `Locality.REMOTE` only, and a denial of an IPv4 range also holds for the
IPv6 forms of its addresses. Each row names its source.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING

from egress_router.grammar.address import unmapped

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress, IPNetwork


class Locality(enum.Enum):
    """What kind of place an address is; only `REMOTE` is covered by a rule that means everything."""

    REMOTE = "remote"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    BROADCAST = "broadcast"
    RESERVED = "reserved"
    METADATA = "metadata service of a cloud"
    SPECIAL = "special-purpose"


# The first row that holds an address decides. Private and shared ranges (RFC 1918, RFC 6598, RFC 4193) are
# remote: the networks behind a router's gateway mostly use them.
_PLACES: tuple[tuple[str, Locality], ...] = (
    ("127.0.0.0/8", Locality.LOOPBACK),  # RFC 1122 3.2.1.3
    ("169.254.0.0/16", Locality.LINK_LOCAL),  # RFC 3927; most clouds serve metadata here
    ("0.0.0.0/8", Locality.UNSPECIFIED),  # RFC 1122 3.2.1.3: "this network"; Linux: this host
    ("224.0.0.0/4", Locality.MULTICAST),  # RFC 5771
    ("255.255.255.255/32", Locality.BROADCAST),  # RFC 919 7
    ("240.0.0.0/4", Locality.RESERVED),  # RFC 1112 4
    ("168.63.129.16/32", Locality.METADATA),  # Azure: WireServer, DNS and health of the platform
    ("100.100.100.200/32", Locality.METADATA),  # Alibaba Cloud
    ("192.0.0.192/32", Locality.METADATA),  # Oracle Cloud, inside RFC 6890's block
    ("192.0.0.0/24", Locality.SPECIAL),  # RFC 6890 2.2.2: protocol assignments, not forwarded
    ("::1/128", Locality.LOOPBACK),  # RFC 4291 2.5.3
    ("::/128", Locality.UNSPECIFIED),  # RFC 4291 2.5.2
    ("fe80::/10", Locality.LINK_LOCAL),  # RFC 4291 2.5.6
    ("fec0::/10", Locality.LINK_LOCAL),  # site-local, RFC 3513 2.5.6, deprecated by RFC 3879
    ("ff00::/8", Locality.MULTICAST),  # RFC 4291 2.7
    ("fd00:ec2::/32", Locality.METADATA),  # AWS: metadata ::254, DNS ::253, time ::123, credentials ::23
    ("fd20:ce::254/128", Locality.METADATA),  # Google Cloud
    ("fd00:42::42/128", Locality.METADATA),  # Scaleway
    ("100::/64", Locality.SPECIAL),  # RFC 6666: discard only
    ("5f00::/16", Locality.SPECIAL),  # RFC 9602: segment identifiers, inside one operator's network
)


@dataclass(frozen=True, slots=True)
class _Form:
    """An IPv6 form that carries an IPv4 address.

    An address has this form if its bits under `mask` are `value`. `slices` say where the IPv4 address is,
    from its first bits to its last: (bits to the right, number of bits). `inverted`: its bits are inverted.
    """

    mask: int
    value: int
    slices: tuple[tuple[int, int], ...]
    inverted: bool = False

    def inside(self, number: int) -> IPv4Address | None:
        """Return the IPv4 address inside an IPv6 address; None if that does not have this form."""
        if number & self.mask != self.value:
            return None
        found = 0
        for shift, bits in self.slices:
            found = found << bits | (number >> shift & ((1 << bits) - 1))
        return IPv4Address(found ^ 0xFFFFFFFF if self.inverted else found)


def _form(prefix: str, *slices: tuple[int, int], inverted: bool = False) -> _Form:
    network = IPv6Network(prefix)
    return _Form(int(network.netmask), int(network.network_address), slices, inverted)


_FORMS: tuple[_Form, ...] = (
    _form("::/96", (0, 32)),  # IPv4-compatible, RFC 4291 2.5.5.1
    _form("::ffff:0:0/96", (0, 32)),  # IPv4-mapped, RFC 4291 2.5.5.2
    _form("::ffff:0:0:0/96", (0, 32)),  # IPv4-translated, RFC 2765 2.1
    _form("64:ff9b::/96", (0, 32)),  # NAT64 with the well-known prefix, RFC 6052 2.1
    # NAT64 with a prefix for local use, RFC 8215, in each length that fits into it, RFC 6052 2.2: bits 64 to
    # 71 are left out, and the bits after the IPv4 address have no meaning.
    _form("64:ff9b:1::/48", (0, 32)),  # /96
    _form("64:ff9b:1::/48", (24, 32)),  # /64
    _form("64:ff9b:1::/48", (64, 8), (32, 24)),  # /56
    _form("64:ff9b:1::/48", (64, 16), (40, 16)),  # /48
    _form("2002::/16", (80, 32)),  # 6to4, RFC 3056 2
    _form("2001::/32", (0, 32), inverted=True),  # Teredo's client, RFC 4380 4
    _form("2001::/32", (64, 32)),  # Teredo's server, which relays the packets that open the way to a client
    # ISATAP under any prefix, RFC 5214 6.1: the interface identifier is 00-00-5E-FE or 02-00-5E-FE, and IPv4.
    _Form(0xFDFFFFFF << 32, 0x00005EFE << 32, ((0, 32),)),
)

_NETWORKS: tuple[tuple[IPNetwork, Locality], ...] = tuple(
    (ip_network(prefix), kind) for prefix, kind in _PLACES
)
_BY_VERSION = {
    version: [(network, kind) for network, kind in _NETWORKS if network.version == version]
    for version in (4, 6)
}


def locality(address: IPAddress) -> Locality:
    """Say what kind of place `address` is, looking inside IPv6 forms that carry an IPv4 destination."""
    address = unmapped(address)
    for network, kind in _BY_VERSION[address.version]:
        if address in network:
            return kind
    if isinstance(address, IPv6Address):
        for inner in embedded(address):
            kind = locality(inner)
            if kind is not Locality.REMOTE:
                return kind
    return Locality.REMOTE


def embedded(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return every IPv4 destination that an IPv6 address may carry: mostly none, in some forms several.

    Where forms share a prefix, an address of 0.0.0.0/8 shows that it is another form: a translator sends
    nothing there.
    """
    number = int(address)
    found = (form.inside(number) for form in _FORMS)
    distinct = tuple(dict.fromkeys(inner for inner in found if inner is not None))
    return tuple(inner for inner in distinct if int(inner) >> 24) or distinct
