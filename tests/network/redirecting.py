"""What a redirect router of both families is set up with."""

from __future__ import annotations

from egress_router.lab.network import GATEWAY, GATEWAY_V6, SOURCE, SOURCE_V6

RULES = """\
80   tcp 203.0.113.25
8080 tcp 203.0.113.26 80
53   udp 203.0.113.53
53   tcp 203.0.113.53
5000-5100 tcp 203.0.113.28
443  tcp 2001:db8:113::25
53   udp 2001:db8:113::53
5000-5100 udp 2001:db8:113::28
"""
DUAL = {
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_SOURCE": f"{SOURCE}/24,{SOURCE_V6}/64",
    "EGRESS_GATEWAY": f"{GATEWAY},{GATEWAY_V6}",
    "EGRESS_DESTINATION": RULES,
}
