"""The port on which routers hear each other on the pod network is never redirected, nor rejected."""

from __future__ import annotations

from ipaddress import ip_address

from egress_router.grammar import redirect
from egress_router.kernel.nat import rules
from egress_router.kernel.nat.plan import Surroundings, make_plan


def test_a_fallback_line_leaves_the_port_alone() -> None:
    redirects = redirect.parse("EGRESS_DESTINATION", "203.0.113.27")
    sources = [ip_address("192.168.12.99")]
    for port, times in ((9798, 2), (0, 0)):
        plan = make_plan(redirects, sources, "macvlan0", 9797, Surroundings(standby_port=port))
        text = rules.render(plan)
        assert text.count("udp dport 9798 accept") == times
        if times:
            assert text.index("udp dport 9798 accept") < text.index("dnat ip to 203.0.113.27")
