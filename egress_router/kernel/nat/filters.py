"""The rules that accept, count, reject and drop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.kernel.nat import counting, noting, timing
from egress_router.kernel.nat.phrases import MARK, interfaces, of_protocol, one_or_set
from egress_router.kernel.nat.source_ports import dispatch, keyword

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.kernel.nat.plan import NatPlan

# Without these an interface cannot find or keep its IPv6 neighbours and routers (RFC 4861).
_NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit }"
_REMEMBER = f"ct mark set ct mark or {MARK}"
_KNOWN = "ct state established,related"


def denied(plan: NatPlan) -> Iterator[str]:
    """Reject what the egress policy denies, in a way that differs from a refusal by the destination."""
    yield from (noting.note("denied", family.version) for family in plan.families)
    yield "meta l4proto tcp reject with tcp reset"
    yield "reject with icmpx admin-prohibited"


def leaks(plan: NatPlan) -> Iterator[str]:
    """Drop what would leave with a source other than ours, whatever NAT did.

    NAT does not translate connections that conntrack knew before there were rules, and goes on to use an old
    source after a change.
    """
    if plan.surroundings.parent is not None:
        # What the macvlan sends does not pass this hook; the parent's own stack has nothing to send there.
        parent = f'oifname "{plan.surroundings.parent}"'
        yield f"{parent} {_NEIGHBOURS} accept"
        yield f"{parent} drop"
    # First, because comparing interface names is slow, and these are all the packets that we translate.
    for family in plan.families:
        fine = one_or_set([str(each) for each in family.sources])
        yield f"{keyword(family.version)} saddr {fine} accept"
    yield f'oifname != "{plan.interface}" accept'
    yield f"{_NEIGHBOURS} accept"
    if plan.family(6) is not None:
        # Duplicate address detection sends from ::, multicast listeners from either (RFC 4862, RFC 3810).
        yield "ip6 saddr { ::, fe80::/10 } accept"
    yield "drop"


def arriving(plan: NatPlan) -> Iterator[str]:
    """Let in what is for the pod itself: answers, its own services, nothing from the outside network."""
    outside = f"iifname {interfaces(*plan.outside)}"
    # No station may change the pod's routes, even where /proc/sys is read-only.
    yield "icmpv6 type { nd-router-advert, nd-redirect } drop"
    yield "icmp type redirect drop"
    yield f"{_KNOWN} accept"
    yield f"{outside} {_NEIGHBOURS} accept"
    yield f"{outside} drop"
    yield f'iifname != "lo" ct state new {_REMEMBER}'
    if plan.redirects:
        yield 'iifname "lo" accept'
        if plan.admin_port:
            yield f"tcp dport {plan.admin_port} accept"
        if plan.surroundings.standby_port:
            yield f"udp dport {plan.surroundings.standby_port} accept"
        yield "meta l4proto { icmp, ipv6-icmp } accept"
        yield from (noting.note("closed", family.version) for family in plan.families)
        yield "meta l4proto tcp reject with tcp reset"
        yield "reject with icmpx port-unreachable"


def forwarded(plan: NatPlan) -> Iterator[str]:
    """Let out only what was redirected, and in only answers; all else is dropped, link up or down."""
    if not plan.redirects:
        return
    outside = f'"{plan.interface}"'
    yield f"oifname {outside} {_KNOWN} goto sent"
    yield f"iifname {outside} {_KNOWN} goto received"
    yield f"iifname {interfaces(*plan.outside)} drop"
    # What conntrack cannot assign to a connection is not translated; the client's address would get out.
    yield "ct state invalid drop"
    yield f"oifname {outside} ct status dnat goto begin"


def begin(plan: NatPlan) -> Iterator[str]:
    """Handle a connection's packets until the first answer."""
    # First, because a reject is an answer, too, and needs the route back.
    yield _REMEMBER
    for version in sorted({each.address.version for each in plan.denials}):
        address = f"{keyword(version)} daddr"
        yield f"meta l4proto != {{ tcp, udp, sctp }} {address} @denied{version} goto denied"
        yield f"{address} . meta l4proto . th dport @denied_ports{version} goto denied"
    yield "jump brief"
    for family in plan.families:
        for protocol in counting.PROTOCOLS:
            yield f"{of_protocol(plan, family, protocol)} {counting.count('sent', protocol, family.version)}"
    yield "accept"


def sent(plan: NatPlan) -> Iterator[str]:
    """Count outgoing packets of known connections; source ports rest after the end."""
    for family in plan.families:
        counted = counting.count("sent", "tcp", family.version)
        yield f"{of_protocol(plan, family, 'tcp')} {counted} tcp flags & (fin | rst) == 0 accept"
    for family in plan.families:
        yield f"{of_protocol(plan, family, 'tcp')} {dispatch(family, 'rest_out')}"
    yield from _others(plan, "sent")
    yield "accept"


def received(plan: NatPlan) -> Iterator[str]:
    """Count incoming packets of known connections; source ports rest after the end."""
    for family in plan.families:
        counted = counting.count("received", "tcp", family.version)
        yield f"{of_protocol(plan, family, 'tcp')} {counted} tcp flags & (fin | syn | rst) == 0 accept"
    for family in plan.families:
        yield f"{of_protocol(plan, family, 'tcp')} tcp flags & (fin | rst) != 0 {dispatch(family, 'rest_in')}"
        # A reset before the handshake is complete is a refusal.
        refused = counting.count("refused", "tcp", family.version)
        yield f"{of_protocol(plan, family, 'tcp')} tcp flags & rst != 0 ct status & assured == 0 {refused}"
        accepts = "tcp flags & (syn | ack) == syn | ack"
        yield f"{of_protocol(plan, family, 'tcp')} {accepts} {timing.accepted(family.version)}"
        answered = f"{accepts} {counting.count('accepted', 'tcp', family.version)}"
        yield f"{of_protocol(plan, family, 'tcp')} {answered} {dispatch(family, 'hold')}"
    yield from _others(plan, "received")
    yield "accept"


def _others(plan: NatPlan, what: str) -> Iterator[str]:
    for family in plan.families:
        for protocol in counting.PROTOCOLS:
            if protocol != "tcp":
                counted = counting.count(what, protocol, family.version)
                yield f"{of_protocol(plan, family, protocol)} {counted}"


def leaving(plan: NatPlan) -> Iterator[str]:
    """Let the pod itself reach only the cluster by its other interfaces, whatever its routes say.

    Answers go back to any client. Link-local IPv6 is for neighbour discovery; link-local IPv4 is the
    cluster's only if a route names it, as clouds have their metadata services there.
    """
    yield f"oifname {interfaces(*plan.outside)} {_NEIGHBOURS} accept"
    yield f'oifname "{plan.interface}" ct state invalid drop'
    yield f"oifname {interfaces(plan.interface, 'lo')} accept"
    yield "ct direction reply accept"
    yield "ct state related accept"
    # Set by us for answers, or by a process with a capability that the proxies lack (SO_MARK, socket(7)).
    yield f"meta mark and {MARK} == {MARK} accept"
    yield from (f"ip daddr {network} accept" for network in plan.surroundings.networks(4))
    near = ("fe80::/10", "ff02::/16")
    yield from (f"ip6 daddr {network} accept" for network in (*near, *plan.surroundings.networks(6)))
    yield "drop"
