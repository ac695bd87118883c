"""What an egress policy denies of the lines' destinations, with real packets: rejected at once, others pass."""

from __future__ import annotations

import sys

import pytest

from egress_router.lab.network import ROUTER, SOURCE, Laboratory
from tests.waiting import eventually

LINES = "80 tcp 203.0.113.25\n8080 tcp 203.0.113.26 80\n53 udp 203.0.113.53\n5000-5100 tcp 203.0.113.28\n203.0.113.27\n"
POLICY = """
import sys
from ipaddress import ip_address
from egress_router.grammar.redirect import Protocol, parse
from egress_router.kernel.nat import nftables
from egress_router.kernel.nat.plan import make_plan
from egress_router.policy.redirected import Denial
from dataclasses import replace

plan = make_plan(parse("R", sys.argv[2]), [ip_address(sys.argv[1])], "macvlan0", 9797)
nftables.apply(replace(plan, denials=(
    Denial(ip_address("203.0.113.26"), Protocol.TCP, 0, 65535, 1),
    Denial(ip_address("203.0.113.26"), None, 0, 65535, 1),
    Denial(ip_address("203.0.113.53"), Protocol.UDP, 53, 53, 2),
    Denial(ip_address("203.0.113.28"), Protocol.TCP, 5001, 5050, 2),
    Denial(ip_address("203.0.113.27"), Protocol.TCP, 443, 443, 3),
)))
nftables.apply(plan) if len(sys.argv) > 3 else None
"""


def test_denied_destinations_are_rejected_at_once_and_others_pass(lab: Laboratory) -> None:
    lab.serve()
    lab.finish_setup({"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": LINES})
    lab.router.run(sys.executable, "-c", POLICY, SOURCE, LINES)
    # One of the clients is reached by the old default route only.
    for client in (lab.client, lab.remote):
        for port in (80, 5000, 5100, 8443):
            assert lab.ask_tcp(client, ROUTER, port).source == SOURCE
        for port in (8080, 5001, 443):
            with pytest.raises(ConnectionRefusedError):
                lab.ask_tcp(client, ROUTER, port)
        with pytest.raises(OSError, match=r"(?i)prohibited|unreachable|no route"):
            lab.ask_udp(client, ROUTER, 53)
    lab.router.run(sys.executable, "-c", POLICY, SOURCE, LINES, "allow")
    assert eventually(lambda: lab.ask_tcp(lab.client, ROUTER, 5001).server == "203.0.113.28")
    assert lab.ask_udp(lab.client, ROUTER, 53).server == "203.0.113.53"
