"""The administrator's rules in a router's namespace: added, listed, counted, met."""

from __future__ import annotations

import re

from egress_router.kernel.nat.admin_chain import NAME, TABLE
from egress_router.lab.network import ROUTER, Laboratory

ENVIRONMENT = {
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n81 tcp 203.0.113.26 80\n",
}


def add(lab: Laboratory, *statements: str) -> None:
    for statement in statements:
        lab.router.run("nft", f"add rule inet {TABLE} {NAME} {statement}")


def listed(lab: Laboratory, chain: str = NAME) -> str:
    return lab.router.run("nft", "list", "chain", "inet", TABLE, chain).stdout


def counted(lab: Laboratory, chain: str = NAME) -> list[int]:
    """Return how many packets each rule with a counter has seen."""
    return [int(packets) for packets in re.findall(r"counter packets (\d+)", listed(lab, chain))]


def is_refused(lab: Laboratory, port: int) -> bool:
    try:
        lab.ask_tcp(lab.client, ROUTER, port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
