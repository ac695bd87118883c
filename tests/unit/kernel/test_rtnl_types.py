"""Messages as pyroute2 decodes them, turned into values; what has another type is refused, not passed on."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel.message import Message
from egress_router.kernel.rtnl_types import Link, read_address, read_link, read_route

if TYPE_CHECKING:
    from collections.abc import Mapping


class Nla(dict[str, object]):
    """As pyroute2's: fields are items, attributes come by `get_attr`."""

    def __init__(self, fields: Mapping[str, object], **attributes: object) -> None:
        super().__init__(fields)
        self._attributes = attributes

    def get_attr(self, name: str) -> object:
        return self._attributes.get(name)


LINK = {"index": 3, "flags": 0x1 | 0x10000}
ROUTE = {"type": 1, "flags": 0, "dst_len": 24, "scope": 0, "proto": 4}


def test_a_macvlan_whose_parent_is_elsewhere() -> None:
    info = Nla({}, IFLA_INFO_KIND="macvlan", IFLA_INFO_DATA=Nla({}, IFLA_MACVLAN_MODE="private"))
    message = Nla(
        LINK,
        IFLA_IFNAME="macvlan0",
        IFLA_MTU=1450,
        IFLA_ADDRESS="02:00:00:00:00:01",
        IFLA_LINK=3,
        IFLA_LINK_NETNSID=0,
        IFLA_LINKINFO=info,
    )
    assert read_link(Message(message)) == Link(
        3, "macvlan0", "macvlan", 1450, "02:00:00:00:00:01", True, True, None, "private"
    )


def test_a_parent_in_the_same_namespace_is_known() -> None:
    assert read_link(Message(Nla(LINK, IFLA_IFNAME="macvlan0", IFLA_MTU=1500, IFLA_LINK=7))).parent == 7


def test_an_address_with_flags_in_an_attribute() -> None:
    message = Nla({"flags": 0x80, "prefixlen": 24}, IFA_FLAGS=0x280, IFA_LOCAL="192.168.12.99")
    assert read_address(Message(message)).is_ours
    assert not read_address(Message(Nla({"flags": 0x80, "prefixlen": 64}, IFA_ADDRESS="fe80::1"))).is_ours


@pytest.mark.parametrize(
    ("protocol", "expires", "advertised"), [(9, 0, True), (2, 300, True), (2, 0, False), (4, 300, False)]
)
def test_what_a_router_advertised(protocol: int, expires: int, advertised: bool) -> None:
    message = Nla(
        {**ROUTE, "dst_len": 64, "proto": protocol},
        RTA_DST="2001:db8::",
        RTA_OIF=2,
        RTA_CACHEINFO={"rta_expires": expires},
    )
    route = read_route(Message(message), 6)
    assert route is not None
    assert route.is_advertised == advertised


def test_the_first_hop_of_several_and_a_gateway_of_the_other_family() -> None:
    hop = Nla({"oif": 5, "flags": 4}, RTA_VIA={"family": 10, "addr": "fe80::1"})
    route = read_route(Message(Nla(ROUTE, RTA_DST="10.9.0.0", RTA_MULTIPATH=[hop])), 4)
    assert route is not None
    assert (route.destination, route.gateway, route.index, route.onlink) == (
        ip_network("10.9.0.0/24"),
        ip_address("fe80::1"),
        5,
        True,
    )


def test_what_has_another_type_is_an_error_here() -> None:
    with pytest.raises(TypeError, match="IFLA_MTU of a netlink message is 'big', not of type int"):
        read_link(Message(Nla(LINK, IFLA_IFNAME="eth0", IFLA_MTU="big")))
