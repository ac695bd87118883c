"""Routes: traffic to the outside uses the egress interface, replies to clients use the first interface.

The default route of the pod's first interface moves into a table of its own, together with copies of that
interface's other routes. Packets of the reply direction carry a mark (`REPLY_MARK`, set by the NAT rules)
and use that table, so replies to a client with any address leave by the interface of its request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.kernel import sysctl
from egress_router.kernel.nat.plan import REPLY_MARK
from egress_router.kernel.rtnl_types import Route
from egress_router.settings.cluster import covers_public_space

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.kernel.netlink import Netlink
    from egress_router.kernel.rtnl_types import Link
    from egress_router.settings.setup import Source

REPLY_TABLE = 9797
_RULE_PRIORITY = 9797
_SCOPE_LINK = 253
_USER_METRIC = 1024
_BROADCAST = IPv4Address("255.255.255.255")
_log = log.get("kernel")


@dataclass(frozen=True, slots=True)
class FamilyRoutes:
    """The planned routes of one family: for both tables, and what to remove from the main one.

    `reply` is the complete reply table; `keep` and `egress` are missing in the main one; `lost` are the
    networks that cannot stay on the first interface, because it has no default route.
    """

    reply: tuple[Route, ...]
    keep: tuple[Route, ...]
    egress: tuple[Route, ...]
    removed: tuple[Route, ...]
    lost: tuple[IPNetwork, ...]


def plan_family(
    main: Sequence[Route],
    saved: Sequence[Route],
    egress: int,
    sources: Sequence[Source],
    kept: Sequence[IPNetwork],
) -> FamilyRoutes:
    """Decide the routes of one family. Pure; run again on its result it changes nothing.

    `main` and `saved` are what the main and the reply table hold now, `egress` is the index of the egress
    interface, `sources` are those that the router holds, the usual one first. The default route of a family
    without sources moves too, or the pod would reach the outside with its own address. `kept` are the
    networks that stay on the first interface.
    """
    inside = [route for route in main if route.index != egress]
    # Routes that somebody on the first interface advertised are for replies only.
    advertised = [route for route in inside if route.is_advertised and route.destination is not None]
    theirs = [route for route in inside if not route.is_ours]
    defaults = [route for route in theirs if route.destination is None]
    # On a second run the old default route is already in the reply table only.
    old = defaults or [route for route in saved if route.destination is None and route.index != egress]
    others = [route for route in theirs if route.destination is not None]
    egress_routes = _egress_routes(sources, egress)
    lasting = [route for route in others if route not in advertised]
    networks = _to_keep(kept, sources, lasting, egress_routes)
    keep = [replace(old[0], destination=each, metric=0, is_ours=True) for each in networks] if old else []
    outside = [route for route in main if route.index == egress and not _is_link_local(route.destination)]
    earlier = [*(route for route in inside if route.is_ours), *outside]
    fresh = (*_missing(keep, inside), *_missing(egress_routes, outside))
    # A new route replaces its twin in one step; to delete the twin first would leave a gap without a route.
    displaced = {_twin(route) for route in fresh}
    old_ones = [each for each in earlier if _twin(each) not in displaced]
    return FamilyRoutes(
        reply=(*_near_first([*others, *_displaced(saved, others, egress, egress_routes)]), *keep, *old),
        keep=_missing(keep, inside),
        egress=_missing(egress_routes, outside),
        removed=(*defaults, *advertised, *_missing(old_ones, [*keep, *egress_routes])),
        lost=() if old else tuple(networks),
    )


def cluster_networks(
    main: Sequence[Route], outside: Collection[int], kept: Sequence[IPNetwork]
) -> tuple[IPNetwork, ...]:
    """Return the networks that the pod reaches by interfaces that are not on the outside network.

    They are the destinations of existing routes, and `kept`. Routes that cover public addresses are not the
    cluster's, nor are advertised ones, which any neighbour may have sent.
    """
    routes = [
        route.destination
        for route in main
        if route.index not in outside and route.destination is not None and not route.is_advertised
    ]
    return tuple(dict.fromkeys((*(each for each in routes if not covers_public_space([each])), *kept)))


def needs_route(name_server: IPAddress) -> bool:
    """Say whether a name server may need a gateway. IPv4 link-local ones do: they are caches of the node."""
    is_one_host = not (name_server.is_unspecified or name_server.is_multicast or name_server == _BROADCAST)
    on_link = name_server.version == 6 and name_server.is_link_local
    return is_one_host and not (name_server.is_loopback or on_link)


def _twin(route: Route) -> tuple[object, ...]:
    """Return the key of a route: of two with the same key, one replaces the other.

    For IPv6 the kernel takes metric 0 as 1024 (IP6_RT_PRIO_USER).
    """
    return route.destination, route.index, 0 if route.metric == _USER_METRIC else route.metric


def _missing(routes: Sequence[Route], known: Sequence[Route]) -> tuple[Route, ...]:
    keys = {_key(route) for route in known}
    return tuple(route for route in routes if _key(route) not in keys)


def _to_keep(
    kept: Sequence[IPNetwork],
    sources: Sequence[Source],
    others: Sequence[Route],
    egress_routes: Sequence[Route],
) -> list[IPNetwork]:
    """Choose the networks that need a route of ours to stay on the first interface.

    Not those that its own routes lead there anyway, and not what the egress interface needs itself.
    """
    own = {route.destination for route in egress_routes}
    own |= {ip_network(each) for source in sources for each in (source.address, source.gateway)}
    return [
        network
        for network in dict.fromkeys(kept)
        if network not in own and _longest(others, network) <= _longest(egress_routes, network)
    ]


def _longest(routes: Sequence[Route], network: IPNetwork) -> int:
    """Return the length of the most specific destination that covers the network; -1 without one."""
    destinations = (route.destination for route in routes)
    return max((each.prefixlen for each in destinations if each and _contains(each, network)), default=-1)


def _displaced(
    saved: Sequence[Route], others: Sequence[Route], egress: int, egress_routes: Sequence[Route]
) -> list[Route]:
    """Return saved routes to what is now an egress subnet: its own route replaced their twins."""
    taken = {route.destination for route in egress_routes if route.destination is not None}
    twins = [route for route in saved if route.destination in taken and route.index != egress]
    # Of several routes to one destination only one is displaced: the others have another metric.
    there = {(_key(route), _twin(route)) for route in others}
    return [route for route in twins if (_key(route), _twin(route)) not in there]


def _contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def _egress_routes(sources: Sequence[Source], index: int) -> tuple[Route, ...]:
    """Return the routes to every subnet, by the first address on it, and the default route by the first."""
    found: dict[IPNetwork | None, Route] = {}
    for source in sources:
        for route in _routes_of(source, index):
            found.setdefault(route.destination, route)
    return tuple(sorted(found.values(), key=lambda route: route.destination is None))


def _routes_of(source: Source, index: int) -> tuple[Route, ...]:
    length = source.prefix if source.knows_subnet else source.address.max_prefixlen
    near = source.address if source.knows_subnet else source.gateway
    subnet = ip_network(f"{near}/{length}", strict=False)
    default = Route(None, source.gateway, index, source=source.address, is_ours=True)
    if source.gateway.is_link_local and source.gateway.version == 6 and not source.knows_subnet:
        return (default,)  # fe80::/64 of the interface reaches it
    scope = _SCOPE_LINK if subnet.version == 4 else 0
    on_link = Route(subnet, None, index, scope, source.address, is_ours=True)
    return on_link, default


def _is_link_local(destination: IPNetwork | None) -> bool:
    return destination is not None and (destination.is_link_local or destination.is_multicast)


def _near_first(routes: Sequence[Route]) -> list[Route]:
    """Put on-link routes first: the kernel refuses a route whose gateway it cannot reach yet."""
    return sorted(routes, key=lambda route: route.gateway is not None)


def _key(route: Route) -> tuple[object, ...]:
    return (route.destination, route.gateway, route.index, route.source)


def ensure_routes(netlink: Netlink, link: Link, sources: Sequence[Source], kept: Sequence[IPNetwork]) -> None:
    """Set up routes and policy rules; what is already right stays.

    Raises:
        RefusedError: the kernel refuses one of them.
    """
    for version in versions():
        own = [source for source in sources if source.address.version == version]
        main = netlink.routes(version)
        saved = netlink.routes(version, REPLY_TABLE)
        networks = [network for network in kept if network.version == version]
        plan = plan_family(main, saved, link.index, own, networks)
        if plan.lost:
            _log.warning(
                "networks cannot stay on the first interface: it has no default route, nor one to them",
                networks=", ".join(map(str, plan.lost)),
            )
        _ensure_reply_table(netlink, version, plan, saved)
        for route in plan.keep:
            _step("route kept on the first interface", route)
            netlink.replace_route(route, version)
        for route in plan.egress:
            _step("route by the egress interface", route)
            netlink.replace_route(route, version)
        for route in plan.removed:
            _step("route removed", route)
            netlink.delete_route(route, version)
        _settle_interfaces(netlink, version, plan)


def versions() -> tuple[int, ...]:
    """Return the address families that this kernel supports."""
    return (4, 6) if sysctl.read("net/ipv6/conf/all/forwarding") is not None else (4,)


def _ensure_reply_table(netlink: Netlink, version: int, plan: FamilyRoutes, saved: Sequence[Route]) -> None:
    wanted = {(_key(route), route.metrics) for route in plan.reply}
    for route in saved:
        if (_key(route), route.metrics) not in wanted:
            netlink.delete_route(route, version, REPLY_TABLE)
    known = {(_key(route), route.metrics) for route in saved}
    for route in plan.reply:
        if (_key(route), route.metrics) not in known:
            _step("route for replies", route)
            netlink.replace_route(route, version, REPLY_TABLE)
    if not netlink.has_mark_rule(version, REPLY_MARK, REPLY_TABLE):
        netlink.add_mark_rule(version, REPLY_MARK, REPLY_TABLE, _RULE_PRIORITY)


def _settle_interfaces(netlink: Netlink, version: int, plan: FamilyRoutes) -> None:
    """Let in clients whose return route is only in the reply table; learn no routes from the wire.

    rp_filter 1 would drop packets from those clients.
    """
    for index in {route.index for route in plan.reply}:
        name = next((each.name for each in netlink.links() if each.index == index), None)
        if name is None:
            continue
        if version == 6:
            # Any neighbour can advertise routes and prefixes; if this is refused, our rules still drop them.
            for setting in ("accept_ra", "autoconf"):
                sysctl.ensure(f"net/ipv6/conf/{name}/{setting}", 0)
            continue
        # The kernel uses the higher of the two (Documentation/networking/ip-sysctl).
        values = [sysctl.read(f"net/ipv4/conf/{each}/rp_filter") for each in ("all", name)]
        if max(value or 0 for value in values) == 1 and not sysctl.ensure(
            f"net/ipv4/conf/{name}/rp_filter", 2
        ):
            _log.warning(
                "clients that only the old default route reaches get no answer: rp_filter is 1 and /proc/sys"
                " is read-only; run the container privileged, or set the sysctl on the node",
                interface=name,
            )


def _step(what: str, route: Route) -> None:
    destination = "default" if route.destination is None else str(route.destination)
    _log.debug(what, destination=destination, gateway=route.gateway, interface=route.index)
