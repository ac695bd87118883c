"""What stays closed: the parent interface in the pod's own namespace, and every way round the egress interface."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address, ip_network

import pytest

from egress_router.kernel.nat.plan import REPLY_MARK
from egress_router.lab import wiring
from egress_router.lab.network import (
    GATEWAY,
    GATEWAY_V6,
    NODE,
    ROUTER,
    ROUTER_V6,
    SOURCE,
    SOURCE_V6,
    Laboratory,
)
from tests.waiting import WAIT_SECONDS, eventually

DUAL = {
    "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
}
LINES = "80 tcp 203.0.113.25\n443 tcp 2001:db8:113::25\n"
REDIRECT = {**DUAL, "EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": LINES}
PROXY = {**DUAL, "EGRESS_ROUTER_MODE": "http-proxy"}
PARENT, PARENT_V6 = "192.168.12.50", "fd00:12::50"
BACKENDS = pytest.mark.parametrize("backend", ["nftables", "iptables"])


def with_parent(lab: Laboratory, *addresses: str) -> dict[str, str]:
    """Give the router a second interface on the wire, as a parent; return the environment that names it."""
    wiring.cable(lab.router, "net1", lab.gateway, "port3")
    wiring.plug(lab.gateway, "wire", "port3")
    wiring.address(lab.router, "net1", *addresses)
    return {"EGRESS_PARENT_NETNS": "", "EGRESS_PARENT_INTERFACE": "net1"}


def mac(lab: Laboratory, name: str) -> str:
    return lab.router.run("cat", f"/sys/class/net/{name}/address").stdout.strip()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@BACKENDS
def test_the_parent_in_the_pod_is_outside(lab: Laboratory, backend: str) -> None:
    """Nobody gets in by its own addresses or by EGRESS_SOURCE, whichever interface the frame is sent to."""
    lab.serve()
    parent = with_parent(lab, f"{PARENT}/24", f"{PARENT_V6}/64")
    lab.finish_setup({**REDIRECT, **parent, "EGRESS_NAT_BACKEND": backend})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    assert lab.ask_tcp(lab.client, ROUTER_V6, 443).source == SOURCE_V6
    for address in (SOURCE, SOURCE_V6):
        # As a station on the wire would that does not ask by ARP.
        lab.rival.ip(f"neigh replace {address} lladdr {mac(lab, 'net1')} dev eth0 nud permanent")
    wiring.address(lab.rival, "eth0", "192.168.12.66/24", "fd00:12::66/64")
    for address in (PARENT, PARENT_V6, SOURCE, SOURCE_V6):
        for port in (80, 443, 9797):
            with pytest.raises(TimeoutError):
                lab.ask_tcp(lab.rival, address, port, timeout=0.3)


@BACKENDS
def test_a_proxy_behind_a_parent_in_the_pod_is_closed_to_the_outside(lab: Laboratory, backend: str) -> None:
    lab.serve()
    parent = with_parent(lab, f"{PARENT}/24", f"{PARENT_V6}/64")
    lab.finish_setup({**PROXY, **parent, "EGRESS_NAT_BACKEND": backend})
    with lab.proxy("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}, 8080):
        for address in (PARENT, PARENT_V6, SOURCE, SOURCE_V6):
            for port in (8080, 9797):
                with lab.gateway.socket(_family(address), socket.SOCK_STREAM) as sock:
                    sock.settimeout(0.3)
                    with pytest.raises(TimeoutError):
                        sock.connect((address, port))


@BACKENDS
@pytest.mark.parametrize("addresses", [(), (f"{PARENT}/24", f"{PARENT_V6}/64")])
def test_the_parent_in_the_pod_answers_for_nothing_of_the_macvlan(
    lab: Laboratory, backend: str, addresses: tuple[str, ...]
) -> None:
    lab.serve()
    lab.finish_setup({**REDIRECT, **with_parent(lab, *addresses), "EGRESS_NAT_BACKEND": backend})
    for _ in range(5):
        lab.gateway.run("ip", "neigh", "flush", "dev", "wire")
        for address in (SOURCE, SOURCE_V6):
            assert _asked(lab, address) == mac(lab, "macvlan0")
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    assert lab.ask_tcp(lab.client, ROUTER_V6, 443).source == SOURCE_V6


def _asked(lab: Laboratory, address: str) -> str:
    """Return the hardware address that the gateway learns for an address when it has to ask for it."""

    def known() -> list[str]:
        return lab.gateway.run("ip", "neigh", "show", address, "dev", "wire").stdout.split()

    with lab.gateway.socket(_family(address), socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", (address, 9))
        assert eventually(lambda: "lladdr" in known())
    return known()[known().index("lladdr") + 1]


@BACKENDS
def test_the_pod_says_nothing_by_the_parent(lab: Laboratory, backend: str) -> None:
    """A route by the parent would lead out with the parent's own address."""
    lab.serve()
    parent = with_parent(lab, f"{PARENT}/24", f"{PARENT_V6}/64")
    lab.finish_setup({**PROXY, **parent, "EGRESS_NAT_BACKEND": backend})
    lab.router.ip(f"route add 203.0.113.25/32 via {GATEWAY} dev net1 onlink src {PARENT}")
    lab.router.ip(f"route add 2001:db8:113::25/128 via {GATEWAY_V6} dev net1 onlink src {PARENT_V6}")
    for address in ("203.0.113.25", "2001:db8:113::25"):
        with pytest.raises(OSError):
            lab.ask_tcp(lab.router, address, 80, timeout=0.5)
    assert lab.ask_tcp(lab.router, "203.0.113.26", 80).source == SOURCE


def test_a_parent_that_is_the_first_interface_stays_open_and_is_warned_of(lab: Laboratory) -> None:
    """Clients and the outside network share the interface, so nothing tells them apart."""
    source, gateway = "10.128.0.99", "10.128.0.1"
    environment = {"EGRESS_PARENT_NETNS": "", "EGRESS_PARENT_INTERFACE": "eth0"}
    said = lab.finish_setup(
        {
            **environment,
            "EGRESS_ROUTER_MODE": "http-proxy",
            "EGRESS_SOURCE": source,
            "EGRESS_GATEWAY": gateway,
        }
    )
    assert "the parent interface is the pod's first one" in said
    with lab.proxy("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}, 8080):
        pass  # the laboratory has waited until it could be reached


# Ways round the egress interface.


@BACKENDS
@pytest.mark.parametrize("mode", ["http-proxy", "init"])
def test_no_route_that_somebody_adds_leads_past_the_source(lab: Laboratory, backend: str, mode: str) -> None:
    lab.serve()
    lab.finish_setup({**REDIRECT, "EGRESS_ROUTER_MODE": mode, "EGRESS_NAT_BACKEND": backend})
    lab.router.ip("route add 203.0.113.0/25 via 10.128.0.1 dev eth0")
    lab.router.ip("route add 2001:db8:113::/65 via fd00:128::1 dev eth0")
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c"]
    for address in ("203.0.113.25", "2001:db8:113::25"):
        for ask in (lab.ask_tcp, lab.ask_udp):
            with pytest.raises(OSError):
                ask(lab.router, address, 53, timeout=0.5)
        script = f"import socket; socket.create_connection(({address!r}, 80), 0.5)"
        assert lab.router.run(*as_nobody, script, check=False).returncode
    # The route itself works: only the router's rules close it.
    assert lab.ask_tcp(lab.client, "203.0.113.25", 80).source == NODE


def heard(here: socket.socket, there: socket.socket, address: str) -> str | None:
    """Send a datagram; return from where it came, None where none did."""
    here.sendto(b"here", (address, 5353))
    try:
        return str(there.recvfrom(16)[1][0])
    except TimeoutError:
        return None


@BACKENDS
def test_the_cluster_stays_within_reach(lab: Laboratory, backend: str) -> None:
    """Connected networks, kept routes, name servers, EGRESS_CLUSTER_CIDRS, and answers to any client."""
    lab.router.write("/etc/resolv.conf", "nameserver 172.16.0.10\nnameserver fd00:172::10\n")
    lab.router.ip("route add 172.17.0.0/24 via 10.128.0.1")
    cidrs = "172.30.0.0/16,fd00:30::/64"
    lab.finish_setup({**PROXY, "EGRESS_CLUSTER_CIDRS": cidrs, "EGRESS_NAT_BACKEND": backend})
    for host, own, addresses in (
        (lab.node, "cni0", ("10.128.0.1", "fd00:128::1")),
        (lab.client, "eth0", ("10.128.0.10", "fd00:128::10")),
        (lab.remote, "eth0", ("172.16.0.10", "fd00:172::10")),
        (lab.node, "cni0", ("172.30.7.7", "fd00:30::7", "172.17.0.9")),
    ):
        for address in addresses:
            bits = ip_address(address).max_prefixlen
            host.run("ip", "addr", "replace", f"{address}/{bits}", "dev", own, "nodad")
            family = _family(address)
            with (
                host.socket(family, socket.SOCK_DGRAM) as there,
                lab.router.socket(family, socket.SOCK_DGRAM) as here,
            ):
                there.bind((address, 5353))
                there.settimeout(1)
                # A datagram may be lost while the kernel resolves an address that was just added.
                assert eventually(lambda: heard(here, there, address) in {ROUTER, ROUTER_V6})  # noqa: B023
    with lab.proxy("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}, 8080):
        for address in (ROUTER, ROUTER_V6):
            family = _family(address)
            with lab.remote.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(WAIT_SECONDS)
                sock.connect((address, 8080))
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert sock.recv(64).startswith(b"HTTP/1.1 400")
            with pytest.raises(ConnectionRefusedError):
                lab.ask_tcp(lab.remote, address, 8081)


@BACKENDS
def test_a_process_with_a_capability_may_use_the_ways_of_the_first_interface(
    lab: Laboratory, backend: str
) -> None:
    """Routers of a group talk over the pod network, whatever routes it has; a proxy cannot mark its packets."""
    lab.finish_setup({**PROXY, "EGRESS_NAT_BACKEND": backend})
    mark = f"s.setsockopt(socket.SOL_SOCKET, 36, {REPLY_MARK}); s.sendto(b'peer', ('172.16.0.10', 5353))"
    script = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); {mark}"
    with lab.remote.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("172.16.0.10", 5353))
        there.settimeout(WAIT_SECONDS)
        lab.router.run(sys.executable, "-c", script)
        assert there.recvfrom(16)[1][0] == ROUTER
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script]
    assert "PermissionError" in lab.router.run(*without, check=False).stderr


def advertise(lab: Laboratory, prefix: str) -> None:
    """Have a neighbouring pod advertise itself as a router, with an on-link prefix for addresses."""
    with lab.client.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        network = ip_network(prefix)
        head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        # Prefix information (RFC 4861 4.6.2): on-link, autonomous.
        option = struct.pack("!BBBBIII16s", 3, 4, network.prefixlen, 0xC0, 7200, 7200, 0, network[0].packed)
        index = int(lab.client.run("cat", "/sys/class/net/eth0/ifindex").stdout)
        sock.sendto(head + option, ("ff02::1", 0, 0, index))


PREFIX = "2001:db8:113::/64"


def learnt(lab: Laboratory) -> str:
    """Return the routes and addresses that the router has on its first interface."""
    routes = lab.router.run("ip", "-6", "route", "show", "dev", "eth0").stdout
    return routes + lab.router.run("ip", "-6", "addr", "show", "dev", "eth0").stdout


@BACKENDS
def test_a_neighbour_that_plays_router_takes_nothing_over(lab: Laboratory, backend: str) -> None:
    lab.serve()
    lab.finish_setup({**PROXY, "EGRESS_NAT_BACKEND": backend})
    advertise(lab, PREFIX)
    advertise(lab, PREFIX)
    assert lab.ask_tcp(lab.router, "2001:db8:113::25", 80).source == SOURCE_V6
    assert "2001:db8:113:" not in learnt(lab)


@BACKENDS
def test_where_sysctls_are_read_only_the_rules_drop_advertisements(lab: Laboratory, backend: str) -> None:
    lab.serve()
    lab.router.run("sh", "-c", "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys")
    lab.finish_setup({**PROXY, "EGRESS_NAT_BACKEND": backend})
    lab.router.run("sh", "-c", "umount /proc/sys")
    assert lab.router.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra").stdout == "1\n"
    advertise(lab, PREFIX)
    assert lab.ask_tcp(lab.router, "2001:db8:113::25", 80).source == SOURCE_V6
    assert "2001:db8:113:" not in learnt(lab)


def test_what_a_neighbour_advertised_before_setup_is_not_believed(lab: Laboratory) -> None:
    lab.serve()
    advertise(lab, PREFIX)
    assert eventually(lambda: "2001:db8:113:" in learnt(lab))
    lab.finish_setup(PROXY)
    assert lab.ask_tcp(lab.router, "2001:db8:113::25", 80).source == SOURCE_V6
    assert "2001:db8:113:" not in lab.router.run("ip", "-6", "route", "show", "dev", "eth0").stdout
