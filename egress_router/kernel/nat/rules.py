"""The plan as nftables text: sets and chains that stay, and the rules and elements in them.

Redirects are map elements, not rules: a look-up costs the same for one line and for 30,000. A packet of a
known connection passes as few rules as possible: one chain where it comes in, one where it is forwarded, one
where it leaves, and in each of them its case comes first.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from egress_router.kernel.nat import (
    admin_chain,
    counting,
    elements,
    filters,
    noting,
    source_ports,
    timing,
    translations,
)
from egress_router.kernel.nat.phrases import MARK, table, whole_chain
from egress_router.kernel.nat.source_ports import TABLE, chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egress_router.kernel.nat.plan import NatPlan

# Only packets of the reply direction carry the mark, so only they use the policy route back by the pod's
# first interface; the client's own packets leave by the macvlan interface.
_RESTORE = f"ct direction reply ct mark and {MARK} == {MARK} meta mark set meta mark or {MARK}"
# By chain: its hook.
_HOOKS = {
    "arrive": "type filter hook prerouting priority mangle; policy accept;",
    "return_local": "type route hook output priority mangle; policy accept;",
    "destinations": "type nat hook prerouting priority dstnat; policy accept;",
    "sources": "type nat hook postrouting priority srcnat; policy accept;",
    "leaks": "type filter hook postrouting priority srcnat + 1; policy accept;",
    "input": "type filter hook input priority filter; policy accept;",
    "forward": "type filter hook forward priority filter; policy drop;",
    "output": "type filter hook output priority filter; policy accept;",
}
_INNER = ("begin", "denied", "sent", "received")
_LIFETIMES = "time_wait : 60"


def render(
    plan: NatPlan, *, has_timeouts: bool = True, has_hashes: bool = True, remembered: Iterable[str] = ()
) -> str:
    """Return the text that replaces our tables, whatever they are, in one transaction.

    Connections that conntrack knows keep their translation: NAT chains see only a connection's first packet.
    `has_timeouts` and `has_hashes` say whether this kernel supports connection timeouts and hashes in
    nftables; `remembered` are commands that fill sets.
    """
    # Adding before deleting makes deleting succeed on a machine that never had the table.
    head = (f"add table inet {name}\ndelete table inet {name}" for name in (TABLE, counting.OLD_TABLE))
    body = [*_frame(plan), *_lasting(plan, has_timeouts=has_timeouts, has_hashes=has_hashes)]
    marker = f"set {layout(plan)} {{ type mark; }}"
    text = [*head, *table([*body, marker]), *_filling(plan), *remembered]
    return "\n".join([*text, *admin_chain.declaration(plan.interface), ""])


def render_again(plan: NatPlan) -> str:
    """Return the text that changes rules and lines if our table already has this plan's `layout`.

    Counters, the turn of the source ports, and what is known about them stay.
    """
    flushed = [f"flush chain inet {TABLE} {name}" for name in (*_HOOKS, *(_INNER if plan.redirects else ()))]
    flushed += [f"flush map inet {TABLE} {name}" for name in _map_names(plan)]
    flushed += [f"flush set inet {TABLE} {name}" for name in _denied_sets(plan)]
    return "\n".join([*flushed, *_filling(plan), *admin_chain.declaration(plan.interface), ""])


def layout(plan: NatPlan) -> str:
    """Return the name of the set that marks a table that has the lasting parts of this plan."""
    lasting = "\n".join([*_frame(plan), *_lasting(plan, has_timeouts=True, has_hashes=True)])
    return f"layout_{hashlib.sha256(lasting.encode()).hexdigest()[:16]}"


def _frame(plan: NatPlan) -> Iterator[str]:
    """Yield sets, maps, and empty chains."""
    if plan.redirects:
        for family in plan.families:
            yield from elements.declarations(family.version)
            yield from counting.declarations(family.version)
            yield from noting.declarations(family.version)
            yield from timing.declarations(family.version)
            yield from source_ports.declarations(family)
            address = f"ipv{family.version}_addr"
            yield f"set denied{family.version} {{ type {address}; counter; }}"
            kind = f"type {address} . inet_proto . inet_service; flags interval"
            yield f"set denied_ports{family.version} {{ {kind}; counter; }}"
            if len(family.sources) > 1:
                # Declared here, because nft adds the elements of a map of ranges together with the map.
                yield f"chain every{family.version} {{ }}"
            yield from (
                f"map {name} {{ type inet_service : verdict; flags interval; }}"
                for name in translations.from_maps(family)
            )
        for name in _INNER:
            yield f"chain {name} {{ }}"
    for name, hook in _HOOKS.items():
        yield f"chain {name} {{ {hook} }}"


def _lasting(plan: NatPlan, *, has_timeouts: bool, has_hashes: bool) -> Iterator[str]:
    """Yield the rules that have state, and so stay until the addresses change."""
    if not plan.redirects:
        return
    for family in plan.families:
        yield from source_ports.chains(family, keeps=has_hashes or family.version == 4)
    # A port is used again after a minute (source_ports); conntrack's two in TIME_WAIT would prevent that.
    if has_timeouts:
        for version, protocol in ((4, "ip"), (6, "ip6")):
            yield from (
                f"ct timeout brief{version} {{",
                "  protocol tcp",
                f"  l3proto {protocol}",
                f"  policy = {{ {_LIFETIMES} }}",
                "}",
            )
    rules = [
        f'meta nfproto ipv{version} meta l4proto tcp ct timeout set "brief{version}"' for version in (4, 6)
    ]
    yield from chain("brief", *(rules if has_timeouts else ()))


def _filling(plan: NatPlan) -> Iterator[str]:
    """Yield rules and elements."""
    found = {family.version: elements.elements(family.version, family.lines) for family in plan.families}
    chains = {
        "arrive": [_RESTORE],
        "return_local": [_RESTORE],
        "destinations": translations.destinations(plan),
        "sources": translations.sources(plan),
        "leaks": filters.leaks(plan),
        "input": filters.arriving(plan),
        "forward": filters.forwarded(plan),
        "output": filters.leaving(plan),
    }
    if plan.redirects:
        chains |= {
            "begin": filters.begin(plan),
            "denied": filters.denied(plan),
            "sent": filters.sent(plan),
            "received": filters.received(plan),
        }
        for version, maps in found.items():
            for lines in elements.group_chains(version, elements.verdicts(version, maps)):
                yield from whole_chain(lines)
            yield from elements.added(maps)
        for family in plan.families:
            yield from translations.from_elements(family)
            yield from noting.chains(family.version)
        yield from _denied_elements(plan)
    yield from table(line for name, rules in chains.items() for line in chain(name, *rules))


def _map_names(plan: NatPlan) -> Iterator[str]:
    if plan.redirects:
        for family in plan.families:
            yield from (f"{name}{family.version}" for name in elements.MAPS)
            yield from translations.from_maps(family)


def _denied_sets(plan: NatPlan) -> Iterator[str]:
    if plan.redirects:
        for family in plan.families:
            yield from (f"{name}{family.version}" for name in ("denied", "denied_ports"))


def _denied_elements(plan: NatPlan) -> Iterator[str]:
    found: dict[str, list[str]] = {name: [] for name in _denied_sets(plan)}
    for each in plan.denials:
        version = each.address.version
        if each.protocol is None:
            found[f"denied{version}"].append(str(each.address))
        else:
            ports = str(each.first) if each.first == each.last else f"{each.first}-{each.last}"
            found[f"denied_ports{version}"].append(f"{each.address} . {each.protocol.value} . {ports}")
    for name, listed in found.items():
        if listed:
            yield f"add element inet {TABLE} {name} {{ {', '.join(listed)} }}"
