from __future__ import annotations

from ipaddress import ip_address, ip_network

from egress_router.kernel.netlink import Route
from egress_router.kernel.routing import plan_family
from egress_router.settings.setup import Source

ETH0, MACVLAN, OTHER = 2, 3, 4
POD_NETWORK = Route(ip_network("10.128.0.0/24"), None, ETH0, 253, ip_address("10.128.0.2"))
OLD_DEFAULT = Route(None, ip_address("10.128.0.1"), ETH0)
SOURCE = Source(ip_address("192.168.12.99"), 32, ip_address("192.168.12.1"))
ON_LINK = Route(ip_network("192.168.12.1/32"), None, MACVLAN, 253, SOURCE.address)
DEFAULT = Route(None, SOURCE.gateway, MACVLAN, 0, SOURCE.address)


def test_the_default_route_moves_and_replies_keep_the_old_one() -> None:
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, SOURCE, [])
    assert plan.egress == (ON_LINK, DEFAULT)
    assert plan.removed == (OLD_DEFAULT,)
    assert plan.reply == (POD_NETWORK, OLD_DEFAULT)
    assert plan.keep == ()


def test_a_second_run_finds_nothing_to_do() -> None:
    main = [DEFAULT, ON_LINK, POD_NETWORK]
    plan = plan_family(main, [POD_NETWORK, OLD_DEFAULT], MACVLAN, SOURCE, [])
    assert plan.egress == ()
    assert plan.removed == ()
    assert plan.keep == ()
    assert plan.reply == (POD_NETWORK, OLD_DEFAULT)


def test_networks_stay_on_the_first_interface_unless_a_route_of_it_covers_them() -> None:
    near, far = ip_network("10.128.0.53/32"), ip_network("172.30.0.0/16")
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, SOURCE, [near, far])
    (kept,) = plan.keep
    assert kept == Route(far, OLD_DEFAULT.gateway, ETH0)
    assert kept in plan.reply


def test_every_default_route_of_other_interfaces_goes() -> None:
    second = Route(None, ip_address("10.9.0.1"), OTHER, metric=100)
    plan = plan_family([OLD_DEFAULT, second, POD_NETWORK], [], MACVLAN, SOURCE, [])
    assert plan.removed == (OLD_DEFAULT, second)


def test_a_family_without_source_loses_its_default_route_all_the_same() -> None:
    plan = plan_family([OLD_DEFAULT, POD_NETWORK], [], MACVLAN, None, [])
    assert plan.removed == (OLD_DEFAULT,)
    assert plan.egress == ()


def test_routes_of_an_earlier_gateway_go() -> None:
    stale = Route(None, ip_address("192.168.12.254"), MACVLAN, 0, SOURCE.address)
    plan = plan_family([stale, ON_LINK, POD_NETWORK], [OLD_DEFAULT], MACVLAN, SOURCE, [])
    assert plan.removed == (stale,)
    assert plan.egress == (DEFAULT,)


def test_a_pod_without_default_route_keeps_its_own_routes() -> None:
    plan = plan_family([POD_NETWORK], [], MACVLAN, SOURCE, [ip_network("172.30.0.0/16")])
    assert plan.keep == ()
    assert plan.reply == (POD_NETWORK,)


def test_on_link_routes_come_before_routes_by_a_gateway() -> None:
    """Calico gives pods a default route by a gateway that a /32 route makes reachable."""
    hop = Route(ip_network("169.254.1.1/32"), None, ETH0, 253)
    far = Route(ip_network("10.0.0.0/8"), ip_address("169.254.1.1"), ETH0)
    plan = plan_family([far, hop], [], MACVLAN, SOURCE, [])
    assert plan.reply == (hop, far)


def test_a_link_local_gateway_needs_no_route_of_its_own() -> None:
    source = Source(ip_address("fd00:12::99"), 128, ip_address("fe80::1"))
    link_local = Route(ip_network("fe80::/64"), None, MACVLAN)
    plan = plan_family([link_local], [], MACVLAN, source, [])
    assert plan.egress == (Route(None, ip_address("fe80::1"), MACVLAN, 0, source.address),)
    assert plan.removed == ()
