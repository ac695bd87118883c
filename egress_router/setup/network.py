"""Interface, addresses and routes: sets them up, and leaves the rest of the pod alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.grammar.address import unmapped
from egress_router.kernel.addresses import ensure_addresses, keep_to_itself
from egress_router.kernel.link import ensure_interface, parent_outside
from egress_router.kernel.nat.plan import Surroundings
from egress_router.kernel.netlink import Netlink
from egress_router.kernel.routing import cluster_networks, ensure_routes, needs_route, versions
from egress_router.names.resolv_conf import name_servers
from egress_router.net.own import addresses as own_addresses
from egress_router.setup import announcements

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.grammar.redirect import Redirects
    from egress_router.settings.setup import SetupSettings
    from egress_router.setup.nat_rules import Established


RESOLV_CONF = Path("/etc/resolv.conf")


def surroundings(netlink: Netlink, settings: SetupSettings) -> Surroundings:
    """Look at the pod's other interfaces: which is on the outside network, and where the others lead."""
    parent = parent_outside(netlink, settings)
    outside = {link.index for link in (parent, netlink.link(settings.interface)) if link is not None}
    main = [route for version in versions() for route in netlink.routes(version)]
    kept = (*_kept_name_servers(), *settings.cluster_cidrs)
    return Surroundings(
        None if parent is None else parent.name,
        cluster_networks(main, outside, kept),
        0 if settings.standby is None else settings.standby.port,
    )


def keep_network(
    settings: SetupSettings,
    redirects: Redirects | None,
    established: Established,
    hold: Callable[[Established], None],
) -> Established:
    """Set up interface, addresses and routes, and announce the addresses; return the new state.

    `hold` puts the rules in force; it is called if the router holds other addresses than before. In a group
    of routers, the active one announces.

    Raises:
        RefusedError: the kernel or the network refuses.
    """
    with Netlink() as netlink:
        link = ensure_interface(netlink, settings)
        for each in (link, parent_outside(netlink, settings)):
            if each is not None:
                keep_to_itself(each)
        if settings.standby is not None:
            from egress_router.standby import network as standby_network  # noqa: PLC0415 (only in a group of routers)

            holdings = standby_network.ensure_addresses(netlink, link, settings.sources)
        else:
            holdings = ensure_addresses(netlink, link, settings, _needed(redirects))
        held = [source for source in settings.sources if source.address in holdings.held]
        after = replace(established, holdings=holdings)
        before = established.sources or tuple(source.address for source in settings.sources)
        if after.sources != before:
            hold(after)
        ensure_routes(netlink, holdings.link, held, (*_kept_name_servers(), *settings.cluster_cidrs))
    if settings.standby is None:
        announcements.announce(holdings)
    return after


def _needed(redirects: Redirects | None) -> frozenset[IPAddress]:
    """Return the source addresses that a line names: without them the router cannot do its job."""
    if redirects is None:
        return frozenset()
    leavings = {rule.leaving for rule in redirects.rules} | {rule.leaving for rule in redirects.names}
    leavings |= {redirects.fallback_v4_leaving, redirects.fallback_v6_leaving}
    return frozenset(each for each in leavings if isinstance(each, IPv4Address | IPv6Address))


def _kept_name_servers() -> tuple[IPNetwork, ...]:
    """Return the name servers that need a route to stay reachable."""
    try:
        text = RESOLV_CONF.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    own = own_addresses()
    addresses = map(unmapped, name_servers(text))
    return tuple(ip_network(each) for each in addresses if needs_route(each) and each not in own)
