"""The plan as one nftables text, put in force by one transaction of the `nft` program.

Redirects are map elements, not rules: a look-up costs the same for one line and for 30,000.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router import log
from egress_router.errors import RefusedError
from egress_router.kernel.nat import counters, nft
from egress_router.kernel.nat.plan import REPLY_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import NamedRedirect, Redirect
    from egress_router.kernel.nat.plan import FamilyPlan, NatPlan

TABLE = "egress_router"
_log = log.get("kernel")

# Without these an interface cannot find or keep its IPv6 neighbours and routers (RFC 4861).
_NEIGHBOURS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit }"


def render(plan: NatPlan) -> str:
    """Return the text that replaces our table, whatever it was, in one transaction.

    Connections that conntrack knows keep their translation: NAT chains see only a connection's first packet.
    """
    body = [
        *(line for family in plan.families for line in _maps(family)),
        *_chain("remember", "type filter hook prerouting priority mangle; policy accept;", _remember(plan)),
        *_chain("return_local", "type route hook output priority mangle; policy accept;", [_RESTORE]),
        *_chain("destinations", "type nat hook prerouting priority dstnat; policy accept;", _redirect(plan)),
        *_chain("sources", "type nat hook postrouting priority srcnat; policy accept;", _source(plan)),
        *_chain("leaks", "type filter hook postrouting priority srcnat + 1; policy accept;", _leaks(plan)),
        *_chain("input", "type filter hook input priority filter; policy accept;", _input(plan)),
        *_chain("forward", "type filter hook forward priority filter; policy drop;", _forward(plan)),
        *_chain("output", "type filter hook output priority filter; policy accept;", _output(plan)),
    ]
    # Adding before deleting makes deleting succeed on a machine that never had the table.
    head = [f"add table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    return "\n".join([*head, *(f"  {line}" for line in body), "}", ""])


def _chain(name: str, kind: str, rules: Iterable[str]) -> list[str]:
    return [f"chain {name} {{", f"  {kind}", *(f"  {rule}" for rule in rules), "}"]


def _maps(family: FamilyPlan) -> Iterator[str]:
    version = family.version
    if family.single:
        yield f"map ports{version} {{"
        yield f"  type inet_proto . inet_service : ipv{version}_addr . inet_service"
        yield f"  elements = {{ {', '.join(map(_single_element, family.single))} }}"
        yield "}"
    if family.ranges:
        yield f"map ranges{version} {{"
        yield f"  type inet_proto . inet_service : ipv{version}_addr"
        yield "  flags interval"
        yield f"  elements = {{ {', '.join(map(_range_element, family.ranges))} }}"
        yield "}"


def _single_element(rule: Redirect) -> str:
    port = rule.first if rule.target_port is None else rule.target_port
    return f"{rule.protocol.value} . {rule.first} : {rule.target} . {port}"


def _range_element(rule: Redirect) -> str:
    return f"{rule.protocol.value} . {rule.first}-{rule.last} : {rule.target}"


_MARK = f"{REPLY_MARK:#010x}"
# Only packets of the reply direction carry the mark, so only they follow the policy route back by the pod's
# first interface; the client's own packets go out by the macvlan interface.
_RESTORE = f"ct direction reply ct mark and {_MARK} == {_MARK} meta mark set meta mark or {_MARK}"


def _set(*names: str) -> str:
    return f"{{ {', '.join(_quoted(name) for name in names)} }}"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _one_of(names: Sequence[str]) -> str:
    return _quoted(names[0]) if len(names) == 1 else _set(*names)


def _remember(plan: NatPlan) -> list[str]:
    inside = f"iifname != {_set(*plan.outside, 'lo')}"
    return [f"{inside} ct state new ct mark set ct mark or {_MARK}", _RESTORE]


def _redirect(plan: NatPlan) -> list[str]:
    if not plan.redirects:
        return []
    rules = [f"iifname {_set(*plan.outside, 'lo')} accept"]
    if plan.admin_port:
        rules.append(f"tcp dport {plan.admin_port} accept")
    if plan.surroundings.standby_port:
        rules.append(f"udp dport {plan.surroundings.standby_port} accept")
    for family in plan.families:
        prefix, ip = f"meta nfproto ipv{family.version}", _keyword(family)
        rules += [f"{prefix} {_named(ip, line, addresses)}" for line, addresses in family.named]
        if family.single:
            rules.append(f"{prefix} dnat {ip} to meta l4proto . th dport map @ports{family.version}")
        if family.ranges:
            rules.append(f"{prefix} dnat {ip} to meta l4proto . th dport map @ranges{family.version}")
        if family.fallback is not None:
            rules.append(f"{prefix} meta l4proto != {{ icmp, ipv6-icmp }} dnat {ip} to {family.fallback}")
    return rules


def _named(ip: str, line: NamedRedirect, addresses: Sequence[IPAddress]) -> str:
    """Return the rule of a line with a name; without addresses the router rejects its packets."""
    ports = f"{line.first}-{line.last}" if line.is_range else str(line.first)
    match = f"{line.protocol.value} dport {ports}"
    if not addresses:
        return f"{match} accept"
    port = "" if line.is_range else f" . {line.target_port or line.first}"
    targets = ", ".join(f"{number} : {address}{port}" for number, address in enumerate(addresses))
    return f"{match} dnat {ip} to numgen random mod {len(addresses)} map {{ {targets} }}"


def _source(plan: NatPlan) -> list[str]:
    return [
        f'oifname "{plan.interface}" {_keyword(family)} saddr != {family.source}{_not_link_local(family)}'
        f" snat {_keyword(family)} to {family.source} fully-random"
        for family in plan.families
    ]


def _leaks(plan: NatPlan) -> list[str]:
    """Drop what would leave with another source than ours, whatever NAT made of it.

    NAT does not translate what conntrack knew before there were rules, and keeps to a source that changed.
    """
    outside = f'oifname "{plan.interface}"'
    rules = [f"oifname {_one_of(plan.outside)} {_NEIGHBOURS} accept"]
    if plan.surroundings.parent is not None:
        # What the macvlan sends goes past this hook; the parent's own stack has nothing to say out there.
        rules.append(f"oifname {_quoted(plan.surroundings.parent)} drop")
    for version in (4, 6):
        family = plan.family(version)
        if family is None:
            rules.append(f"{outside} meta nfproto ipv{version} drop")
        elif version == 4:
            rules.append(f"{outside} ip saddr != {family.source} drop")
        else:
            # Detection of duplicates speaks from ::, multicast listeners from either (RFC 4862, RFC 3810).
            rules.append(f"{outside} ip6 saddr != {family.source} ip6 saddr != {{ ::, fe80::/10 }} drop")
    return rules


def _keyword(family: FamilyPlan) -> str:
    return "ip" if family.version == 4 else "ip6"


def _not_link_local(family: FamilyPlan) -> str:
    # Neighbour discovery speaks from link-local addresses and must not be translated.
    return " ip6 saddr != fe80::/10" if family.version == 6 else ""


def _input(plan: NatPlan) -> list[str]:
    outside = f"iifname {_one_of(plan.outside)}"
    rules = [
        # Nobody on a wire changes the pod's routes, also where /proc/sys is read-only.
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        "icmp type redirect drop",
        "ct state established,related accept",
        f"{outside} {_NEIGHBOURS} accept",
        f"{outside} drop",
    ]
    if plan.redirects:
        admin = [f"tcp dport {plan.admin_port} accept"] if plan.admin_port else []
        if plan.surroundings.standby_port:
            admin.append(f"udp dport {plan.surroundings.standby_port} accept")
        rules += [
            'iifname "lo" accept',
            *admin,
            "meta l4proto { icmp, ipv6-icmp } accept",
            "meta l4proto tcp reject with tcp reset",
            "reject with icmpx port-unreachable",
        ]
    return rules


def _forward(plan: NatPlan) -> list[str]:
    """Only what was redirected goes out, and only answers come back; all else is dropped, link up or down."""
    if not plan.redirects:
        return []
    outside, wires = _quoted(plan.interface), _one_of(plan.outside)
    return [
        # Conntrack does not translate what it cannot place; it would leave with the client's own address.
        "ct state invalid drop",
        f"iifname {outside} ct state established,related accept",
        f"iifname {wires} drop",
        f"oifname {outside} ct status dnat accept",
    ]


def _output(plan: NatPlan) -> list[str]:
    """The pod itself reaches the cluster by its other interfaces, and nothing else, whatever its routes say.

    Answers go back to any client. Link-local IPv6 is neighbour discovery's; of IPv4's only what a route names
    is the cluster's, as clouds have their metadata services there.
    """
    outside = f'oifname "{plan.interface}"'
    networks4 = map(str, plan.surroundings.networks(4))
    networks6 = ("fe80::/10", "ff02::/16", *map(str, plan.surroundings.networks(6)))
    return [
        f"oifname {_one_of(plan.outside)} {_NEIGHBOURS} accept",
        f"{outside} ct state invalid drop",
        f"oifname {_set(plan.interface, 'lo')} accept",
        "ct direction reply accept",
        "ct state related accept",
        *(f"ip daddr {network} accept" for network in networks4),
        *(f"ip6 daddr {network} accept" for network in networks6),
        "drop",
    ]


def apply(plan: NatPlan) -> None:
    """Put the plan in force, all of it or nothing.

    Raises:
        RefusedError: there is no `nft`, no permission, or no nf_tables in this kernel.
    """
    text = render(plan) + (counters.declaration() if plan.redirects else "")
    _nft(text)
    if _log.tells_debug:
        for line in _spoken(text):
            _log.debug("nftables", line=line)


def remove() -> list[str]:
    """Remove our tables where they are, and return which; without nft or nf_tables there are none.

    Raises:
        RefusedError: the kernel does not let them go.
    """
    try:
        listed = nft.run("list", "tables").stdout.splitlines()
    except RefusedError:
        return []
    mine = [line for line in listed if line in {f"table inet {TABLE}", f"table inet {counters.TABLE}"}]
    if mine:
        _nft("".join(f"delete {line}\n" for line in mine))
    return mine


def _spoken(text: str) -> Iterator[str]:
    """Yield the lines of a rule set for the log; a map's elements are lines too, being many."""
    for line in text.splitlines():
        head, mark, elements = line.strip().partition("elements = { ")
        if mark:
            yield from (f"element {each}" for each in elements.removesuffix(" }").split(", "))
        else:
            yield head


def is_supported() -> bool:
    """Say whether `nft` is here and this kernel has nf_tables."""
    try:
        _nft("list tables\n")
    except RefusedError:
        return False
    return True


def _nft(text: str) -> None:
    done = nft.run("-f", "-", text=text)
    if done.returncode:
        raise _refusal(done.stderr)


def _refusal(stderr: str) -> RefusedError:
    first = next((line for line in stderr.splitlines() if line.strip()), "nft failed without a word")
    if "Operation not permitted" in stderr:
        return RefusedError("the kernel refused NAT rules (operation not permitted)", "grant NET_ADMIN")
    if re.search(r"Protocol not supported|cache initialization failed", stderr):
        remedy = "load nf_tables on the node, or set EGRESS_NAT_BACKEND=iptables"
        return RefusedError("this kernel has no nf_tables", remedy)
    if "Message too long" in stderr:
        # Outside the first user namespace nft cannot lift its socket's buffer over net.core.wmem_max.
        return RefusedError("the rules are larger than one netlink message may be", "raise net.core.wmem_max")
    return RefusedError(
        f"nft refused the rules ({first.strip()})", "load nf_tables, nft_nat and nf_conntrack on the node"
    )
