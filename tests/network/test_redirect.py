"""Redirect mode with real packets: what reaches which server, and what does not."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING

import pytest

from egress_router.lab.network import ROUTER, ROUTER_V6, SOURCE, SOURCE_V6, Laboratory
from tests.network.redirecting import DUAL
from tests.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator


# All tests of one laboratory run in one process, which builds it once.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, marks=pytest.mark.xdist_group(f"redirecting-{each}"))
        for each in ("nftables", "iptables")
    ],
)
def redirecting(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """A router without fallback, by each backend; tests only send through it."""
    with Laboratory() as lab:
        lab.serve()
        lab.finish_setup({**DUAL, "EGRESS_NAT_BACKEND": request.param})
        yield lab


def test_ports_reach_their_destinations_from_the_source(redirecting: Laboratory) -> None:
    lab = redirecting
    for port, server, remote in (
        (80, "203.0.113.25", 80),
        (8080, "203.0.113.26", 80),
        (53, "203.0.113.53", 53),
        (5000, "203.0.113.28", 5000),
        (5100, "203.0.113.28", 5100),
    ):
        seen = lab.ask_tcp(lab.client, ROUTER, port)
        assert (seen.server, seen.port, seen.source) == (server, remote, SOURCE)


def test_udp_reaches_its_destination(redirecting: Laboratory) -> None:
    seen = redirecting.ask_udp(redirecting.client, ROUTER, 53)
    assert (seen.server, seen.port, seen.source) == ("203.0.113.53", 53, SOURCE)


def test_ipv6_tcp_and_udp_and_range(redirecting: Laboratory) -> None:
    lab = redirecting
    seen = lab.ask_tcp(lab.client, ROUTER_V6, 443)
    assert (seen.server, seen.port, seen.source) == ("2001:db8:113::25", 443, SOURCE_V6)
    for port, server in ((53, "2001:db8:113::53"), (5001, "2001:db8:113::28")):
        seen = lab.ask_udp(lab.client, ROUTER_V6, port)
        assert (seen.server, seen.port, seen.source) == (server, port, SOURCE_V6)


@pytest.mark.parametrize("address", [ROUTER, ROUTER_V6])
def test_other_ports_are_rejected_at_once(redirecting: Laboratory, address: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        redirecting.ask_tcp(redirecting.client, address, 81)
    with pytest.raises(ConnectionRefusedError):  # ICMP port unreachable
        redirecting.ask_udp(redirecting.client, address, 54)


def test_a_client_that_only_the_old_default_route_reaches_gets_its_answer(redirecting: Laboratory) -> None:
    lab = redirecting
    assert lab.ask_tcp(lab.remote, ROUTER, 80).source == SOURCE
    assert lab.ask_tcp(lab.remote, ROUTER_V6, 443).source == SOURCE_V6


def test_bulk_data_passes_both_ways(redirecting: Laboratory) -> None:
    payload = bytes(range(256)) * 20_000
    with redirecting.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect((ROUTER, 80))
        received = bytearray()
        sent = 0
        greeting = sock.makefile("rb").readline()
        while len(received) < len(payload):
            if sent < len(payload):
                sent += sock.send(payload[sent : sent + 65536])
            received += sock.recv(1 << 20)
    assert json.loads(greeting)["source"] == SOURCE
    assert received == payload


@pytest.mark.parametrize("address", [SOURCE, SOURCE_V6])
def test_the_outside_network_gets_in_nowhere(redirecting: Laboratory, address: str) -> None:
    lab = redirecting
    for port in (80, 22, 9797):
        with pytest.raises(TimeoutError):
            lab.ask_tcp(lab.gateway, address, port, timeout=0.4)


def test_the_outside_network_does_not_reach_the_pod_network(redirecting: Laboratory) -> None:
    lab = redirecting
    lab.gateway.ip(f"route replace 10.128.0.0/24 via {SOURCE}")
    with pytest.raises(TimeoutError):
        lab.ask_tcp(lab.gateway, "10.128.0.10", 80, timeout=0.4)
    with pytest.raises(TimeoutError):
        lab.ask_tcp(lab.gateway, ROUTER, 80, timeout=0.4)


def test_the_pod_itself_leaves_from_the_source(redirecting: Laboratory) -> None:
    lab = redirecting
    assert lab.ask_tcp(lab.router, "203.0.113.25", 80).source == SOURCE
    assert lab.ask_tcp(lab.router, "2001:db8:113::25", 80).source == SOURCE_V6


def test_forwarding_without_a_line_goes_nowhere(redirecting: Laboratory) -> None:
    """A client that uses the router as its gateway reaches nothing, by neither interface."""
    lab = redirecting
    lab.client.ip(f"route replace 203.0.113.0/24 via {ROUTER}")
    try:
        with pytest.raises(TimeoutError):
            lab.ask_tcp(lab.client, "203.0.113.25", 80, timeout=0.5)
    finally:
        lab.client.ip("route del 203.0.113.0/24")


def test_the_administration_port_is_not_redirected(lab: Laboratory) -> None:
    lab.serve([*("80", "7777"), "9797"])
    lab.finish_setup({**DUAL, "EGRESS_DESTINATION": "203.0.113.27\n"})
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, ROUTER, 9797)
    with lab.router.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((ROUTER, 9797))
        listening.listen()
        with lab.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(WAIT_SECONDS)
            sock.connect((ROUTER, 9797))
            listening.settimeout(WAIT_SECONDS)
            accepted, _ = listening.accept()
            accepted.close()


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_the_fallback_carries_every_other_port_and_protocol(lab: Laboratory, backend: str) -> None:
    lab.serve()
    rules = "80 tcp 203.0.113.25\n203.0.113.27\n2001:db8:113::27\n"
    lab.finish_setup({**DUAL, "EGRESS_DESTINATION": rules, "EGRESS_NAT_BACKEND": backend})
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.25"
    for ask in (lab.ask_tcp, lab.ask_udp):
        for address, server in ((ROUTER, "203.0.113.27"), (ROUTER_V6, "2001:db8:113::27")):
            seen = ask(lab.client, address, 7777)
            assert (seen.server, seen.port) == (server, 7777)


def test_the_fallback_carries_sctp(lab: Laboratory) -> None:
    """Kernels without SCTP sockets still forward it; a bare INIT chunk shows that it arrives."""
    lab.finish_setup({**DUAL, "EGRESS_DESTINATION": "36412 sctp 203.0.113.26 36413\n203.0.113.27\n"})
    for port, server, remote in ((36412, "203.0.113.26", 36413), (2905, "203.0.113.27", 2905)):
        with (
            lab.outside.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as arrives,
            lab.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as sock,
        ):
            arrives.settimeout(WAIT_SECONDS)
            sock.sendto(_sctp_init(40_000, port), (ROUTER, 0))
            packet, sender = arrives.recvfrom(2048)
            assert sender[0] == SOURCE
            assert socket.inet_ntoa(packet[16:20]) == server
            assert int.from_bytes(packet[22:24], "big") == remote


def _sctp_init(source: int, destination: int) -> bytes:
    """Return an SCTP packet with one INIT chunk and its CRC32c (RFC 9260 3.1, 3.3.2, appendix A)."""
    chunk = b"\x01\x00\x00\x14\x00\x00\x00\x01\x00\x01\x00\x00\x00\x01\x00\x01\x00\x00\x00\x01"
    head = source.to_bytes(2, "big") + destination.to_bytes(2, "big") + b"\x00" * 4
    crc = 0xFFFFFFFF
    for byte in head + b"\x00" * 4 + chunk:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return head + (crc ^ 0xFFFFFFFF).to_bytes(4, "little") + chunk


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_smaller_mtu_inside_is_told_to_the_server(lab: Laboratory, backend: str) -> None:
    """Errors that the router sends, and those that it passes on, leave from the source like all else."""
    lab.serve()
    lab.finish_setup({**DUAL, "EGRESS_NAT_BACKEND": backend})
    lab.router.ip("link set eth0 mtu 1400")
    clients = (lab.client, lab.remote)
    lab.node.ip("link set remote0 mtu 1350")
    for client in clients:
        for address, port in ((ROUTER, 80), (ROUTER_V6, 443)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with client.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(WAIT_SECONDS)
                sock.connect((address, port))
                payload = b"x" * 60_000
                sock.sendall(payload)
                lines = sock.makefile("rb")
                assert lines.readline()
                assert lines.read(len(payload)) == payload


ADMIN_TABLE = r"(?ms)^table inet egress_router_admin \{.*?^\}$"


@pytest.mark.parametrize(("first", "second"), [("iptables", "nftables"), ("nftables", "iptables")])
def test_a_change_of_backend_leaves_nothing_of_the_other(lab: Laboratory, first: str, second: str) -> None:
    lab.serve()
    lines = "80 tcp 203.0.113.25\n8443 tcp 203.0.113.27\n"
    lab.finish_setup({**DUAL, "EGRESS_NAT_BACKEND": first, "EGRESS_DESTINATION": lines})
    environment = {**DUAL, "EGRESS_NAT_BACKEND": second, "EGRESS_DESTINATION": "80 tcp 203.0.113.26\n"}
    lab.finish_setup(environment)
    assert lab.ask_tcp(lab.client, ROUTER, 80).server == "203.0.113.26"
    with pytest.raises(ConnectionRefusedError):
        lab.ask_tcp(lab.client, ROUTER, 8443)
    rules = {
        # The administrator's table is not ours: it stays.
        "nftables": re.sub(ADMIN_TABLE, "", lab.router.run("nft", "list", "ruleset").stdout),
        "iptables": lab.router.run("iptables-legacy-save").stdout,
    }
    rules["iptables"] += lab.router.run("ip6tables-legacy-save").stdout
    assert "egress" not in rules[first].lower()
    assert "egress" in rules[second].lower()
    assert "removed" not in lab.finish_setup(environment)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_debug_says_every_rule(lab: Laboratory, backend: str) -> None:
    said = lab.finish_setup({**DUAL, "EGRESS_NAT_BACKEND": backend, "EGRESS_ROUTER_DEBUG": "1"})
    assert len([line for line in said.splitlines() if "203.0.113.53" in line and "debug" in line]) == 2
    assert SOURCE_V6 in next(line for line in said.splitlines() if "snat" in line.lower() and "fd00" in line)
