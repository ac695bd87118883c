"""Redirect mode with real packets: nothing leaves with another source, whatever was there before."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.kernel.neighbour import mac_bytes
from egress_router.lab import wiring
from egress_router.lab.network import NODE, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6, Laboratory
from tests.network.redirecting import DUAL
from tests.waiting import WAIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_when_the_macvlan_is_down_traffic_fails_and_does_not_leak(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup({**DUAL, "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n203.0.113.27\n"})
    assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
    wiring.set_down(lab.router, "macvlan0")
    for client, address in ((lab.client, ROUTER), (lab.remote, ROUTER), (lab.router, "203.0.113.25")):
        with pytest.raises(OSError):
            lab.ask_tcp(client, address, 80, timeout=0.5)
    # The node hides what leaks behind its own address, so the way itself is shown to be open:
    assert lab.ask_tcp(lab.client, "203.0.113.25", 80).source == NODE


def test_a_router_of_one_family_leaks_nothing_in_the_other(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup({"EGRESS_ROUTER_MODE": "http-proxy"})
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == SOURCE
    with pytest.raises(OSError):
        lab.ask_tcp(lab.router, "2001:db8:113::25", 80, timeout=0.5)


@contextlib.contextmanager
def sources_on_the_wire(lab: Laboratory) -> Iterator[set[str]]:
    """Collect the sources of everything that the router's interface sends in the block, except link-local."""
    shown = lab.router.run("cat", "/sys/class/net/macvlan0/address").stdout
    mac = mac_bytes(shown.strip())
    seen: set[str] = set()
    with lab.gateway.socket(socket.AF_PACKET, socket.SOCK_RAW) as capture:
        capture.bind(("port1", 3))
        yield seen
        capture.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                frame = capture.recv(2048)
                if frame[6:12] != mac:
                    continue
                if frame[12:14] == b"\x08\x00":
                    seen.add(socket.inet_ntoa(frame[26:30]))
                elif frame[12:14] == b"\x86\xdd":
                    seen.add(str(ip_address(frame[22:38])))
    seen -= {each for each in seen if each == "::" or ip_address(each).is_link_local}


def _open(lab: Laboratory, server: str, own: str) -> list[socket.socket]:
    """Open a TCP connection and a UDP exchange from the router itself, and an exchange that nobody answers."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    socks = [lab.router.socket(family, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    socks.append(lab.router.socket(family, socket.SOCK_DGRAM))
    for sock, port in zip(socks, (80, 53, 54), strict=True):
        sock.settimeout(WAIT_SECONDS)
        sock.bind((own, 0))
        sock.connect((server, port))
    socks[1].send(b"who am I?")
    assert socks[0].recv(4096)
    assert socks[1].recv(4096)
    socks[2].send(b"is anybody there?")
    return socks


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_what_conntrack_knew_before_leaves_from_no_other_source(lab: Laboratory, backend: str) -> None:
    """NAT translates a connection at its first packet only; these had theirs before there were rules."""
    lab.serve()
    # Something of the pod (a service mesh, a policy) already has conntrack at work.
    mesh = "table inet mesh { chain out { type filter hook output priority 0; ct state new counter; }; }"
    lab.router.run("nft", mesh)
    socks = _open(lab, "203.0.113.53", ROUTER) + _open(lab, "2001:db8:113::53", ROUTER_V6)
    lab.finish_setup({**DUAL, "EGRESS_NAT_BACKEND": backend})
    with sources_on_the_wire(lab) as seen:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(b"still from here?")
        assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == SOURCE
        assert lab.ask_udp(lab.client, ROUTER_V6, 53).source == SOURCE_V6
    assert seen == {SOURCE, SOURCE_V6}
    for sock in socks:
        sock.close()


def _retransmitted(lab: Laboratory) -> int:
    """Return how many TCP segments the client has sent again."""
    shown = lab.client.run("nstat", "--zeros", "--ignore", "--noupdate", "TcpRetransSegs").stdout
    return int(shown.split()[-2])


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_connections_of_an_earlier_source_end_with_it(lab: Laboratory, backend: str) -> None:
    lab.serve()
    environment = {**DUAL, "EGRESS_NAT_BACKEND": backend}
    lab.finish_setup({**environment, "EGRESS_SOURCE": "192.168.12.98/24,fd00:12::98/64"})
    socks = []
    for address, port in ((ROUTER, 80), (ROUTER_V6, 443)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        socks.append(lab.client.socket(family, socket.SOCK_STREAM))
        socks[-1].settimeout(WAIT_SECONDS)
        socks[-1].connect((address, port))
        assert b"12::98" in (said := socks[-1].recv(4096)) or b"12.98" in said
    lab.finish_setup(environment)
    before = _retransmitted(lab)
    with sources_on_the_wire(lab) as seen:
        for sock in socks:
            sock.send(b"still from there?")
        assert lab.ask_tcp(lab.client, ROUTER, 80).source == SOURCE
        assert lab.ask_tcp(lab.client, ROUTER_V6, 443).source == SOURCE_V6
        assert eventually(lambda: _retransmitted(lab) >= before + len(socks))
    assert seen == {SOURCE, SOURCE_V6}
    for sock in socks:
        sock.close()
