"""The plan as iptables rules, for kernels without nf_tables; one commit a table.

The layout is linear, as x_tables has no maps: a connection passes every rule before its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import iptc
from iptc.ip4tc import IPTCError

from egress_router.errors import RefusedError
from egress_router.kernel.nat.plan import REPLY_MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.redirect import Redirect
    from egress_router.kernel.nat.plan import FamilyPlan, NatPlan

# A rule as python-iptables spells it: matches, protocol and interfaces by name, and the target.
Rule: TypeAlias = "dict[str, str | dict[str, str] | dict[str, dict[str, str]]]"
Tables: TypeAlias = "dict[str, dict[str, list[Rule]]]"

# Our chain in each table, and the built-in chain that jumps to it.
_HOOKS = {
    "EGRESS_REMEMBER": "PREROUTING",
    "EGRESS_RETURN": "OUTPUT",
    "EGRESS_TO": "PREROUTING",
    "EGRESS_FROM": "POSTROUTING",
    "EGRESS_INPUT": "INPUT",
    "EGRESS_FORWARD": "FORWARD",
    "EGRESS_OUTPUT": "OUTPUT",
}
_MARK = f"{REPLY_MARK:#x}/{REPLY_MARK:#x}"
_ESTABLISHED: dict[str, str] = {"ctstate": "RELATED,ESTABLISHED"}
_NEIGHBOURS = ("133", "134", "135", "136")  # RFC 4861: router and neighbour solicitation, advertisement


def rules(plan: NatPlan, version: int) -> Tables:
    """Return the rules of one family, by table and chain; the order is the plan's."""
    family = plan.family(version)
    restore: Rule = {
        "conntrack": {"ctdir": "REPLY"},
        "connmark": {"mark": _MARK},
        "target": {"MARK": {"set-xmark": _MARK}},
    }
    remember: list[Rule] = [
        {"in-interface": plan.interface, "target": "RETURN"},
        {"in-interface": "lo", "target": "RETURN"},
        {"conntrack": {"ctstate": "NEW"}, "target": {"CONNMARK": {"set-xmark": _MARK}}},
        restore,
    ]
    return {
        "mangle": {"EGRESS_REMEMBER": remember, "EGRESS_RETURN": [restore]},
        "nat": {
            "EGRESS_TO": list(_redirect(plan, family)),
            "EGRESS_FROM": [] if family is None else [_source(plan, family)],
        },
        "filter": {
            "EGRESS_INPUT": list(_input(plan, version)),
            "EGRESS_FORWARD": list(_forward(plan)),
            "EGRESS_OUTPUT": list(_output(plan, family, version)),
        },
    }


def _redirect(plan: NatPlan, family: FamilyPlan | None) -> Iterator[Rule]:
    if not plan.redirects or family is None:
        return
    for interface in (plan.interface, "lo"):
        yield {"in-interface": interface, "target": "RETURN"}
    if plan.admin_port:
        yield {"protocol": "tcp", "tcp": {"dport": str(plan.admin_port)}, "target": "RETURN"}
    for rule in (*family.single, *family.ranges):
        yield _redirect_rule(rule)
    if family.fallback is not None:
        echo = "icmp" if family.version == 4 else "ipv6-icmp"
        yield {"protocol": echo, "target": "RETURN"}
        yield {"target": {"DNAT": {"to-destination": str(family.fallback)}}}


def _redirect_rule(rule: Redirect) -> Rule:
    protocol = rule.protocol.value
    target = str(rule.target)
    ports = f"{rule.first}:{rule.last}" if rule.is_range else str(rule.first)
    if rule.target_port is not None:
        target = (
            f"[{target}]:{rule.target_port}" if rule.target.version == 6 else f"{target}:{rule.target_port}"
        )
    return {
        "protocol": protocol,
        protocol: {"dport": ports},
        "target": {"DNAT": {"to-destination": target}},
    }


def _source(plan: NatPlan, family: FamilyPlan) -> Rule:
    rule: Rule = {
        "out-interface": plan.interface,
        "src": f"!{family.source}",
        "target": {"SNAT": {"to-source": str(family.source), "random-fully": ""}},
    }
    return rule


def _neighbours(version: int) -> Iterator[Rule]:
    """Let neighbour discovery through, without which no IPv6 address is reachable."""
    if version == 6:
        for kind in _NEIGHBOURS:
            yield {"protocol": "ipv6-icmp", "icmp6": {"icmpv6-type": kind}, "target": "ACCEPT"}


def _input(plan: NatPlan, version: int) -> Iterator[Rule]:
    yield {"conntrack": _ESTABLISHED, "target": "ACCEPT"}
    yield from _neighbours(version)
    yield {"in-interface": plan.interface, "target": "DROP"}
    if plan.redirects:
        yield {"in-interface": "lo", "target": "ACCEPT"}
        if plan.admin_port:
            yield {"protocol": "tcp", "tcp": {"dport": str(plan.admin_port)}, "target": "ACCEPT"}
        yield {"protocol": "icmp" if version == 4 else "ipv6-icmp", "target": "ACCEPT"}
        yield {"protocol": "tcp", "target": {"REJECT": {"reject-with": "tcp-reset"}}}
        unreachable = "icmp-port-unreachable" if version == 4 else "icmp6-port-unreachable"
        yield {"target": {"REJECT": {"reject-with": unreachable}}}


def _forward(plan: NatPlan) -> Iterator[Rule]:
    if plan.redirects:
        yield {"conntrack": {"ctstate": "INVALID"}, "target": "DROP"}
        yield {"in-interface": plan.interface, "conntrack": _ESTABLISHED, "target": "ACCEPT"}
        yield {"in-interface": plan.interface, "target": "DROP"}
        yield {"out-interface": plan.interface, "conntrack": {"ctstate": "DNAT"}, "target": "ACCEPT"}
    yield {"target": "DROP"}


def _output(plan: NatPlan, family: FamilyPlan | None, version: int) -> Iterator[Rule]:
    yield from ({**rule, "out-interface": plan.interface} for rule in _neighbours(version))
    yield {"out-interface": plan.interface, "conntrack": {"ctstate": "INVALID"}, "target": "DROP"}
    if family is None:
        yield {"out-interface": plan.interface, "target": "DROP"}


def apply(plan: NatPlan) -> None:
    """Put the plan in force, one commit a table.

    Raises:
        RefusedError: no permission, or the kernel lacks x_tables or one of its modules.
    """
    for version in (4, 6):
        # The filter comes first, so that nothing passes between two commits that the plan would stop.
        tables = rules(plan, version)
        for name in ("filter", "mangle", "nat"):
            try:
                _commit(name, tables[name], ipv6=version == 6)
            except (IPTCError, ValueError, OSError) as error:
                if version == 6 and plan.family(6) is None and "Table does not exist" in str(error):
                    break  # a kernel without ip6tables, on a router without IPv6
                raise _refusal(name, error) from None


def _commit(name: str, chains: dict[str, list[Rule]], *, ipv6: bool) -> None:
    table = (iptc.Table6 if ipv6 else iptc.Table)(name)
    table.autocommit = False
    table.refresh()
    try:
        for chain, wanted in chains.items():
            _fill(table, chain, wanted, ipv6=ipv6)
        table.commit()
    finally:
        table.autocommit = True
        table.close()


def _fill(table: object, name: str, wanted: list[Rule], *, ipv6: bool) -> None:
    chain = iptc.Chain(table, name)
    if table.is_chain(chain):  # type: ignore[attr-defined]
        chain.flush()
    else:
        chain = table.create_chain(chain)  # type: ignore[attr-defined]
    for rule in wanted:
        chain.append_rule(iptc.easy.encode_iptc_rule(rule, ipv6=ipv6))
    hook = iptc.Chain(table, _HOOKS[name])
    if not any(rule.target is not None and rule.target.name == name for rule in hook.rules):
        hook.insert_rule(iptc.easy.encode_iptc_rule({"target": name}, ipv6=ipv6))


def _refusal(table: str, error: Exception) -> RefusedError:
    text = str(error)
    if "ermission" in text or "not permitted" in text:
        return RefusedError("the kernel refused NAT rules (operation not permitted)", "grant NET_ADMIN")
    remedy = "load ip_tables, iptable_nat and nf_conntrack on the node, or set EGRESS_NAT_BACKEND=nftables"
    return RefusedError(f"the kernel refused iptables rules of the table {table} ({text})", remedy)
