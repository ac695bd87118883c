"""Redirect mode: ports of the router become ports of external servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.lab.demo.table import Row, observed, show, unanswered
from egress_router.lab.network import GATEWAY, GATEWAY_V6, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6

if TYPE_CHECKING:
    from egress_router.lab.network import Laboratory

RULES = """\
80   tcp 203.0.113.25
8080 tcp 203.0.113.26 80
53   udp 203.0.113.53
5000-5100 tcp 203.0.113.28
443  tcp 2001:db8:113::25
"""


def run(lab: Laboratory) -> bool:
    """Set the router up and ask through it; return whether everything was as promised."""
    lab.serve()
    print("\nRedirect mode. EGRESS_DESTINATION:\n")
    print("".join(f"    {line}\n" for line in RULES.splitlines()))
    print("Setting up: another owner of the address is looked for, and it is announced twice, 2 s apart …")
    lab.finish_setup(
        {
            "EGRESS_ROUTER_MODE": "init",
            "EGRESS_SOURCE": f"{SOURCE},{SOURCE_V6}",
            "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
            "EGRESS_DESTINATION": RULES,
        }
    )
    client, remote = lab.client, lab.remote
    rows: list[Row] = [
        observed("client -> router port 80", lambda: lab.ask_tcp(client, ROUTER, 80), SOURCE),
        observed("client -> router port 8080", lambda: lab.ask_tcp(client, ROUTER, 8080), SOURCE),
        observed("client -> router port 5001 (range)", lambda: lab.ask_tcp(client, ROUTER, 5001), SOURCE),
        observed("client -> router port 53, UDP", lambda: lab.ask_udp(client, ROUTER, 53), SOURCE),
        observed("client -> router port 443, IPv6", lambda: lab.ask_tcp(client, ROUTER_V6, 443), SOURCE_V6),
        observed("client outside the pod network -> 80", lambda: lab.ask_tcp(remote, ROUTER, 80), SOURCE),
        unanswered(
            "client -> router port 81 (no line)",
            lambda: lab.ask_tcp(client, ROUTER, 81),
            ConnectionRefusedError,
        ),
        unanswered(
            "gateway -> 192.168.12.99 port 80",
            lambda: lab.ask_tcp(lab.gateway, SOURCE, 80, timeout=1),
            TimeoutError,
        ),
    ]
    return show("What was asked, and what the external servers saw:", rows)
