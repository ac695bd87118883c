"""Redirect mode: ports of the router lead to ports of external servers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from egress_router.lab.demo.table import Row, observed, show, unanswered
from egress_router.lab.network import GATEWAY, GATEWAY_V6, PORTS, ROUTER, ROUTER_V6, SOURCE, SOURCE_V6

if TYPE_CHECKING:
    from egress_router.lab.network import Laboratory

RULES = """\
80   tcp 203.0.113.25
8080 tcp 203.0.113.26 80
53   udp 203.0.113.53
5000-5100 tcp 203.0.113.28
443  tcp 2001:db8:113::25
"""
NAME, DEAD = "db.example.com", "203.0.113.99"
FIRST, SECOND = ("203.0.113.25", DEAD, "203.0.113.27"), ("203.0.113.28",)
_SETTLE_SECONDS = 30.0


def run(lab: Laboratory) -> bool:
    """Set the router up and connect through it; return whether everything was as promised."""
    lab.serve([*PORTS, "5432"])
    print("\nRedirect mode. EGRESS_DESTINATION:\n")
    print("".join(f"    {line}\n" for line in RULES.splitlines()))
    print("Setting up: the address is probed for another owner, then announced twice, 2 s apart …")
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
    is_right = show("What was asked, and what the external servers saw:", rows)
    return _names(lab) and is_right


def _names(lab: Laboratory) -> bool:
    """Show a line with a name: first one of its addresses does not answer, then it gets another address."""
    lab.set_zone({NAME: {"addresses": list(FIRST), "ttl": 1}})
    line = f"5432 tcp {NAME}"
    print(f"\nMode legacy, which keeps running. EGRESS_DESTINATION:\n\n    {line}\n")
    print(f"The addresses of {NAME} are {', '.join(FIRST)}; {DEAD} does not answer: three checks show it.")
    with lab.staying(
        {
            "EGRESS_SOURCE": f"{SOURCE},{SOURCE_V6}",
            "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
            "EGRESS_DESTINATION": line,
        }
    ):
        alive = {address for address in FIRST if address != DEAD}
        is_right = _settles(lab, alive, "What was asked, and what the external servers saw:")
        lab.set_zone({NAME: {"addresses": list(SECOND), "ttl": 1}})
        print(f"\nThe name server now answers {SECOND[0]}; new connections go there, nothing is restarted.")
        return _settles(lab, set(SECOND), "After the change:") and is_right


def _settles(lab: Laboratory, servers: set[str], title: str) -> bool:
    """Connect until each of these servers answers, and no other; show the last round."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        rows = [
            observed(
                f"client -> router port 5432, number {number}",
                lambda: lab.ask_tcp(lab.client, ROUTER, 5432, timeout=1),
                SOURCE,
            )
            for number in range(1, 7)
        ]
        found = {row.answered.partition(" ")[0] for row in rows}
        settled = found == servers and all(row.is_right for row in rows)
        if settled or time.monotonic() > deadline:
            return show(title, rows) and settled
