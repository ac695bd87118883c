from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress_router.kernel.routing import FamilyRoutes, cluster_networks, needs_route, plan_family
from egress_router.kernel.rtnl_types import Route
from egress_router.settings.setup import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import IPNetwork

ETH0, MACVLAN, OTHER = 2, 3, 4
POD_NETWORK = Route(ip_network("10.128.0.0/24"), None, ETH0, 253, ip_address("10.128.0.2"))
OLD_DEFAULT = Route(None, ip_address("10.128.0.1"), ETH0)
SOURCE = Source(ip_address("192.168.12.99"), 32, ip_address("192.168.12.1"))
ON_LINK = Route(ip_network("192.168.12.1/32"), None, MACVLAN, 253, SOURCE.address, is_ours=True)
DEFAULT = Route(None, SOURCE.gateway, MACVLAN, 0, SOURCE.address, is_ours=True)

FAR = ip_network("172.30.0.0/16")


def applied(main: Sequence[Route], plan: FamilyRoutes) -> list[Route]:
    """Return the main table after the plan: like the kernel, a new route displaces its twin."""
    result = list(main)
    for fresh in (*plan.keep, *plan.egress):
        twin = (fresh.destination, fresh.metric)
        result = [*(route for route in result if (route.destination, route.metric) != twin), fresh]
    return [route for route in result if route not in plan.removed]


def settled(main: Sequence[Route], source: Source | None, kept: Sequence[IPNetwork]) -> list[Route]:
    """Apply the plan, check that a second run finds nothing to do, and return the main table."""
    first = plan_family(main, [], MACVLAN, [source] if source else [], kept)
    after = applied(main, first)
    second = plan_family(after, first.reply, MACVLAN, [source] if source else [], kept)
    assert (second.removed, second.keep, second.egress) == ((), (), ())
    assert set(second.reply) == set(first.reply)
    return after


def test_the_default_route_moves_and_replies_keep_the_old_one() -> None:
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, [SOURCE], [])
    assert plan.egress == (ON_LINK, DEFAULT)
    assert plan.removed == (OLD_DEFAULT,)
    assert plan.reply == (POD_NETWORK, OLD_DEFAULT)
    assert plan.keep == ()


def test_a_second_run_finds_nothing_to_do() -> None:
    main = [DEFAULT, ON_LINK, POD_NETWORK]
    plan = plan_family(main, [POD_NETWORK, OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert plan.egress == ()
    assert plan.removed == ()
    assert plan.keep == ()
    assert plan.reply == (POD_NETWORK, OLD_DEFAULT)


def test_networks_stay_on_the_first_interface_unless_a_route_of_it_covers_them() -> None:
    near, far = ip_network("10.128.0.53/32"), ip_network("172.30.0.0/16")
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, [SOURCE], [near, far])
    (kept,) = plan.keep
    assert kept == Route(far, OLD_DEFAULT.gateway, ETH0, is_ours=True)
    assert kept in plan.reply


def test_every_default_route_of_other_interfaces_goes() -> None:
    second = Route(None, ip_address("10.9.0.1"), OTHER, metric=100)
    plan = plan_family([OLD_DEFAULT, second, POD_NETWORK], [], MACVLAN, [SOURCE], [])
    assert plan.removed == (OLD_DEFAULT, second)


def test_a_family_without_source_loses_its_default_route_all_the_same() -> None:
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, [], [])
    assert plan.removed == (OLD_DEFAULT,)
    assert plan.egress == ()


def test_routes_of_an_earlier_gateway_go() -> None:
    stale = Route(None, ip_address("192.168.12.254"), MACVLAN, 0, SOURCE.address)
    plan = plan_family([stale, ON_LINK, POD_NETWORK], [OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert plan.egress == (DEFAULT,)
    assert stale not in applied([stale, ON_LINK, POD_NETWORK], plan)
    other = replace(stale, destination=FAR)
    plan = plan_family([other, DEFAULT, ON_LINK, POD_NETWORK], [OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert plan.removed == (other,)


def test_a_pod_without_default_route_keeps_its_own_routes() -> None:
    plan = plan_family([POD_NETWORK], [], MACVLAN, [SOURCE], [FAR, POD_NETWORK.destination or FAR])
    assert plan.keep == ()
    assert plan.lost == (FAR,)
    assert plan.reply == (POD_NETWORK,)


def test_on_link_routes_come_before_routes_by_a_gateway() -> None:
    """Calico gives pods a default route by a gateway that a /32 route makes reachable."""
    hop = Route(ip_network("169.254.1.1/32"), None, ETH0, 253)
    far = Route(ip_network("10.0.0.0/8"), ip_address("169.254.1.1"), ETH0)
    plan = plan_family([far, hop], [], MACVLAN, [SOURCE], [])
    assert plan.reply == (hop, far)


def test_a_link_local_gateway_needs_no_route_of_its_own() -> None:
    source = Source(ip_address("fd00:12::99"), 128, ip_address("fe80::1"))
    link_local = Route(ip_network("fe80::/64"), None, MACVLAN)
    plan = plan_family([link_local], [], MACVLAN, [source], [])
    assert plan.egress == (Route(None, ip_address("fe80::1"), MACVLAN, 0, source.address, is_ours=True),)
    assert plan.removed == ()


def test_networks_that_are_no_longer_to_be_kept_lose_their_route() -> None:
    main = settled([OLD_DEFAULT, POD_NETWORK], SOURCE, [FAR])
    (kept,) = (route for route in main if route.destination == FAR)
    plan = plan_family(main, [POD_NETWORK, kept, OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert plan.removed == (kept,)
    assert plan.reply == (POD_NETWORK, OLD_DEFAULT)


def test_a_route_of_the_pods_own_to_the_same_network_stays() -> None:
    theirs = Route(FAR, ip_address("10.128.0.1"), ETH0)
    plan = plan_family([theirs, DEFAULT, ON_LINK, POD_NETWORK], [OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert plan.removed == ()


def test_what_an_egress_interface_of_another_name_was_given_goes() -> None:
    left = [replace(route, index=OTHER) for route in (DEFAULT, ON_LINK)]
    plan = plan_family([*left, POD_NETWORK], [OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert plan.removed == tuple(left)
    assert plan.reply == (POD_NETWORK, OLD_DEFAULT)


def test_the_egress_interface_keeps_its_own_networks() -> None:
    """The gateway may be a name server too, and EGRESS_CLUSTER_CIDRS may name the egress subnet."""
    gateway, own = ip_network(SOURCE.gateway), ip_network(SOURCE.address)
    assert settled([OLD_DEFAULT, POD_NETWORK], SOURCE, [gateway, own]) == [POD_NETWORK, ON_LINK, DEFAULT]
    wide = replace(SOURCE, prefix=24)
    subnet = ip_network("192.168.12.0/24")
    main = settled([OLD_DEFAULT, POD_NETWORK], wide, [gateway, own, subnet])
    assert {route.destination for route in main} == {POD_NETWORK.destination, subnet, None}


def test_a_name_server_in_the_egress_subnet_stays_on_the_first_interface() -> None:
    near, broad = ip_network("192.168.12.53/32"), Route(ip_network("192.168.0.0/16"), None, ETH0)
    main = settled([OLD_DEFAULT, broad], replace(SOURCE, prefix=24), [near])
    assert Route(near, OLD_DEFAULT.gateway, ETH0, is_ours=True) in main


def test_a_route_that_made_way_for_the_egress_subnet_stays_in_the_reply_table() -> None:
    twin = Route(ip_network("192.168.12.0/24"), ip_address("10.128.0.1"), ETH0)
    source = replace(SOURCE, prefix=24)
    main = settled([OLD_DEFAULT, POD_NETWORK, twin], source, [])
    assert twin not in main
    plan = plan_family(main, [POD_NETWORK, twin, OLD_DEFAULT], MACVLAN, [source], [])
    assert twin in plan.reply
    elsewhere = plan_family(main, [POD_NETWORK, twin, OLD_DEFAULT], MACVLAN, [SOURCE], [])
    assert twin not in elsewhere.reply


def test_copies_have_what_the_route_says_of_its_mtu() -> None:
    narrow = replace(OLD_DEFAULT, metrics=(("mtu", 1400),))
    plan = plan_family([narrow, POD_NETWORK], [], MACVLAN, [SOURCE], [FAR])
    assert narrow in plan.reply
    assert plan.keep == (Route(FAR, narrow.gateway, ETH0, metrics=narrow.metrics, is_ours=True),)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.128.0.53", True),
        ("fd00:30::53", True),
        ("169.254.20.10", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.53", False),
        ("::1", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("fe80::53", False),
        ("fe80::53%eth0", False),
    ],
)
def test_name_servers_that_need_a_route(address: str, expected: bool) -> None:
    assert needs_route(ip_address(address)) is expected


_NETWORKS = st.sampled_from(
    [
        ip_network(text)
        for text in (
            "192.168.12.0/24",
            "192.168.12.1/32",
            "192.168.12.99/32",
            "192.168.12.0/25",
            "192.168.0.0/16",
            "10.128.0.0/24",
            "172.30.0.0/16",
        )
    ]
)
_ROUTES = st.builds(
    Route,
    st.none() | _NETWORKS,
    st.sampled_from([None, ip_address("10.128.0.1"), ip_address("192.168.12.1")]),
    st.sampled_from([ETH0, MACVLAN, OTHER]),
    metric=st.sampled_from([0, 100]),
    is_ours=st.booleans(),
)


@given(
    st.lists(_ROUTES, unique_by=lambda route: (route.destination, route.metric)),
    st.none() | st.sampled_from([replace(SOURCE, prefix=length) for length in (24, 25, 32)]),
    st.lists(_NETWORKS),
)
@example(
    [
        Route(None, None, ETH0),
        *(Route(ip_network("192.168.12.0/24"), None, ETH0, metric=metric) for metric in (0, 100)),
    ],
    replace(SOURCE, prefix=24),
    [],
)
def test_a_second_run_never_finds_anything_to_do(
    main: list[Route], source: Source | None, kept: list[IPNetwork]
) -> None:
    settled(main, source, kept)


ADVERTISED = Route(ip_network("2001:db8:113::/64"), None, ETH0, is_advertised=True)


def test_an_advertised_prefix_is_for_replies_only() -> None:
    plan = plan_family([ADVERTISED, POD_NETWORK], [], MACVLAN, [], [])
    assert plan.removed == (ADVERTISED,)
    assert ADVERTISED in plan.reply


def test_an_advertised_prefix_that_is_the_clusters_is_kept_by_a_route_of_ours() -> None:
    default = Route(None, ip_address("fe80::1"), ETH0)
    assert ADVERTISED.destination is not None
    plan = plan_family([ADVERTISED, default], [], MACVLAN, [], [ADVERTISED.destination])
    assert [route.destination for route in plan.keep] == [ADVERTISED.destination]


def test_the_cluster_is_what_the_first_interface_leads_to_and_what_is_kept() -> None:
    outside = Route(ip_network("192.168.12.0/24"), None, MACVLAN)
    half = Route(ip_network("0.0.0.0/1"), ip_address("10.128.0.1"), ETH0)
    main = [OLD_DEFAULT, POD_NETWORK, outside, half, ADVERTISED]
    assert cluster_networks(main, {MACVLAN}, [FAR, ip_network("10.128.0.0/24")]) == (
        ip_network("10.128.0.0/24"),
        FAR,
    )


def test_a_route_with_another_source_is_replaced_in_one_step() -> None:
    """Between a deletion and an addition, clients would get an error: the network is unreachable."""
    second = Source(ip_address("192.168.12.98"), 32, SOURCE.gateway)
    main = [replace(DEFAULT, source=second.address), replace(ON_LINK, source=second.address), POD_NETWORK]
    plan = plan_family(main, [POD_NETWORK, OLD_DEFAULT], MACVLAN, [SOURCE, second], [])
    assert plan.egress == (ON_LINK, DEFAULT)
    assert plan.removed == ()


def test_several_sources_have_one_default_route_and_each_its_subnet() -> None:
    near = Source(ip_address("192.168.12.98"), 24, SOURCE.gateway)
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, [SOURCE, near, replace(near, prefix=24)], [])
    assert plan.egress == (
        ON_LINK,
        Route(ip_network("192.168.12.0/24"), None, MACVLAN, 253, near.address, is_ours=True),
        DEFAULT,
    )


def test_an_ipv6_route_with_another_source_is_replaced_too() -> None:
    """The kernel gives it a metric, and deletes by destination and gateway, whatever the source."""
    source = Source(ip_address("fd00:12::99"), 64, ip_address("fd00:12::1"))
    on_link = Route(ip_network("fd00:12::/64"), None, MACVLAN, 0, source.address, is_ours=True)
    default = Route(None, source.gateway, MACVLAN, 0, source.address, is_ours=True)
    before = ip_address("fd00:12::98")
    main = [replace(each, source=before, metric=1024) for each in (on_link, default)]
    plan = plan_family(main, [], MACVLAN, [source], [])
    assert plan.egress == (on_link, default)
    assert plan.removed == ()
