"""Links, addresses and routes as typed values, read out of rtnetlink messages as pyroute2 decodes them.

Sources: rtnetlink(7), linux/if.h, linux/if_addr.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.kernel.message import Message

# The alias of an interface that `setup` made; a later run recognises it by this.
MADE = "made by egress-router"
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NOPREFIXROUTE = 0x200  # IFA_F_NOPREFIXROUTE: routes are set explicitly
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_UNICAST = 1  # RTN_UNICAST; other types (local, broadcast, unreachable) are not ours to copy
_ONLINK = 0x4  # RTNH_F_ONLINK
_CLONED = 0x200  # RTM_F_CLONED: cached path-MTU exceptions
# The rtm_protocol of routes that `setup` made (`ip route show proto 97`); a later run recognises them by it.
# The kernel gives it no meaning, and /etc/iproute2/rt_protos lists no other program with 97.
_OURS = 97
_KERNEL, _RA = 2, 9  # RTPROT_KERNEL, RTPROT_RA
# The metrics of a route that limit packet sizes: an overlay network often sets them on its routes only.
_METRICS = ("mtu", "advmss")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface; `kind` is empty for a physical one.

    `parent` is the index of the interface below it, if that is in the same namespace; `macvlan_mode` is empty
    for an interface that is not a macvlan.
    """

    index: int
    name: str
    kind: str
    mtu: int
    mac: str
    is_up: bool
    has_carrier: bool
    parent: int | None = None
    macvlan_mode: str = ""
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an interface; `is_ours`: it has no route of its own, as `setup` adds it."""

    address: IPAddress
    prefix: int
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route; `destination` None is the default route, `gateway` None means on the link.

    `is_ours`: `setup` made it, by its protocol number; `is_advertised`: a router advertisement did.
    """

    destination: IPNetwork | None
    gateway: IPAddress | None
    index: int
    scope: int = 0
    source: IPAddress | None = None
    metric: int = 0
    onlink: bool = False
    metrics: tuple[tuple[str, int], ...] = ()
    is_ours: bool = False
    is_advertised: bool = False


def read_link(message: Message) -> Link:
    """Read an interface."""
    info = message.nested("IFLA_LINKINFO")
    kind = None if info is None else info.text("IFLA_INFO_KIND")
    data = None if info is None or kind != "macvlan" else info.nested("IFLA_INFO_DATA")
    flags = message.field("flags")
    elsewhere = message.number("IFLA_LINK_NETNSID") is not None
    return Link(
        index=message.field("index"),
        name=message.text("IFLA_IFNAME") or "",
        kind=kind or "",
        mtu=message.number("IFLA_MTU") or 0,
        mac=message.text("IFLA_ADDRESS") or "",
        is_up=bool(flags & _IFF_UP),
        has_carrier=bool(flags & _IFF_LOWER_UP),
        parent=None if elsewhere else message.number("IFLA_LINK"),
        macvlan_mode="" if data is None else data.text("IFLA_MACVLAN_MODE") or "",
        alias=message.text("IFLA_IFALIAS") or "",
    )


def read_address(message: Message) -> Address:
    """Read an address of an interface."""
    flags = message.number("IFA_FLAGS") or message.field("flags")
    return Address(
        address=ip_address(message.text("IFA_LOCAL") or message.text("IFA_ADDRESS") or ""),
        prefix=message.field("prefixlen"),
        is_ours=bool(flags & NOPREFIXROUTE),
    )


def read_route(message: Message, version: int) -> Route | None:
    """Read a unicast route; of a multipath route the first next hop. None for other kinds."""
    if message.field("type") != _UNICAST or message.field("flags") & _CLONED:
        return None
    path = message.first("RTA_MULTIPATH")
    hop = message if path is None else path
    index = message.number("RTA_OIF") if path is None else path.field("oif")
    if index is None:
        return None
    source = message.text("RTA_PREFSRC")
    return Route(
        destination=_read_destination(message, version),
        gateway=_read_gateway(hop),
        index=index,
        scope=message.field("scope"),
        source=None if source is None else ip_address(source),
        metric=message.number("RTA_PRIORITY") or 0,
        onlink=bool(hop.field("flags") & _ONLINK),
        metrics=_read_metrics(message.nested("RTA_METRICS")),
        is_ours=message.field("proto") == _OURS,
        is_advertised=_is_advertised(message),
    )


def _read_destination(message: Message, version: int) -> IPNetwork | None:
    destination, length = message.text("RTA_DST"), message.field("dst_len")
    if destination is None and length:
        destination = "0.0.0.0" if version == 4 else "::"  # noqa: S104 (a half default such as 0.0.0.0/1)
    return None if destination is None else ip_network(f"{destination}/{length}")


def _read_gateway(hop: Message) -> IPAddress | None:
    gateway, via = hop.text("RTA_GATEWAY"), hop.nested("RTA_VIA")
    if gateway is None and via is not None:
        gateway = via.word("addr")
    return None if gateway is None else ip_address(gateway)


def _is_advertised(message: Message) -> bool:
    """Say whether a router advertisement made the route: by its protocol, or as a prefix that runs out."""
    cache = message.nested("RTA_CACHEINFO")
    runs_out = cache is not None and cache.field("rta_expires") != 0
    protocol = message.field("proto")
    return protocol == _RA or (protocol == _KERNEL and runs_out)


def _read_metrics(nested: Message | None) -> tuple[tuple[str, int], ...]:
    if nested is None:
        return ()
    found = ((name, nested.number(f"RTAX_{name.upper()}")) for name in _METRICS)
    return tuple((name, value) for name, value in found if value)


def route_fields(route: Route, version: int, table: int) -> dict[str, object]:
    """Return the fields that identify a route for the kernel, as pyroute2 expects them."""
    fields: dict[str, object] = {
        "family": FAMILIES[version],
        "table": table,
        "oif": route.index,
        "scope": route.scope,
        "dst": "default" if route.destination is None else str(route.destination),
    }
    if route.gateway is not None and route.gateway.version == version:
        fields["gateway"] = str(route.gateway)
    elif route.gateway is not None:
        fields["via"] = {"family": FAMILIES[route.gateway.version], "addr": str(route.gateway)}
    if route.source is not None:
        fields["prefsrc"] = str(route.source)
    if route.metric:
        fields["priority"] = route.metric
    if route.onlink:
        fields["flags"] = _ONLINK
    return fields


def new_route_fields(route: Route, version: int, table: int) -> dict[str, object]:
    """Return the same, with the fields that only a new route has."""
    fields = route_fields(route, version, table)
    if route.metrics:
        fields["metrics"] = dict(route.metrics)
    if route.is_ours:
        fields["proto"] = _OURS
    return fields
