"""The rules that translate: the destinations of connections, and their source addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.grammar.leaving import Spread
from egress_router.kernel.nat import counting, elements, timing
from egress_router.kernel.nat.phrases import interfaces, of_protocol, one_or_set, whole_chain
from egress_router.kernel.nat.source_ports import chain, keyword

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.leaving import Leaving
    from egress_router.kernel.nat.plan import FamilyPlan, NatPlan


def destinations(plan: NatPlan) -> Iterator[str]:
    """Yield the rules for destinations, by local port."""
    if not plan.redirects:
        return
    yield f"iifname {interfaces(*plan.outside, 'lo')} accept"
    if plan.admin_port:
        yield f"tcp dport {plan.admin_port} accept"
    if plan.surroundings.standby_port:
        yield f"udp dport {plan.surroundings.standby_port} accept"
    for family in plan.families:
        yield from elements.translations(family.version, family.lines)
        if family.fallback is not None:
            prefix, ip = f"meta nfproto ipv{family.version}", keyword(family.version)
            yield f"{prefix} meta l4proto != {{ icmp, ipv6-icmp }} dnat {ip} to {family.fallback}"


def sources(plan: NatPlan) -> Iterator[str]:
    """Yield the rules for source addresses."""
    yield f'oifname != "{plan.interface}" accept'
    if plan.redirects:
        # A nat chain sees only the first packet of a connection, and not when that is sent again.
        for family in plan.families:
            for protocol in counting.PROTOCOLS:
                counted = counting.count("begun", protocol, family.version)
                yield f"{of_protocol(plan, family, protocol)} ct status dnat {counted}"
            yield f"{of_protocol(plan, family, 'tcp')} ct status dnat {timing.asked(family.version)}"
    for family in plan.families:
        version, ip = family.version, keyword(family.version)
        # Neighbour discovery sends from link-local addresses and must not be translated.
        fine = [str(each) for each in family.sources] + (["fe80::/10"] if version == 6 else [])
        yield f"{ip} saddr {one_or_set(fine)} accept"
        if not plan.redirects:
            yield f"meta nfproto ipv{version} snat {ip} to {family.source} fully-random"
            continue
        for protocol in counting.PROTOCOLS if len(family.sources) > 1 else ():
            key = f"meta nfproto ipv{version} meta l4proto {protocol} ct original proto-dst"
            yield f"{key} vmap @from_{protocol}{version}"
        yield f"meta nfproto ipv{version} {_to_source(family, family.fallback_leaving)}"


def _to_source(family: FamilyPlan, choice: Leaving) -> str:
    version = family.version
    if choice is Spread.ALL and len(family.sources) > 1:
        cases = (f"{index} : goto source{version}_{index}" for index in range(len(family.sources)))
        return f"numgen inc mod {len(family.sources)} vmap {{ {', '.join(cases)} }}"
    return f"goto source{version}_{_index(family, choice)}"


def _index(family: FamilyPlan, choice: Leaving) -> int:
    return 0 if choice is None or isinstance(choice, Spread) else family.sources.index(choice)


def from_maps(family: FamilyPlan) -> Iterator[str]:
    """Yield the names of the maps that choose among several source addresses."""
    if len(family.sources) > 1:
        yield from (f"from_{protocol}{family.version}" for protocol in counting.PROTOCOLS)


def from_elements(family: FamilyPlan) -> Iterator[str]:
    """Yield the chain for `from *`, and the elements that lead from a port to its line's source."""
    if len(family.sources) == 1:
        return
    version = family.version
    every = f"every{version}"
    yield from whole_chain(chain(every, _to_source(family, Spread.ALL)))
    found: dict[str, dict[str, str]] = {name: {} for name in from_maps(family)}
    for line in family.lines:
        if line.leaving is None and family.fallback_leaving is None:
            continue
        ports = f"{line.first}-{line.last}" if line.is_range else str(line.first)
        way = every if line.leaving is Spread.ALL else f"source{version}_{_index(family, line.leaving)}"
        found[f"from_{line.protocol.value}{version}"][ports] = f"goto {way}"
    yield from elements.added(found)
