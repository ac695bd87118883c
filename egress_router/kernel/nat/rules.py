"""The plan as nftables text: sets and chains that stay, and the rules and elements in them.

Redirects are map elements, not rules: a look-up costs the same for one line and for 30,000. A packet of a
known connection passes as few rules as can be: one chain where it comes in, one where it is forwarded, one
where it leaves, and in each of them its case comes first.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from egress_router.grammar.leaving import Spread
from egress_router.kernel.nat import admin_chain, counting, elements, noting, source_ports
from egress_router.kernel.nat.plan import REPLY_MARK
from egress_router.kernel.nat.source_ports import TABLE, chain, dispatch, keyword

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from egress_router.grammar.leaving import Leaving
    from egress_router.kernel.nat.plan import FamilyPlan, Line, NatPlan

# Without these an interface cannot find or keep its IPv6 neighbours and routers (RFC 4861).
_NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit }"
_MARK = f"{REPLY_MARK:#010x}"
# Only packets of the reply direction carry the mark, so only they follow the policy route back by the pod's
# first interface; the client's own packets go out by the macvlan interface.
_RESTORE = f"ct direction reply ct mark and {_MARK} == {_MARK} meta mark set meta mark or {_MARK}"
_REMEMBER = f"ct mark set ct mark or {_MARK}"
_KNOWN = "ct state established,related"
# By chain: where it hooks in.
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


def render(plan: NatPlan, *, has_timeouts: bool = True, remembered: Iterable[str] = ()) -> str:
    """Return the text that replaces our tables, whatever they were, in one transaction.

    Connections that conntrack knows keep their translation: NAT chains see only a connection's first packet.
    `has_timeouts` is whether this kernel takes connection timeouts from nftables, `remembered` are commands
    that fill sets.
    """
    # Adding before deleting makes deleting succeed on a machine that never had the table.
    head = (f"add table inet {name}\ndelete table inet {name}" for name in (TABLE, counting.OLD_TABLE))
    body = [*_frame(plan), *_lasting(plan, has_timeouts=has_timeouts)]
    marker = f"set {layout(plan)} {{ type mark; }}"
    text = [*head, *_table([*body, marker]), *_filling(plan), *remembered]
    return "\n".join([*text, *admin_chain.declaration(plan.interface), ""])


def render_again(plan: NatPlan) -> str:
    """Return the text that changes rules and lines where our table has this plan's `layout` already.

    What was counted, the turn of the source ports, and what is known of them stay.
    """
    flushed = [f"flush chain inet {TABLE} {name}" for name in (*_HOOKS, *(_INNER if plan.redirects else ()))]
    flushed += [f"flush map inet {TABLE} {name}" for name in _map_names(plan)]
    flushed += [f"flush set inet {TABLE} {name}" for name in _denied_sets(plan)]
    return "\n".join([*flushed, *_filling(plan), *admin_chain.declaration(plan.interface), ""])


def layout(plan: NatPlan) -> str:
    """Return the name of the set that marks a table with the lasting parts of this plan."""
    lasting = "\n".join([*_frame(plan), *_lasting(plan, has_timeouts=True)])
    return f"layout_{hashlib.sha256(lasting.encode()).hexdigest()[:16]}"


def _table(body: Iterable[str]) -> list[str]:
    return [f"table inet {TABLE} {{", *(f"  {line}" for line in body), "}"]


def _frame(plan: NatPlan) -> Iterator[str]:
    """Yield sets, maps, and empty chains."""
    if plan.redirects:
        for family in plan.families:
            yield from elements.declarations(family.version)
            yield from counting.declarations(family.version)
            yield from noting.declarations(family.version)
            yield from source_ports.declarations(family)
            address = f"ipv{family.version}_addr"
            yield f"set denied{family.version} {{ type {address}; counter; }}"
            kind = f"type {address} . inet_proto . inet_service; flags interval"
            yield f"set denied_ports{family.version} {{ {kind}; counter; }}"
            if len(family.sources) > 1:
                # Here, because nft adds the elements of a map of ranges together with the map.
                yield f"chain every{family.version} {{ }}"
            yield from (
                f"map {name} {{ type inet_service : verdict; flags interval; }}"
                for name in _from_maps(family)
            )
        for name in _INNER:
            yield f"chain {name} {{ }}"
    for name, hook in _HOOKS.items():
        yield f"chain {name} {{ {hook} }}"


def _lasting(plan: NatPlan, *, has_timeouts: bool) -> Iterator[str]:
    """Yield the rules that stay until the addresses change, because they remember something."""
    if not plan.redirects:
        return
    for family in plan.families:
        yield from source_ports.chains(family)
    # A port is used again after a minute (source_ports); conntrack's two in TIME_WAIT would be in the way.
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
        "destinations": _destinations(plan),
        "sources": _sources(plan),
        "leaks": _leaks(plan),
        "input": _input(plan),
        "forward": _forward(plan),
        "output": _output(plan),
    }
    if plan.redirects:
        chains |= {
            "begin": _begin(plan),
            "denied": _denied(plan),
            "sent": _sent(plan),
            "received": _received(plan),
        }
        for version, maps in found.items():
            for lines in elements.group_chains(version, elements.verdicts(version, maps)):
                yield from _whole_chain(lines)
            yield from elements.added(maps)
        for family in plan.families:
            yield from _from_elements(family)
            yield from noting.chains(family.version)
        yield from _denied_elements(plan)
    yield from _table(line for name, rules in chains.items() for line in chain(name, *rules))


def update(before: NatPlan, after: NatPlan) -> tuple[str, NatPlan]:
    """Return the transaction that changes the addresses of lines, and the plan that it leaves in force.

    The text is empty where nothing changes. Connections that conntrack knows are not touched.

    Raises:
        ValueError: something else than addresses differs.
    """
    text: list[str] = []
    families = []
    if replace(before, families=()) != replace(after, families=()):
        raise ValueError(_OTHER)
    for old, new in zip(before.families, after.families, strict=True):
        if replace(old, lines=()) != replace(new, lines=()) or len(old.lines) != len(new.lines):
            raise ValueError(_OTHER)
        pairs = list(map(_settled, old.lines, new.lines))
        families.append(replace(new, lines=tuple(line for _, line in pairs)))
        text += _changes(old.version, [pair for pair in pairs if pair[0] is not pair[1]])
    return "\n".join([*text, ""]) if text else "", replace(after, families=tuple(families))


_OTHER = "plans differ in more than the addresses of lines"


def _settled(line: Line, wanted: Line) -> tuple[Line, Line]:
    """Return the line as it is and as it shall be; the same object twice where nothing changes."""
    if _place(line) != _place(wanted):
        raise ValueError(_OTHER)
    if line.addresses == wanted.addresses:  # of the same objects, as a rule
        return line, line
    addresses = elements.settled(line.addresses, wanted.addresses)
    if addresses == line.addresses:
        return line, line
    return line, replace(wanted, addresses=addresses)


def _place(line: Line) -> tuple[object, ...]:
    """Return everything of a line but its addresses."""
    return line.protocol, line.first, line.last, line.target_port, line.leaving


def _changes(version: int, pairs: Sequence[tuple[Line, Line]]) -> list[str]:
    gone, come = elements.changes(version, pairs)
    wanted = elements.verdicts(version, come)
    return [
        *(command for lines in elements.group_chains(version, wanted) for command in _whole_chain(lines)),
        *elements.removed(gone),
        *elements.added(come),
    ]


def _whole_chain(lines: list[str]) -> list[str]:
    name = lines[0].split()[1]
    return [f"add chain inet {TABLE} {name}", f"flush chain inet {TABLE} {name}", *_table(lines)]


def _map_names(plan: NatPlan) -> Iterator[str]:
    if plan.redirects:
        for family in plan.families:
            yield from (f"{name}{family.version}" for name in elements.MAPS)
            yield from _from_maps(family)


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


def _denied(plan: NatPlan) -> Iterator[str]:
    """Reject what the egress policy denies, as its own destination would not."""
    yield from (noting.note("denied", family.version) for family in plan.families)
    yield "meta l4proto tcp reject with tcp reset"
    yield "reject with icmpx admin-prohibited"


def _destinations(plan: NatPlan) -> Iterator[str]:
    if not plan.redirects:
        return
    yield f"iifname {_interfaces(*plan.outside, 'lo')} accept"
    if plan.admin_port:
        yield f"tcp dport {plan.admin_port} accept"
    if plan.surroundings.standby_port:
        yield f"udp dport {plan.surroundings.standby_port} accept"
    for family in plan.families:
        yield from elements.translations(family.version, family.lines)
        if family.fallback is not None:
            prefix, ip = f"meta nfproto ipv{family.version}", keyword(family.version)
            yield f"{prefix} meta l4proto != {{ icmp, ipv6-icmp }} dnat {ip} to {family.fallback}"


def _sources(plan: NatPlan) -> Iterator[str]:
    yield f'oifname != "{plan.interface}" accept'
    if plan.redirects:
        # A chain of type nat sees the first packet of a connection only, and not when it is sent again.
        for family in plan.families:
            for protocol in counting.PROTOCOLS:
                counted = counting.count("begun", protocol, family.version)
                yield f"{_of(plan, family, protocol)} ct status dnat {counted}"
    for family in plan.families:
        version, ip = family.version, keyword(family.version)
        # Neighbour discovery speaks from link-local addresses and must not be translated.
        fine = [str(each) for each in family.sources] + (["fe80::/10"] if version == 6 else [])
        yield f"{ip} saddr {_one_or_set(fine)} accept"
        if not plan.redirects:
            yield f"meta nfproto ipv{version} snat {ip} to {family.source} fully-random"
            continue
        for protocol in counting.PROTOCOLS if len(family.sources) > 1 else ():
            key = f"meta nfproto ipv{version} meta l4proto {protocol} ct original proto-dst"
            yield f"{key} vmap @from_{protocol}{version}"
        yield f"meta nfproto ipv{version} {_to_source(family, family.fallback_leaving)}"


def _interfaces(*names: str) -> str:
    return _one_or_set([f'"{name}"' for name in names])


def _one_or_set(addresses: list[str]) -> str:
    return addresses[0] if len(addresses) == 1 else f"{{ {', '.join(addresses)} }}"


def _to_source(family: FamilyPlan, choice: Leaving) -> str:
    version = family.version
    if choice is Spread.ALL and len(family.sources) > 1:
        cases = (f"{index} : goto source{version}_{index}" for index in range(len(family.sources)))
        return f"numgen inc mod {len(family.sources)} vmap {{ {', '.join(cases)} }}"
    return f"goto source{version}_{_index(family, choice)}"


def _index(family: FamilyPlan, choice: Leaving) -> int:
    return 0 if choice is None or isinstance(choice, Spread) else family.sources.index(choice)


def _from_maps(family: FamilyPlan) -> Iterator[str]:
    if len(family.sources) > 1:
        yield from (f"from_{protocol}{family.version}" for protocol in counting.PROTOCOLS)


def _from_elements(family: FamilyPlan) -> Iterator[str]:
    """Yield the chain for `from *`, and by port the way to each line's source."""
    if len(family.sources) == 1:
        return
    version = family.version
    every = f"every{version}"
    yield from _whole_chain(chain(every, _to_source(family, Spread.ALL)))
    found: dict[str, dict[str, str]] = {name: {} for name in _from_maps(family)}
    for line in family.lines:
        if line.leaving is None and family.fallback_leaving is None:
            continue
        ports = f"{line.first}-{line.last}" if line.is_range else str(line.first)
        way = every if line.leaving is Spread.ALL else f"source{version}_{_index(family, line.leaving)}"
        found[f"from_{line.protocol.value}{version}"][ports] = f"goto {way}"
    yield from elements.added(found)


def _leaks(plan: NatPlan) -> Iterator[str]:
    """Drop what would leave with another source than ours, whatever NAT made of it.

    NAT does not translate what conntrack knew before there were rules, and keeps to a source that changed.
    """
    if plan.surroundings.parent is not None:
        # What the macvlan sends goes past this hook; the parent's own stack has nothing to say out there.
        parent = f'oifname "{plan.surroundings.parent}"'
        yield f"{parent} {_NEIGHBOURS} accept"
        yield f"{parent} drop"
    yield f'oifname != "{plan.interface}" accept'
    for family in plan.families:
        yield f"{keyword(family.version)} saddr {_one_or_set([str(each) for each in family.sources])} accept"
    yield f"{_NEIGHBOURS} accept"
    if plan.family(6) is not None:
        # Detection of duplicates speaks from ::, multicast listeners from either (RFC 4862, RFC 3810).
        yield "ip6 saddr { ::, fe80::/10 } accept"
    yield "drop"


def _input(plan: NatPlan) -> Iterator[str]:
    outside = f"iifname {_interfaces(*plan.outside)}"
    # Nobody on a wire changes the pod's routes, also where /proc/sys is read-only.
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


def _forward(plan: NatPlan) -> Iterator[str]:
    """Only what was redirected goes out, and only answers come back; all else is dropped, link up or down."""
    if not plan.redirects:
        return
    outside = f'"{plan.interface}"'
    yield f"oifname {outside} {_KNOWN} goto sent"
    yield f"iifname {outside} {_KNOWN} goto received"
    yield f"iifname {_interfaces(*plan.outside)} drop"
    # Conntrack does not translate what it cannot place; it would leave with the client's own address.
    yield "ct state invalid drop"
    yield f"oifname {outside} ct status dnat goto begin"


def _begin(plan: NatPlan) -> Iterator[str]:
    """A connection's packets until the first answer."""
    # First, because a reject is an answer, too, and has to find the way back.
    yield _REMEMBER
    for version in sorted({each.address.version for each in plan.denials}):
        address = f"{keyword(version)} daddr"
        yield f"meta l4proto != {{ tcp, udp, sctp }} {address} @denied{version} goto denied"
        yield f"{address} . meta l4proto . th dport @denied_ports{version} goto denied"
    yield "jump brief"
    for family in plan.families:
        for protocol in counting.PROTOCOLS:
            yield f"{_of(plan, family, protocol)} {counting.count('sent', protocol, family.version)}"
    yield "accept"


def _of(plan: NatPlan, family: FamilyPlan, protocol: str) -> str:
    match = "" if len(plan.families) == 1 else f"meta nfproto ipv{family.version} "
    # Named again, because nft wants to know the protocol before it speaks of ports.
    return f"{match}meta l4proto {protocol}"


def _sent(plan: NatPlan) -> Iterator[str]:
    for family in plan.families:
        counted = counting.count("sent", "tcp", family.version)
        yield f"{_of(plan, family, 'tcp')} {counted} tcp flags & (fin | rst) == 0 accept"
    for family in plan.families:
        yield f"{_of(plan, family, 'tcp')} {dispatch(family, 'rest_out')}"
    yield from _others(plan, "sent")
    yield "accept"


def _received(plan: NatPlan) -> Iterator[str]:
    for family in plan.families:
        counted = counting.count("received", "tcp", family.version)
        yield f"{_of(plan, family, 'tcp')} {counted} tcp flags & (fin | syn | rst) == 0 accept"
    for family in plan.families:
        yield f"{_of(plan, family, 'tcp')} tcp flags & (fin | rst) != 0 {dispatch(family, 'rest_in')}"
        answered = f"tcp flags & (syn | ack) == syn | ack {counting.count('accepted', 'tcp', family.version)}"
        yield f"{_of(plan, family, 'tcp')} {answered} {dispatch(family, 'hold')}"
    yield from _others(plan, "received")
    yield "accept"


def _others(plan: NatPlan, what: str) -> Iterator[str]:
    for family in plan.families:
        for protocol in counting.PROTOCOLS:
            if protocol != "tcp":
                yield f"{_of(plan, family, protocol)} {counting.count(what, protocol, family.version)}"


def _output(plan: NatPlan) -> Iterator[str]:
    """The pod itself reaches the cluster by its other interfaces, and nothing else, whatever its routes say.

    Answers go back to any client. Link-local IPv6 is neighbour discovery's; of IPv4's only what a route names
    is the cluster's, as clouds have their metadata services there.
    """
    yield f"oifname {_interfaces(*plan.outside)} {_NEIGHBOURS} accept"
    yield f'oifname "{plan.interface}" ct state invalid drop'
    yield f"oifname {_interfaces(plan.interface, 'lo')} accept"
    yield "ct direction reply accept"
    yield "ct state related accept"
    # Set by us for answers, or by a process with a capability that the proxies lack (SO_MARK, socket(7)).
    yield f"meta mark and {_MARK} == {_MARK} accept"
    yield from (f"ip daddr {network} accept" for network in plan.surroundings.networks(4))
    near = ("fe80::/10", "ff02::/16")
    yield from (f"ip6 daddr {network} accept" for network in (*near, *plan.surroundings.networks(6)))
    yield "drop"
