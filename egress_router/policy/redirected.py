"""An egress policy for redirects: which of the destinations that lines lead to are denied, as values.

A router reaches only the destinations of its lines, so the kernel does not need the policy, only which of
these addresses and ports are denied. `egress_policy` decides; here it is asked once, not per connection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.grammar.redirect import Protocol
from egress_router.policy.egress_policy import NO_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from egress_router.grammar.address import IPAddress
    from egress_router.policy.egress_policy import NamesOf, PolicyIndex

_LAST_PORT = 65535
# No entry can name it, so it stands for every port that no entry names.
_NO_PORT = -1


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a line leads: an address, and ports of a protocol there; without a protocol, everything."""

    address: IPAddress
    protocol: Protocol | None = None
    first: int = 0
    last: int = _LAST_PORT


@dataclass(frozen=True, slots=True)
class Denial:
    """Ports of an address that entry number `entry` denies; no protocol: all protocols without ports."""

    address: IPAddress
    protocol: Protocol | None
    first: int
    last: int
    entry: int


def denials(index: PolicyIndex, reached: Iterable[Reached], names: NamesOf = NO_NAMES) -> tuple[Denial, ...]:
    """Return which of these destinations are denied; no two results overlap."""
    named = _named_ports(index)
    return tuple(denial for each in _disjoint(reached) for denial in _denied(index, each, names, named))


def _disjoint(reached: Iterable[Reached]) -> Iterator[Reached]:
    """Yield the same destinations without overlaps, which range sets in the kernel do not accept."""
    wanted = sorted(set(reached), key=lambda each: (each.first, each.last))
    whole = dict.fromkeys(each.address for each in wanted if each.protocol is None)
    yield from map(Reached, whole)
    parts: dict[tuple[IPAddress, Protocol], list[Reached]] = {}
    for each in wanted:
        if each.protocol is None or each.address in whole:
            continue
        before = parts.setdefault((each.address, each.protocol), [])
        if before and each.first <= before[-1].last:
            before[-1] = replace(before[-1], last=max(before[-1].last, each.last))
        else:
            before.append(each)
    for ranges in parts.values():
        yield from ranges


def _named_ports(index: PolicyIndex) -> dict[Protocol, list[int]]:
    ports = {(each.protocol, each.port) for entry in index.policy.entries for each in entry.ports}
    return {protocol: sorted(port for kind, port in ports if kind is protocol) for protocol in Protocol}


def _denied(
    index: PolicyIndex, reached: Reached, names: NamesOf, named: dict[Protocol, list[int]]
) -> Iterator[Denial]:
    if reached.protocol is not None:
        yield from _of_protocol(index, reached, reached.protocol, names, named[reached.protocol])
        return
    for protocol in Protocol:
        yield from _of_protocol(index, reached, protocol, names, named[protocol])
    decision = index.decide(reached.address, _NO_PORT, names)
    if not decision.is_allowed and decision.entry is not None:
        yield Denial(reached.address, None, 0, _LAST_PORT, decision.entry.number)


def _of_protocol(
    index: PolicyIndex, reached: Reached, protocol: Protocol, names: NamesOf, named: list[int]
) -> Iterator[Denial]:
    start: int | None = None
    entry = 0
    for first, last, port in _uniform_ranges(reached.first, reached.last, named):
        decision = index.decide(reached.address, port, names, protocol)
        by = 0 if decision.is_allowed or decision.entry is None else decision.entry.number
        if start is not None and by != entry:
            yield Denial(reached.address, protocol, start, first - 1, entry)
            start = None
        if by and start is None:
            start, entry = first, by
        if start is not None and last == reached.last:
            yield Denial(reached.address, protocol, start, last, entry)


def _uniform_ranges(first: int, last: int, named: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield ranges from `first` to `last` with one decision each, and a port to ask for in each."""
    position = first
    for port in named:
        if first <= port <= last:
            if position < port:
                yield position, port - 1, _NO_PORT
            yield port, port, port
            position = port + 1
    if position <= last:
        yield position, last, _NO_PORT
