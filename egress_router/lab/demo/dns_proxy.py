"""DNS proxy mode: ports of the router lead to names, whose addresses change and fail while it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from egress_router.lab.demo.table import Row, observed, show
from egress_router.lab.network import ROUTER, SOURCE

if TYPE_CHECKING:
    from egress_router.lab.network import Laboratory

RULES = """\
80   203.0.113.26
5432 db.example.com
"""
DEAD = "203.0.113.99"
FIRST, SECOND = ("203.0.113.25", DEAD, "203.0.113.27"), ("203.0.113.28",)
_CHANGE_SECONDS = 10.0


def run(lab: Laboratory) -> bool:
    """Start the forwarder and connect through it while a name changes; return whether all was as promised."""
    lab.serve(["80", "5432"])
    lab.set_zone({"db.example.com": {"addresses": list(FIRST), "ttl": 1}})
    print("\nDNS proxy mode. EGRESS_DNS_PROXY_DESTINATION:\n")
    print("".join(f"    {line}\n" for line in RULES.splitlines()))
    print(f"The addresses of db.example.com are {', '.join(FIRST)}; {DEAD} does not answer.")
    lab.finish_setup({"EGRESS_ROUTER_MODE": "dns-proxy"})
    with lab.proxy("dns-proxy", {"EGRESS_DNS_PROXY_DESTINATION": RULES}, 80):
        rows: list[Row] = [
            observed("client -> router port 80", lambda: lab.ask_tcp(lab.client, ROUTER, 80), SOURCE)
        ]
        rows += [
            observed(
                f"client -> router port 5432, number {number}",
                lambda: lab.ask_tcp(lab.client, ROUTER, 5432),
                SOURCE,
            )
            for number in (1, 2, 3)
        ]
        is_right = show("What was asked, and what the external servers saw:", rows)
        lab.set_zone({"db.example.com": {"addresses": list(SECOND), "ttl": 1}})
        print(f"\nThe name server now answers {SECOND[0]}; new connections go there, nothing is restarted.")
        changed = observed(
            "client -> router port 5432", lambda: lab.ask_tcp(lab.client, ROUTER, 5432), SOURCE
        )
        deadline = time.monotonic() + _CHANGE_SECONDS
        while SECOND[0] not in changed.answered and time.monotonic() < deadline:
            time.sleep(0.2)
            changed = observed(
                "client -> router port 5432", lambda: lab.ask_tcp(lab.client, ROUTER, 5432), SOURCE
            )
        return show("After the change:", [changed]) and is_right and SECOND[0] in changed.answered
