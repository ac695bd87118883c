"""The plan as iptables rules. Pure.

The layout is linear, as x_tables has no maps: a connection passes every rule before its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from egress_router.errors import RefusedError
from egress_router.grammar.leaving import Spread
from egress_router.grammar.redirect import Protocol
from egress_router.kernel.nat import admin_chain
from egress_router.kernel.nat.plan import REPLY_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.leaving import Leaving
    from egress_router.kernel.nat.plan import FamilyPlan, NatPlan, PlannedLine

# A rule as python-iptables spells it: matches, protocol and interfaces by name, and the target.
Rule: TypeAlias = "dict[str, str | dict[str, str] | dict[str, dict[str, str]]]"
Tables: TypeAlias = "dict[str, dict[str, list[Rule]]]"
_MARK = f"{REPLY_MARK:#x}/{REPLY_MARK:#x}"
_ESTABLISHED: dict[str, str] = {"ctstate": "RELATED,ESTABLISHED"}
_NEIGHBOURS = ("133", "134", "135", "136")  # RFC 4861: router and neighbour solicitation, advertisement
_ROUTES = ("134", "137")  # router advertisement, redirect


def rules(plan: NatPlan, version: int) -> Tables:
    """Return the rules of one family, by table and chain; the order is the plan's."""
    family = plan.family(version)
    restore: Rule = {
        "conntrack": {"ctdir": "REPLY"},
        "connmark": {"mark": _MARK},
        "target": {"MARK": {"set-xmark": _MARK}},
    }
    aside: list[Rule] = [{"in-interface": each, "target": "RETURN"} for each in (*plan.outside, "lo")]
    remember: list[Rule] = [
        restore,
        *aside,
        {"conntrack": {"ctstate": "NEW"}, "target": {"CONNMARK": {"set-xmark": _MARK}}},
    ]
    return {
        "mangle": {
            "EGRESS_REMEMBER": remember,
            "EGRESS_RETURN": [restore],
            "EGRESS_LEAKS": list(_leaks(plan, family, version)),
        },
        "nat": {
            "EGRESS_TO": list(_redirect(plan, family)),
            "EGRESS_FROM": [] if family is None else list(_sources(plan, family)),
        },
        "filter": {
            "EGRESS_INPUT": list(_input(plan, version)),
            "EGRESS_FORWARD": list(_forward(plan)),
            "EGRESS_OUTPUT": list(_output(plan, version)),
        },
    }


def _redirect(plan: NatPlan, family: FamilyPlan | None) -> Iterator[Rule]:
    if not plan.redirects or family is None:
        return
    for interface in (*plan.outside, "lo"):
        yield {"in-interface": interface, "target": "RETURN"}
    if plan.admin_port:
        yield {"protocol": "tcp", "tcp": {"dport": str(plan.admin_port)}, "target": "RETURN"}
    if plan.surroundings.standby_port:
        port = str(plan.surroundings.standby_port)
        yield {"protocol": "udp", "udp": {"dport": port}, "target": "RETURN"}
    for line in sorted(family.lines, key=lambda each: each.is_range):
        yield _redirect_rule(line)
    if family.fallback is not None:
        echo = "icmp" if family.version == 4 else "icmpv6"
        yield {"protocol": echo, "target": "RETURN"}
        yield {"target": {"DNAT": {"to-destination": str(family.fallback)}}}


def _redirect_rule(line: PlannedLine) -> Rule:
    protocol = line.protocol.value
    if not line.addresses:
        return {"protocol": protocol, protocol: {"dport": _ports(line)}, "target": "RETURN"}
    if len(line.addresses) > 1:
        raise RefusedError("iptables rules cannot follow a name", "names need nftables")
    address = line.addresses[0]
    target = str(address)
    if line.target_port is not None:
        target = f"[{target}]:{line.target_port}" if address.version == 6 else f"{target}:{line.target_port}"
    return {
        "protocol": protocol,
        protocol: {"dport": _ports(line)},
        "target": {"DNAT": {"to-destination": target}},
    }


def _ports(line: PlannedLine) -> str:
    return f"{line.first}:{line.last}" if line.is_range else str(line.first)


def _sources(plan: NatPlan, family: FamilyPlan) -> Iterator[Rule]:
    """Translate sources. TCP keeps the client's port if it is free: x_tables cannot choose ports in turn.

    A client's connections then meet only TIME_WAIT of its own earlier ones, which a server ends early for
    them. Several busy clients may still meet each other's (source_ports).
    """
    outside: Rule = {"out-interface": plan.interface}
    own = [{**outside, "src": str(source), "target": "RETURN"} for source in family.sources]
    yield from own
    if any(line.leaving is not None for line in family.lines) or family.fallback_leaving is not None:
        for line in sorted(family.lines, key=lambda each: each.is_range):
            match: Rule = {
                **outside,
                "protocol": line.protocol.value,
                "conntrack": {"ctstate": "DNAT", "ctorigdstport": _ports(line)},
            }
            yield from _snat(family, match, line.leaving, is_tcp=line.protocol is Protocol.TCP)
    for is_tcp in (True, False):
        match = {**outside, "protocol": "tcp"} if is_tcp else outside
        yield from _snat(family, match, family.fallback_leaving, is_tcp=is_tcp)


def _snat(family: FamilyPlan, match: Rule, choice: Leaving, *, is_tcp: bool) -> Iterator[Rule]:
    chosen = family.sources if choice is Spread.ALL else (choice if choice is not None else family.source,)
    for rest, source in zip(range(len(chosen), 0, -1), chosen, strict=True):
        turn: Rule = {"statistic": {"mode": "nth", "every": str(rest), "packet": "0"}} if rest > 1 else {}
        target = {"to-source": str(source)} | ({} if is_tcp else {"random-fully": ""})
        yield {**match, **turn, "target": {"SNAT": target}}


def _neighbours(version: int) -> Iterator[Rule]:
    """Let neighbour discovery through, without which no IPv6 address is reachable."""
    if version == 6:
        for kind in _NEIGHBOURS:
            yield {"protocol": "icmpv6", "icmp6": {"icmpv6-type": kind}, "target": "ACCEPT"}


def _input(plan: NatPlan, version: int) -> Iterator[Rule]:
    # No station may change the pod's routes, even where /proc/sys is read-only.
    if version == 4:
        yield {"protocol": "icmp", "icmp": {"icmp-type": "redirect"}, "target": "DROP"}
    else:
        for kind in _ROUTES:
            yield {"protocol": "icmpv6", "icmp6": {"icmpv6-type": kind}, "target": "DROP"}
    yield {"conntrack": _ESTABLISHED, "target": "ACCEPT"}
    yield from _neighbours(version)
    for interface in plan.outside:
        yield {"in-interface": interface, "target": "DROP"}
    if plan.redirects:
        yield {"in-interface": "lo", "target": "ACCEPT"}
        if plan.admin_port:
            yield {"protocol": "tcp", "tcp": {"dport": str(plan.admin_port)}, "target": "ACCEPT"}
        if plan.surroundings.standby_port:
            port = str(plan.surroundings.standby_port)
            yield {"protocol": "udp", "udp": {"dport": port}, "target": "ACCEPT"}
        yield {"protocol": "icmp" if version == 4 else "icmpv6", "target": "ACCEPT"}
        yield {"protocol": "tcp", "target": {"REJECT": {"reject-with": "tcp-reset"}}}
        unreachable = "icmp-port-unreachable" if version == 4 else "icmp6-port-unreachable"
        yield {"target": {"REJECT": {"reject-with": unreachable}}}


def _forward(plan: NatPlan) -> Iterator[Rule]:
    if plan.redirects:
        yield {"conntrack": {"ctstate": "INVALID"}, "target": "DROP"}
        yield {"in-interface": plan.interface, "conntrack": _ESTABLISHED, "target": "ACCEPT"}
        for interface in plan.outside:
            yield {"in-interface": interface, "target": "DROP"}
        yield {"out-interface": plan.interface, "target": admin_chain.NAME}
        yield {"out-interface": plan.interface, "conntrack": {"ctstate": "DNAT"}, "target": "ACCEPT"}
    yield {"target": "DROP"}


def _output(plan: NatPlan, version: int) -> Iterator[Rule]:
    """See nftables: the pod itself reaches the cluster by its other interfaces, and nothing else."""
    yield from _outgoing_neighbours(plan, version)
    yield {"out-interface": plan.interface, "conntrack": {"ctstate": "INVALID"}, "target": "DROP"}
    yield {"out-interface": plan.interface, "target": admin_chain.NAME}
    for interface in (plan.interface, "lo"):
        yield {"out-interface": interface, "target": "RETURN"}
    yield {"conntrack": {"ctdir": "REPLY"}, "target": "RETURN"}
    yield {"conntrack": {"ctstate": "RELATED"}, "target": "RETURN"}
    yield {"mark": {"mark": _MARK}, "target": "RETURN"}
    near = ("fe80::/10", "ff02::/16") if version == 6 else ()
    for network in (*near, *plan.surroundings.networks(version)):
        yield {"dst": str(network), "target": "RETURN"}
    yield {"target": "DROP"}


def _leaks(plan: NatPlan, family: FamilyPlan | None, version: int) -> Iterator[Rule]:
    """Drop what would leave with a source other than ours, whatever NAT does.

    NAT does not translate connections that conntrack knew before there were rules, and goes on to use an old
    source after a change. x_tables has no filter after NAT, so conntrack is asked which source NAT will
    write: for a packet of the original direction it is the destination of the replies, for a reply the
    original destination. The first packet of a connection (not confirmed yet) has yet to meet our SNAT rule.
    """
    outgoing: Rule = {"out-interface": plan.interface, "target": "DROP"}
    yield from _outgoing_neighbours(plan, version)
    if plan.surroundings.parent is not None:
        yield {"out-interface": plan.surroundings.parent, "target": "DROP"}
    if family is None:
        yield outgoing
        return
    if version == 6:
        for source in ("::/128", "fe80::/10"):
            yield {**outgoing, "src": source, "target": "RETURN"}
    original: dict[str, str] = {"ctdir": "ORIGINAL", "ctstatus": "CONFIRMED"}
    if len(family.sources) > 1:
        for source in map(str, family.sources):
            passes: Rule = {**outgoing, "target": "RETURN"}
            yield {**passes, "conntrack": {**original, "ctrepldst": source}}
            yield {**passes, "conntrack": {"ctdir": "REPLY", "ctorigdst": source}}
            yield {**passes, "src": source, "conntrack": {"ctstate": "UNTRACKED"}}
        yield {**outgoing, "conntrack": original}
        yield {**outgoing, "conntrack": {"ctdir": "REPLY"}}
        yield {**outgoing, "conntrack": {"ctstate": "UNTRACKED"}}
        return
    other = f"!{family.source}"
    yield {**outgoing, "conntrack": {**original, "ctrepldst": other}}
    yield {**outgoing, "conntrack": {"ctdir": "REPLY", "ctorigdst": other}}
    yield {**outgoing, "src": other, "conntrack": {"ctstate": "UNTRACKED"}}


def _outgoing_neighbours(plan: NatPlan, version: int) -> Iterator[Rule]:
    for interface in plan.outside:
        yield from ({**rule, "out-interface": interface} for rule in _neighbours(version))
