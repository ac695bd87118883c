"""The routes that `setup` makes, in real namespaces: what leaves by which interface."""

from __future__ import annotations

import socket
import sys

from egress_router.lab.network import GATEWAY, NODE, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6, Laboratory
from tests.network.setting_up import DUAL, INIT, PROXY
from tests.waiting import WAIT_SECONDS, eventually

# A router advertisement of a default route, sent from the node to its pods (RFC 4861 4.2).
ADVERTISE = """
import socket, struct
wire = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
wire.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex("cni0")))
"""


def test_without_a_length_only_the_gateway_is_on_the_subnet(lab: Laboratory) -> None:
    lab.finish_setup(PROXY)
    route = lab.router.run("ip", "route", "get", NODE).stdout
    assert f"via {GATEWAY}" in route
    lab.finish_setup({**PROXY, "EGRESS_SOURCE": f"{SOURCE}/24"})
    route = lab.router.run("ip", "route", "get", NODE).stdout
    assert "via" not in route
    assert "dev macvlan0" in route


def test_name_servers_and_cluster_networks_stay_on_the_first_interface(lab: Laboratory) -> None:
    lab.serve()
    lab.router.write("/etc/resolv.conf", "nameserver 172.16.0.10\nnameserver fd00:172::10\n")
    lab.finish_setup({**PROXY, **DUAL, "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16, fd00:30::/64"})
    for address, old_gateway in (
        ("172.16.0.10", "10.128.0.1"),
        ("172.30.7.7", "10.128.0.1"),
        ("fd00:172::10", "fd00:128::1"),
        ("fd00:30::7", "fd00:128::1"),
    ):
        route = lab.router.run("ip", "route", "get", address).stdout
        assert f"via {old_gateway} dev eth0" in route
    with lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("172.16.0.10", 53))
        server.settimeout(WAIT_SECONDS)
        with lab.router.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"query", ("172.16.0.10", 53))
            assert server.recvfrom(100)[1][0] == ROUTER


def test_a_network_that_is_no_longer_to_be_kept_goes_by_the_egress_interface(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup({**PROXY, "EGRESS_CLUSTER_CIDRS": "203.0.113.0/24"})
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == NODE
    lab.finish_setup(PROXY)
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == SOURCE


def test_a_name_server_that_is_the_gateway_does_not_take_its_route_away(lab: Laboratory) -> None:
    lab.router.write("/etc/resolv.conf", f"nameserver {GATEWAY}\n")
    for environment in (PROXY, {**PROXY, "EGRESS_SOURCE": f"{SOURCE}/24"}):
        routes = []
        for _ in range(2):
            lab.finish_setup({**environment, "EGRESS_CLUSTER_CIDRS": "192.168.12.0/24"})
            routes.append(lab.router.run("ip", "route", "show", "table", "all").stdout)
            assert "dev macvlan0" in lab.router.run("ip", "route", "get", GATEWAY).stdout
        assert routes[0] == routes[1]


def test_a_route_to_the_egress_subnet_moves_to_the_reply_table_for_good(lab: Laboratory) -> None:
    lab.router.ip("route add 192.168.12.0/24 via 10.128.0.1")
    for _ in range(2):
        lab.finish_setup({**PROXY, "EGRESS_SOURCE": f"{SOURCE}/24"})
        assert (
            "via 10.128.0.1"
            in lab.router.run("ip", "route", "show", "192.168.12.0/24", "table", "9797").stdout
        )
        assert "dev macvlan0" in lab.router.run("ip", "route", "show", "192.168.12.0/24").stdout


def test_routes_that_move_keep_their_mtu(lab: Laboratory) -> None:
    lab.router.ip("route replace default via 10.128.0.1 dev eth0 mtu 1400 advmss 1300")
    lab.router.ip("-6 route replace default via fd00:128::1 dev eth0 mtu 1400")
    lab.finish_setup({**PROXY, **DUAL, "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16"})
    assert "mtu 1400 advmss 1300" in lab.router.run("ip", "route", "show", "172.30.0.0/16").stdout
    for family in ("-4", "-6"):
        shown = lab.router.run("ip", family, "route", "show", "default", "table", "9797").stdout
        assert "mtu 1400" in shown


def test_name_servers_that_are_no_host_elsewhere_get_no_route(lab: Laboratory) -> None:
    odd = ("0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "fe80::53", ROUTER, ROUTER_V6, SOURCE)
    lab.router.write("/etc/resolv.conf", "".join(f"nameserver {each}\n" for each in odd))
    lab.finish_setup({**PROXY, **DUAL})
    for family in ("-4", "-6"):
        assert not lab.router.run("ip", family, "route", "show", "dev", "eth0", "proto", "97").stdout


def test_a_default_route_that_a_router_advertised_is_saved_before_forwarding_is_on(lab: Laboratory) -> None:
    """The kernel forgets such routes when the host becomes a router itself."""
    lab.serve()
    lab.router.ip("-6 route del default")
    lab.router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra")

    def advertised() -> bool:
        lab.node.run(sys.executable, "-c", ADVERTISE)
        return "proto ra" in lab.router.run("ip", "-6", "route", "show", "default").stdout

    assert eventually(advertised)
    rules = "443 tcp 2001:db8:113::25"
    lab.finish_setup({**INIT, **DUAL, "EGRESS_DESTINATION": rules, "EGRESS_CLUSTER_CIDRS": "fd00:30::/64"})
    assert lab.ask_tcp(lab.remote, ROUTER_V6, 443).source == SOURCE_V6
    assert "dev eth0" in lab.router.run("ip", "route", "get", "fd00:30::7").stdout


def test_networks_that_cannot_be_kept_are_warned_of(lab: Laboratory) -> None:
    lab.router.ip("route del default")
    said = lab.finish_setup({**PROXY, "EGRESS_CLUSTER_CIDRS": "172.30.0.0/16"})
    assert "no route to them and no default route" in said
    assert "networks=172.30.0.0/16" in said


def test_a_gateway_that_does_not_answer_is_warned_of(lab: Laboratory) -> None:
    assert "does not answer" not in lab.finish_setup({**PROXY, **DUAL})
    lab.router.ip("link del macvlan0")
    said = lab.finish_setup({**PROXY, "EGRESS_GATEWAY": "192.168.12.200"})
    assert "the gateway does not answer" in said
    assert "gateway=192.168.12.200" in said


def test_a_strict_reverse_path_filter_is_loosened(lab: Laboratory) -> None:
    lab.serve()
    lab.router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter")
    lab.finish_setup(INIT)
    assert lab.ask_tcp(lab.remote, ROUTER, 80).source == SOURCE


def test_a_gateway_off_the_subnet_is_refused(lab: Laboratory) -> None:
    process = lab.setup({**PROXY, "EGRESS_SOURCE": f"{SOURCE}/28"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "not on the subnet" in errors
