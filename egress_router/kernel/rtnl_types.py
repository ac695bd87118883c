"""Links, addresses and routes as typed values, read out of rtnetlink messages as pyroute2 decodes them.

Sources: rtnetlink(7), linux/if.h, linux/if_addr.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress, IPNetwork

# The alias of an interface that `setup` made; a later run knows it by it.
MADE = "made by egress-router"
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NOPREFIXROUTE = 0x200  # IFA_F_NOPREFIXROUTE: routes are set explicitly
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_UNICAST = 1  # RTN_UNICAST; other types (local, broadcast, unreachable) are not ours to copy
_ONLINK = 0x4  # RTNH_F_ONLINK
_CLONED = 0x200  # RTM_F_CLONED: cached path-MTU exceptions
# The rtm_protocol of routes that `setup` made (`ip route show proto 97`); a later run knows them by it. The
# kernel gives it no meaning, and /etc/iproute2/rt_protos names no other program's 97.
_OURS = 97
_KERNEL, _RA = 2, 9  # RTPROT_KERNEL, RTPROT_RA
# Of a route's metrics those that say what fits through: an overlay network often says so on its routes only.
_METRICS = ("mtu", "advmss")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface; `kind` is empty for a physical one.

    `parent` is the index of the interface that it stands on, where that is in the same namespace;
    `macvlan_mode` is empty for what is no macvlan.
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
    """One address of an interface; `is_ours` when it came without a route of its own, as `setup` adds it."""

    address: IPAddress
    prefix: int
    is_ours: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route; `destination` None is the default route, `gateway` None means on the link.

    `is_ours` when `setup` made it, by its protocol number; `is_advertised` when a router advertisement did.
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


def read_link(message: object) -> Link:
    """Read an interface."""
    get = message.get_attr  # type: ignore[attr-defined]
    info = get("IFLA_LINKINFO")
    data = None if info is None else info.get_attr("IFLA_INFO_DATA")
    kind = "" if info is None else info.get_attr("IFLA_INFO_KIND") or ""
    return Link(
        index=message["index"],  # type: ignore[index]
        name=get("IFLA_IFNAME"),
        kind=kind,
        mtu=get("IFLA_MTU"),
        mac=get("IFLA_ADDRESS") or "",
        is_up=bool(message["flags"] & _IFF_UP),  # type: ignore[index]
        has_carrier=bool(message["flags"] & _IFF_LOWER_UP),  # type: ignore[index]
        parent=None if get("IFLA_LINK_NETNSID") is not None else get("IFLA_LINK"),
        macvlan_mode=(data.get_attr("IFLA_MACVLAN_MODE") or "") if kind == "macvlan" and data else "",
        alias=get("IFLA_IFALIAS") or "",
    )


def read_address(message: object) -> Address:
    """Read an address of an interface."""
    get = message.get_attr  # type: ignore[attr-defined]
    flags = cast("int", get("IFA_FLAGS") or message["flags"])  # type: ignore[index]
    return Address(
        address=ip_address(get("IFA_LOCAL") or get("IFA_ADDRESS")),
        prefix=message["prefixlen"],  # type: ignore[index]
        is_ours=bool(flags & NOPREFIXROUTE),
    )


def read_route(message: object, version: int) -> Route | None:
    """Read a unicast route; of a multipath route the first next hop. None for other kinds."""
    get = message.get_attr  # type: ignore[attr-defined]
    if message["type"] != _UNICAST or message["flags"] & _CLONED:  # type: ignore[index]
        return None
    hop, flags = get, message["flags"]  # type: ignore[index]
    paths = get("RTA_MULTIPATH")
    if paths:
        hop, flags = paths[0].get_attr, paths[0]["flags"]
        index = paths[0]["oif"]
    else:
        index = get("RTA_OIF")
    if index is None:
        return None
    destination = get("RTA_DST")
    length = message["dst_len"]  # type: ignore[index]
    gateway, via, source = hop("RTA_GATEWAY"), hop("RTA_VIA"), get("RTA_PREFSRC")
    if gateway is None and via is not None:
        gateway = via["addr"]
    if destination is None and length:
        destination = "0.0.0.0" if version == 4 else "::"  # noqa: S104 (a half default such as 0.0.0.0/1)
    return Route(
        destination=None if destination is None else ip_network(f"{destination}/{length}"),
        gateway=None if gateway is None else ip_address(gateway),
        index=index,
        scope=message["scope"],  # type: ignore[index]
        source=None if source is None else ip_address(source),
        metric=get("RTA_PRIORITY") or 0,
        onlink=bool(flags & _ONLINK),
        metrics=_read_metrics(get("RTA_METRICS")),
        is_ours=message["proto"] == _OURS,  # type: ignore[index]
        is_advertised=_is_advertised(message),
    )


def _is_advertised(message: object) -> bool:
    """Say whether a router advertisement made the route: by its protocol, or as a prefix that runs out."""
    cache = message.get_attr("RTA_CACHEINFO")  # type: ignore[attr-defined]
    runs_out = cache is not None and cache["rta_expires"] != 0
    return message["proto"] == _RA or (message["proto"] == _KERNEL and runs_out)  # type: ignore[index]


def _read_metrics(nested: object) -> tuple[tuple[str, int], ...]:
    if nested is None:
        return ()
    found = ((name, nested.get_attr(f"RTAX_{name.upper()}")) for name in _METRICS)  # type: ignore[attr-defined]
    return tuple((name, value) for name, value in found if value)


def route_fields(route: Route, version: int, table: int) -> dict[str, object]:
    """Return what tells the kernel which route is meant, as pyroute2 wants it."""
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
    """Return the same with what a new route has besides."""
    fields = route_fields(route, version, table)
    if route.metrics:
        fields["metrics"] = dict(route.metrics)
    if route.is_ours:
        fields["proto"] = _OURS
    return fields
