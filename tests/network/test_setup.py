"""`setup` in real namespaces: interface, claim, routes, repair, and what it says when it is refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel.neighbour import announcements, mac_bytes
from egress_router.lab import wiring
from egress_router.lab.network import (
    GATEWAY,
    GATEWAY_V6,
    NODE,
    NODE_V6,
    ROUTER,
    ROUTER_V6,
    SOURCE,
    SOURCE_V6,
    Laboratory,
)
from tests.network.administration import get
from tests.network.staying import SET_UP
from tests.record_schema import check_record
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from egress_router.lab.host import Host

INIT = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": "80 tcp 203.0.113.25"}
PROXY = {"EGRESS_ROUTER_MODE": "http-proxy"}
DUAL = {
    "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
}

# A router advertisement of a default route, sent from the node to its pods (RFC 4861 4.2).
ADVERTISE = """
import socket, struct
wire = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
wire.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex("cni0")))
"""


def state(host: Host) -> str:
    """Return everything that `setup` may change in a namespace, as text, once the kernel is done with it."""
    assert eventually(host.is_settled)
    commands = (
        "ip -o -d link show",
        "ip -o addr show",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule show",
        "ip -6 rule show",
        "iptables-legacy-save",
    )
    text = "".join(host.run(*words.split()).stdout for words in commands)
    # A table that was replaced comes last in the list.
    text += "".join(sorted(host.run("nft", "list", "ruleset").stdout.split("\n}\n")))
    # Counters, life times and dates differ between two looks.
    words = (line for line in text.splitlines() if not line.startswith("#"))
    return "\n".join(line.split(" expires ")[0] for line in words)


def refused(lab: Laboratory, environment: dict[str, str], timeout: float = WAIT_SECONDS) -> tuple[int, str]:
    process = lab.setup(environment)
    _, errors = process.communicate(timeout=timeout)
    assert "Traceback" not in errors
    return process.returncode, errors.strip().splitlines()[-1]


def test_creation_in_the_parent_namespace(lab: Laboratory) -> None:
    lab.node.ip("link set uplink0 mtu 1450")
    lab.finish_setup({**PROXY, "EGRESS_MACVLAN_MODE": "private"})
    shown = lab.router.run("ip", "-d", "link", "show", "macvlan0").stdout
    assert "mtu 1450" in shown
    assert "macvlan mode private" in shown
    assert "LOWER_UP" in shown
    assert "macvlan" not in lab.node.run("ip", "-d", "link").stdout, "something stayed in the node"


def test_creation_on_a_named_parent_in_the_same_namespace(lab: Laboratory) -> None:
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    lab.serve()
    lab.finish_setup({**INIT, "EGRESS_PARENT_NETNS": "", "EGRESS_PARENT_INTERFACE": "net1"})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


def test_an_interface_that_is_there_is_used_as_it_is(lab: Laboratory) -> None:
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    lab.serve()
    lab.finish_setup({**INIT, "EGRESS_PARENT_NETNS": "", "EGRESS_INTERFACE": "net1"})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    assert "macvlan" not in lab.router.run("ip", "-d", "link").stdout


def test_a_second_run_changes_nothing_and_is_quick(lab: Laboratory) -> None:
    lab.finish_setup({**INIT, **DUAL})
    before = state(lab.router)
    lab.finish_setup({**INIT, **DUAL})
    assert state(lab.router) == before


def test_a_run_after_a_different_or_half_finished_one_repairs(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup({**INIT, **DUAL, "EGRESS_SOURCE": "192.168.12.98/25,fd00:12::98/64"})
    lab.router.ip("route del default")
    lab.router.ip("rule del priority 9797")
    lab.router.ip("-6 route flush table 9797")
    lab.router.ip("link set macvlan0 down")
    lab.finish_setup({**INIT, **DUAL})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    assert lab.ask_tcp(lab.remote, ROUTER, 80).source == SOURCE
    addresses = lab.router.run("ip", "addr", "show", "macvlan0").stdout
    assert "192.168.12.98" not in addresses
    assert "fd00:12::98" not in addresses
    assert f"{SOURCE}/24" in addresses
    with pytest.raises(OSError):
        lab.ask_tcp(lab.gateway, "192.168.12.98", 80, timeout=0.4)


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
    assert "has no default route" in said
    assert "networks=172.30.0.0/16" in said


def test_another_owner_is_named_and_the_address_is_not_taken(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    mac = _mac(lab.rival)
    before = lab.router.run("ip", "route").stdout
    status, said = refused(lab, {**PROXY, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert SOURCE in said
    assert mac in said
    assert lab.router.run("ip", "route").stdout == before
    assert SOURCE not in lab.router.run("ip", "addr").stdout


def test_an_address_on_another_interface_of_the_pod_is_refused(lab: Laboratory) -> None:
    wiring.address(lab.router, "eth0", f"{SOURCE}/24")
    before = lab.router.run("ip", "route").stdout
    status, said = refused(lab, PROXY)
    assert status == 3
    assert f"{SOURCE} is on the pod's interface eth0, and EGRESS_INTERFACE is macvlan0" in said
    assert "set EGRESS_INTERFACE=eth0" in said
    assert lab.router.run("ip", "route").stdout == before
    assert "macvlan0" not in lab.router.run("ip", "link").stdout


def test_another_egress_interface_than_that_of_an_earlier_run_is_refused(lab: Laboratory) -> None:
    lab.finish_setup(PROXY)
    before = state(lab.router)
    status, said = refused(lab, {**PROXY, "EGRESS_INTERFACE": "net1"})
    assert status == 3
    assert "set EGRESS_INTERFACE=macvlan0" in said
    assert "`ip link del macvlan0` where an earlier run of setup made it" in said
    assert state(lab.router) == before
    lab.router.ip("link del macvlan0")
    lab.serve()
    lab.finish_setup({**PROXY, "EGRESS_INTERFACE": "net1"})
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == SOURCE


def test_an_address_of_the_node_is_refused(lab: Laboratory) -> None:
    for address, gateway in ((f"{NODE}/24", GATEWAY), (f"{NODE_V6}/64", GATEWAY_V6)):
        status, said = refused(lab, {**PROXY, "EGRESS_SOURCE": address, "EGRESS_GATEWAY": gateway})
        assert status == 3
        assert f"{address.split('/')[0]} is the node's own address, on uplink0" in said
    assert "macvlan0" not in lab.router.run("ip", "link").stdout


def test_a_parent_that_is_down_is_waited_for_and_then_refused(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    wiring.set_down(lab.node, "uplink0")
    environment = {**PROXY, "EGRESS_PARENT_INTERFACE": "uplink0"}
    status, said = refused(lab, {**environment, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert "macvlan0 has no carrier" in said
    assert "bring its parent interface up" in said
    assert SOURCE not in lab.router.run("ip", "addr").stdout
    process = lab.setup({**environment, "EGRESS_CLAIM_TIMEOUT": "30"})
    assert process.stderr is not None
    assert any("no carrier; waiting for it" in line for line in process.stderr)
    wiring.set_up(lab.node, "uplink0")
    assert any("waiting for its owner to go" in line for line in process.stderr), "it found the owner"


def test_what_the_old_owner_said_before_it_went_does_not_count(lab: Laboratory) -> None:
    """Its frames wait in the socket's queue; one for each round would hold the claim up for its whole time."""
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    process = lab.setup({**PROXY, "EGRESS_CLAIM_TIMEOUT": "20"})
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        for frame in announcements(ip_address(SOURCE), mac_bytes(_mac(lab.rival))) * 30:
            sock.send(frame)
    lab.rival.ip("addr flush dev eth0")
    assert process.wait(WAIT_SECONDS) == 0, "the time for the claim has not run out"


def test_an_interface_that_goes_down_during_the_claim_is_refused(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    process = lab.setup({**PROXY, "EGRESS_CLAIM_TIMEOUT": "8"})
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    wiring.set_down(lab.router, "macvlan0")
    assert process.wait(WAIT_SECONDS) == 3
    said = process.stderr.read()
    # In the middle of a probe, or between two.
    assert (
        "cannot probe and announce on macvlan0 (Network is down)" in said
        or "macvlan0 has no carrier, so nobody can be asked" in said
    )
    assert "Traceback" not in said


def _attached(lab: Laboratory, *addresses: str) -> dict[str, str]:
    """Give the router an interface with addresses, as a CNI plug-in does; return the environment that uses it."""
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    wiring.address(lab.router, "net1", *addresses)
    return {**PROXY, **DUAL, "EGRESS_PARENT_NETNS": "", "EGRESS_INTERFACE": "net1"}


def test_an_address_from_a_cni_plug_in_is_probed_for_once(lab: Laboratory) -> None:
    environment = _attached(lab, f"{SOURCE}/24", f"{SOURCE_V6}/64")
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    before = lab.router.run("ip", "route").stdout
    status, said = refused(lab, {**environment, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert f"{SOURCE} is in use by the station {_mac(lab.rival)}" in said
    assert lab.router.run("ip", "route").stdout == before
    lab.rival.ip("addr flush dev eth0")
    assert "claimed" in lab.finish_setup(environment)
    assert "claimed" not in lab.finish_setup(environment)


def test_an_address_from_a_cni_plug_in_keeps_its_length(lab: Laboratory) -> None:
    environment = _attached(lab, f"{SOURCE}/24", f"{SOURCE_V6}/64")
    environment |= {"EGRESS_SOURCE": f"{SOURCE},{SOURCE_V6}"}
    lab.finish_setup(environment)
    before = state(lab.router)
    assert "claimed" not in lab.finish_setup(environment)
    assert state(lab.router) == before
    assert "via" in lab.router.run("ip", "route", "get", NODE).stdout
    assert "via" in lab.router.run("ip", "route", "get", NODE_V6).stdout


def test_another_owner_of_the_ipv6_address_is_named(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE_V6}/64")
    status, said = refused(lab, {**PROXY, **DUAL, "EGRESS_CLAIM_TIMEOUT": "1"})
    assert status == 3
    assert SOURCE_V6 in said
    assert _mac(lab.rival) in said


def test_setup_waits_for_the_old_owner_to_go(lab: Laboratory) -> None:
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24", f"{SOURCE_V6}/64")
    process = lab.setup({**PROXY, **DUAL, "EGRESS_CLAIM_TIMEOUT": "20"})
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    lab.rival.ip("addr flush dev eth0")
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, errors


def test_the_claim_is_probed_and_announced_on_the_wire(lab: Laboratory) -> None:
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as capture:
        capture.bind(("eth0", 0))
        index = int(lab.rival.run("cat", "/sys/class/net/eth0/ifindex").stdout)
        # SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_ALLMULTI: advertisements go to groups.
        capture.setsockopt(263, 1, struct.pack("iHH8s", index, 2, 0, b""))
        lab.finish_setup({**PROXY, **DUAL})
        mac = mac_bytes(_mac(lab.router, "macvlan0"))
        request, reply = announcements(ip_address(SOURCE), mac)
        (advertisement,) = announcements(ip_address(SOURCE_V6), mac)
        frames: list[bytes] = []

        def arp() -> list[bytes]:
            frames.extend(_drain(capture))
            return [frame[:42] for frame in frames if frame[12:14] == b"\x08\x06"]

        # At once, and by the kernel, which goes on.
        assert eventually(lambda: arp().count(request) >= 2 and frames.count(advertisement) == 2)
        seen = arp()
    source = socket.inet_aton(SOURCE)
    probes = [frame for frame in seen if frame[28:32] == bytes(4) and frame[38:42] == source]
    assert len(probes) == 3
    assert mac not in {frame[6:12] for frame in probes}, "an owner may have the same one"
    assert seen.count(reply) == 1


def test_a_stale_neighbour_entry_is_taken_over_at_once(lab: Laboratory) -> None:
    """The gateway still believes in the old pod's MAC; the announcement corrects it."""
    lab.serve()
    lab.gateway.ip(f"neigh replace {SOURCE} lladdr 02:00:00:00:00:01 dev wire nud reachable")
    lab.finish_setup(INIT)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


def test_a_gateway_that_does_not_answer_is_warned_of(lab: Laboratory) -> None:
    assert "does not answer" not in lab.finish_setup({**PROXY, **DUAL})
    lab.router.ip("link del macvlan0")
    said = lab.finish_setup({**PROXY, "EGRESS_GATEWAY": "192.168.12.200"})
    assert "the gateway does not answer" in said
    assert "gateway=192.168.12.200" in said


def test_dns_proxy_mode_lets_non_root_bind_low_ports(lab: Laboratory) -> None:
    lab.router.run("sh", "-c", "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start")
    lab.finish_setup({"EGRESS_ROUTER_MODE": "dns-proxy"})
    assert lab.router.run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == "0\n"
    assert "dnat" not in lab.router.run("nft", "list", "ruleset").stdout


def test_a_strict_reverse_path_filter_is_loosened(lab: Laboratory) -> None:
    lab.serve()
    lab.router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter")
    lab.finish_setup(INIT)
    assert lab.ask_tcp(lab.remote, ROUTER, 80).source == SOURCE


# What is refused, each in one line with its remedy.


def test_configuration_errors_come_before_any_change(lab: Laboratory) -> None:
    before = state(lab.router)
    process = lab.setup(
        {
            "EGRESS_ROUTER_MODE": "init",
            "EGRESS_GATEWAY": "10.9.9.9",
            "EGRESS_SOURCE": f"{SOURCE}/24",
            "EGRESS_DESTINATION": "80 sctpp 10.4.5.6\n99999 tcp 10.0.0.1",
        }
    )
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "10.9.9.9" in errors
    assert state(lab.router) == before
    process = lab.setup({**INIT, "EGRESS_DESTINATION": "80 sctpp 10.4.5.6\n99999 tcp 10.0.0.1"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "EGRESS_DESTINATION line 1: '80 sctpp 10.4.5.6': unknown protocol 'sctpp'" in errors
    assert "EGRESS_DESTINATION line 2" in errors
    assert state(lab.router) == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"EGRESS_PARENT_INTERFACE": "bond7"}, "no parent interface bond7"),
        ({"EGRESS_PARENT_NETNS": "/proc/4194304/ns/net"}, "EGRESS_PARENT_NETNS"),
        (
            {"EGRESS_PARENT_NETNS": "/etc/hosts"},
            "/etc/hosts is no network namespace: set EGRESS_PARENT_NETNS",
        ),
    ],
)
def test_what_is_wrong_with_the_parent_is_said(
    lab: Laboratory, environment: dict[str, str], said: str
) -> None:
    status, line = refused(lab, {**PROXY, **environment})
    assert status == 3
    assert said in line


def test_a_gateway_off_the_subnet_is_refused(lab: Laboratory) -> None:
    process = lab.setup({**PROXY, "EGRESS_SOURCE": f"{SOURCE}/28"})
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "not on the subnet" in errors


@pytest.mark.parametrize(("capability", "said"), [("net_admin", "NET_ADMIN"), ("net_raw", "NET_RAW")])
def test_a_missing_capability_is_named(lab: Laboratory, capability: str, said: str) -> None:
    program = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"]
    command = [*program, sys.executable, "-m", "egress_router", "setup"]
    environment = {
        **PROXY,
        "EGRESS_SOURCE": SOURCE,
        "EGRESS_GATEWAY": GATEWAY,
        "EGRESS_PARENT_NETNS": str(lab.node.path),
        "EGRESS_PARENT_INTERFACE": "uplink0",
    }
    wiring.cable(lab.router, "macvlan0", lab.gateway, "port3")
    process = lab.router.start(command, environment)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3, errors
    assert said in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize("netns", ["", "/proc/1/ns/net"])
def test_a_namespace_of_the_node_that_may_not_be_seen_is_refused(lab: Laboratory, netns: str) -> None:
    command = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]
    environment = {**PROXY, "EGRESS_SOURCE": SOURCE, "EGRESS_GATEWAY": GATEWAY, "EGRESS_PARENT_NETNS": netns}
    process = lab.router.start([*command, sys.executable, "-m", "egress_router", "setup"], environment)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 3, errors
    assert "cannot enter the network namespace /proc/1/ns/net (Permission denied)" in errors
    assert "run the container privileged, with the node's /proc/1/ns as a hostPath volume" in errors


def test_read_only_proc_sys_is_refused_only_where_forwarding_is_off(lab: Laboratory) -> None:
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    status, said = refused(lab, INIT)
    assert status == 3
    assert "net.ipv4.ip_forward" in said
    lab.router.run("sh", "-c", "umount /proc/sys && echo 1 >/proc/sys/net/ipv4/ip_forward")
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    lab.serve()
    lab.finish_setup(INIT)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


# A router in two containers: a privileged one that ends, and one that stays with nothing of the node.

WITHOUT_THE_NODE = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all"]


@pytest.mark.parametrize("first_mode", ["network", "init"])
def test_what_stays_needs_nothing_of_the_node(lab: Laboratory, tmp_path: Path, first_mode: str) -> None:
    lab.serve()
    lab.router.run("mount", "--bind", f"/proc/{lab.node.pid}/ns", str(tmp_path))
    first = {**INIT, **DUAL, "EGRESS_ROUTER_MODE": first_mode, "EGRESS_PARENT_NETNS": str(tmp_path / "net")}
    lab.finish_setup(first)
    lab.router.run("umount", str(tmp_path))
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    lines = "80 tcp 203.0.113.26\n443 tcp 2001:db8:113::26\n"
    process = lab.router.start(
        [*WITHOUT_THE_NODE, sys.executable, "-m", "egress_router", "setup"],
        {**DUAL, "EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION": lines, "EGRESS_LOG_LEVEL": "info"},
    )
    assert process.stderr is not None
    said = next(line for line in process.stderr if "network is set up" in line or "egress_router" in line)
    assert "network is set up" in said
    for client in (lab.client, lab.remote):
        assert lab.ask_tcp(client, ROUTER, 80).server == "203.0.113.26"
        assert lab.ask_tcp(client, ROUTER_V6, 443).source == SOURCE_V6
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER)[0] == 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 0
    assert "warning" not in process.stderr.read()


def test_mode_network_redirects_nothing_and_lets_nothing_in(lab: Laboratory) -> None:
    lab.finish_setup({**DUAL, "EGRESS_ROUTER_MODE": "network"})
    assert "dnat" not in lab.router.run("nft", "list", "ruleset").stdout
    assert lab.router.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    with pytest.raises(TimeoutError):
        lab.ask_tcp(lab.gateway, SOURCE, 80, timeout=0.3)


# Signals while setup waits for the address.


def test_a_signal_ends_the_wait_for_the_address_at_once(lab: Laboratory) -> None:
    """As the first process of a container, to which the kernel delivers only what it handles."""
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    wiring.cable(lab.router, "macvlan0", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    as_first = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "egress_router", "setup"]
    environment = {**PROXY, "EGRESS_SOURCE": SOURCE, "EGRESS_GATEWAY": GATEWAY}
    for number in (signal.SIGTERM, signal.SIGINT):
        process = lab.router.start(as_first, environment)
        assert process.stderr is not None
        assert any("waiting for its owner to go" in line for line in process.stderr)
        first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first[0]), number)
        assert process.wait(WAIT_SECONDS) == 0
        assert not process.stderr.read()


# Mode legacy.


def test_legacy_follows_its_file_without_touching_open_connections(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve()
    rules = tmp_path / "destinations"
    rules.write_text("80 tcp 203.0.113.25\n")
    process = lab.setup(
        {"EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION_FILE": str(rules), "EGRESS_DESTINATION": ""}
    )
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect((ROUTER, 80))
        lines = sock.makefile("rb")
        assert b"203.0.113.25" in lines.readline()

        rules.write_text("8080 tcp 203.0.113.26 80\n")
        assert any("changed rules are in force" in line for line in process.stderr)
        assert lab.ask_tcp(lab.client, ROUTER, 8080).server == "203.0.113.26"
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 80)
        sock.sendall(b"still here\n")
        assert lines.readline() == b"still here\n"

        rules.write_text("8080 tcp nowhere\n")
        assert any("the old ones stay in force" in line for line in process.stderr)
        assert lab.ask_tcp(lab.client, ROUTER, 8080).server == "203.0.113.26"
        lines.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 0


def test_legacy_follows_the_link_swap_of_a_config_map(lab: Laboratory, tmp_path: Path) -> None:
    for number, rule in enumerate(("80 tcp 203.0.113.25\n", "80 tcp 203.0.113.26\n")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "rules").write_text(rule)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "rules").symlink_to("..data/rules")
    lab.serve()
    process = lab.setup({"EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION_FILE": str(tmp_path / "rules")})
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    (tmp_path / "..new").symlink_to("..1")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert any("changed rules are in force" in line for line in process.stderr)
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.26"


def test_legacy_follows_its_file_while_its_second_announcement_waits(lab: Laboratory, tmp_path: Path) -> None:
    lab.serve()
    rules = tmp_path / "rules"
    rules.write_text("80 tcp 203.0.113.25\n")
    process = _staying(
        lab,
        "second_announcement=3600",
        {"EGRESS_DESTINATION_FILE": str(rules), "EGRESS_DESTINATION": ""},
    )
    assert process.stderr is not None
    rules.write_text("80 tcp 203.0.113.26\n")
    assert any("changed rules are in force" in line for line in process.stderr)
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.26"


def test_legacy_tries_again_what_the_kernel_refused(lab: Laboratory, tmp_path: Path) -> None:
    rules, refusing = tmp_path / "rules", tmp_path / "refusing"
    rules.write_text("80 tcp 203.0.113.25\n")
    nft = tmp_path / "nft"
    nft.write_text(
        f'#!/bin/sh\n[ -e {refusing} ] && {{ echo "no memory" >&2; exit 1; }}\nPATH={os.environ["PATH"]} exec nft "$@"\n'
    )
    nft.chmod(0o755)
    process = _staying(
        lab,
        "",
        {
            "EGRESS_DESTINATION_FILE": str(rules),
            "EGRESS_DESTINATION": "",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        },
    )
    assert process.stderr is not None
    refusing.touch()
    rules.write_text("81 tcp 203.0.113.25\n")
    assert any("the old ones stay in force" in line for line in process.stderr)
    refusing.unlink()
    assert any("changed rules are in force" in line for line in process.stderr)
    assert "203.0.113.25 . 81" in lab.router.run("nft", "list", "ruleset").stdout


def test_legacy_logs_connections_with_both_their_ends(lab: Laboratory) -> None:
    lab.serve()
    process = lab.setup(
        {
            "EGRESS_ROUTER_MODE": "legacy",
            "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n81 tcp 203.0.113.25 9\n53 udp 203.0.113.25",
            "EGRESS_ACCESS_LOG": "1",
            "EGRESS_LOG_FORMAT": "json",
        }
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert any("network is set up" in line for line in process.stderr)
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER)[0] == 200)
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect((ROUTER, 80))
        client_port = sock.getsockname()[1]
        assert b"203.0.113.25" in sock.recv(1000)
        sock.sendall(b"x" * 1000)
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, ROUTER, 81)
    records = [json.loads(process.stdout.readline()) for _ in range(2)]
    for each in records:
        check_record(each)
    served = next(each for each in records if each["local_port"] == 80)
    refused = next(each for each in records if each["local_port"] == 81)
    assert {
        "event": "connection", "client": "10.128.0.10", "client_port": client_port, "protocol": "tcp",
        "address": "203.0.113.25", "port": 80, "source": SOURCE, "rule": "80 tcp 203.0.113.25",
        "verdict": "allowed",
    }.items() <= served.items()  # fmt: skip
    assert served["reason"] in {"finished", "reset"}
    assert served["sent"] > 1000
    assert served["received"] > 0
    assert 0 <= served["seconds"] < 60
    assert served["id"] != refused["id"]
    assert (refused["reason"], refused["port"]) == ("refused", 9)


def test_legacy_answers_questions(lab: Laboratory) -> None:
    lab.serve()
    # Nobody has 203.0.113.99.
    rules = (
        "80   tcp 203.0.113.25  # the bank\n81 tcp 203.0.113.99\n5000-5100 tcp 203.0.113.28\n"
        "82 tcp 203.0.113.25 9\n203.0.113.27\n"
    )
    process = lab.setup({"EGRESS_ROUTER_MODE": "legacy", "EGRESS_DESTINATION": rules})
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER)[0] == 200)
    with pytest.raises(OSError, match=r"route to host|timed out"):
        lab.ask_tcp(lab.client, ROUTER, 81)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            lab.ask_tcp(lab.client, ROUTER, 82)
    for port in (80, 80, 5000, 5001, 7777):
        lab.ask_tcp(lab.client, ROUTER, port)

    def hits() -> dict[int, int]:
        status: dict[str, list[dict[str, int]]] = json.loads(get(lab.client, "/status", ROUTER)[1])
        return {each["line"]: each["hits"] for each in status["rules"]}

    assert eventually(lambda: hits() == {1: 2, 2: 0, 3: 2, 4: 0, 5: 1}), hits()
    # The sources' ports are read after the counters.
    ports = 'egress_router_snat_ports_in_use{destination="203.0.113.25:80/tcp",source="192.168.12.99"} 2.0'
    assert eventually(lambda: ports in get(lab.client, "/metrics", ROUTER)[1])
    _, metrics = get(lab.client, "/metrics", ROUTER)
    assert 'egress_router_rule_connections_total{rule="80 tcp 203.0.113.25"} 2.0' in metrics
    assert 'egress_router_connections_total{result="connected"} 5.0' in metrics
    assert 'egress_router_rule_connect_seconds_count{rule="80 tcp 203.0.113.25"} 2.0' in metrics
    assert "egress_router_connect_seconds_count 5.0" in metrics
    assert 0 < float(metrics.partition("\negress_router_connect_seconds_sum ")[2].split()[0]) < 5
    # However often its SYN was sent again; it counts when nobody can answer any more.
    failed = 'egress_router_connections_total{result="timeout"} 1.0'
    assert eventually(lambda: failed in get(lab.client, "/metrics", ROUTER)[1])
    assert 'egress_router_connections_total{result="refused"} 2.0' in get(lab.client, "/metrics", ROUTER)[1]
    with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.connect((ROUTER, 80))
        assert eventually(
            lambda: "egress_router_connections_open 1.0" in get(lab.client, "/metrics", ROUTER)[1]
        )
    addresses = json.loads(get(lab.client, "/status", ROUTER)[1])["interface"]["addresses"]
    assert addresses == [SOURCE], "the kernel's own link-local address is nobody's source"
    assert "egress_router_conntrack_entries " in metrics

    wiring.set_down(lab.router, "macvlan0")
    assert eventually(lambda: get(lab.client, "/readyz", ROUTER) == (503, "interface macvlan0 is down\n"))


@pytest.mark.slow
def test_without_root_in_a_user_namespace() -> None:
    """The laboratory and `setup` in it, started by a process that may not touch any network of the machine.

    CAP_SETFCAP alone is left, without which the kernel lets nobody map user 0 into a user namespace.
    """
    command = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--no-new-privs"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "egress_router.lab.demo"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "Everything was as promised." in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def _mac(host: Host, name: str = "eth0") -> str:
    shown = host.run("ip", "-o", "link", "show", name).stdout
    return shown.split("link/ether ")[1].split()[0]


def _drain(capture: socket.socket) -> list[bytes]:
    capture.setblocking(False)
    frames = []
    while True:
        try:
            frames.append(capture.recv(2048))
        except BlockingIOError:
            return frames


def _impatient(lab: Laboratory) -> subprocess.Popen[str]:
    """Start `setup` in mode legacy; it looks after its network twice a second instead of once a minute."""
    return _staying(lab, "keep_network=0.5", {})


def _staying(lab: Laboratory, intervals: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start `setup` in mode legacy with these intervals, and wait until the network is set up."""
    program = SET_UP.format(intervals)
    process = lab.router.start(
        [sys.executable, "-c", program],
        {
            **INIT,
            "EGRESS_ROUTER_MODE": "legacy",
            "EGRESS_SOURCE": SOURCE,
            "EGRESS_GATEWAY": GATEWAY,
            "EGRESS_PARENT_NETNS": str(lab.node.path),
            **environment,
        },
    )
    assert process.stderr is not None
    assert any("network is set up" in line for line in process.stderr)
    return process


def test_legacy_announces_again_and_repairs(lab: Laboratory) -> None:
    lab.serve()
    _impatient(lab)
    request, _ = announcements(ip_address(SOURCE), mac_bytes(_mac(lab.router, "macvlan0")))
    with lab.rival.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as capture:
        capture.bind(("eth0", 0))
        capture.settimeout(WAIT_SECONDS)
        for _ in range(2):
            while capture.recv(2048) != request:
                pass
    lab.router.ip("route del default")
    assert eventually(lambda: "dev macvlan0" in lab.router.run("ip", "route", "show", "default").stdout)
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE


def test_legacy_ends_at_once_while_it_waits_for_the_address(lab: Laboratory) -> None:
    process = _impatient(lab)
    lab.router.ip(f"addr del {SOURCE}/32 dev macvlan0")
    wiring.address(lab.rival, "eth0", f"{SOURCE}/24")
    assert process.stderr is not None
    assert any("waiting for its owner to go" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 0
    assert "Traceback" not in process.stderr.read()


def test_legacy_outlives_an_interface_that_goes_down_while_it_probes(lab: Laboratory) -> None:
    process = _impatient(lab)
    assert process.stderr is not None
    lab.router.run("sh", "-c", f"ip addr del {SOURCE}/32 dev macvlan0; sleep 0.8; ip link set macvlan0 down")
    assert any("address claimed" in line for line in process.stderr), "in the end"
    assert process.poll() is None
