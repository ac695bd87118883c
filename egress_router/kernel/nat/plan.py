"""The NAT rules as data: what is redirected where, which source everything gets, and what stays closed.

Both backends put the same plan in force. Nothing here uses a kernel, so rule sets are tested as text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from egress_router.grammar.leaving import Spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.grammar.leaving import Leaving
    from egress_router.grammar.redirect import NamedRedirect, Protocol, Redirect, Redirects
    from egress_router.policy.redirected import Denial

# This bit of the connection mark says: it came in by the pod's first interface, so replies leave by it.
# One bit under a mask, because network plug-ins use others (Calico and Cilium the upper and lower ones).
REPLY_MARK = 0x00100000


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """Local ports `first` to `last` of one protocol and family, and where their connections go now.

    `target_port` is None if the port stays the same. New connections are spread evenly over `addresses`;
    without any they are rejected at once. `leaving` is their source address: one of the family's, all of them
    in turn, or None for the family's first.
    """

    protocol: Protocol
    first: int
    last: int
    target_port: int | None
    addresses: tuple[IPAddress, ...]
    leaving: Leaving = None

    @property
    def is_range(self) -> bool:
        """Whether it covers more than one port."""
        return self.first != self.last


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """The rules of one address family; `sources` are the router's addresses, the usual one first."""

    version: int
    sources: tuple[IPAddress, ...]
    lines: tuple[PlannedLine, ...]
    fallback: IPAddress | None
    fallback_leaving: Leaving = None

    @property
    def source(self) -> IPAddress:
        """The source address of everything that asks for no other."""
        return self.sources[0]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else there is in the pod.

    `parent` is the macvlan's parent if it is in the pod's own namespace, and so on the outside network, too.
    `cluster` are the networks that the pod itself may reach by its other interfaces. `standby_port` (UDP, 0:
    none) is where other routers of the group send to this one: it is never redirected, either.
    """

    parent: str | None = None
    cluster: tuple[IPNetwork, ...] = ()
    standby_port: int = 0

    def networks(self, version: int) -> tuple[IPNetwork, ...]:
        """Return the networks of one family."""
        return tuple(network for network in self.cluster if network.version == version)


@dataclass(frozen=True, slots=True)
class NatPlan:
    """All rules of one router.

    `interface` is the macvlan interface, `admin_port` (0: none) is never redirected, `redirects` is whether
    the pod's ports are redirected at all: if so, a port without a rule is rejected. `denials` are
    destinations of lines to which new connections are rejected, because the egress policy says so.
    """

    interface: str
    admin_port: int
    redirects: bool
    families: tuple[FamilyPlan, ...]
    surroundings: Surroundings = Surroundings()
    denials: tuple[Denial, ...] = ()

    @property
    def outside(self) -> tuple[str, ...]:
        """The interfaces on the outside network."""
        parent = self.surroundings.parent
        return (self.interface,) if parent is None else (self.interface, parent)

    def family(self, version: int) -> FamilyPlan | None:
        """Return the rules of one family; None if the router has no source address in it."""
        return next((family for family in self.families if family.version == version), None)


def make_plan(
    redirects: Redirects | None,
    sources: Sequence[IPAddress],
    interface: str,
    admin_port: int,
    surroundings: Surroundings = Surroundings(),
    resolved: Mapping[NamedRedirect, tuple[IPAddress, ...]] | None = None,
) -> NatPlan:
    """Return the plan for these redirects (None: a proxy's pod redirects nothing) and source addresses.

    `resolved` has the current addresses of lines with names; a line that is not in it leads nowhere.
    """
    by_version: dict[int, list[IPAddress]] = {}
    for source in sources:
        by_version.setdefault(source.version, []).append(source)
    families = tuple(
        _family(redirects, resolved or {}, version, tuple(each)) for version, each in by_version.items()
    )
    return NatPlan(interface, admin_port, redirects is not None, families, surroundings)


def _family(
    redirects: Redirects | None,
    resolved: Mapping[NamedRedirect, tuple[IPAddress, ...]],
    version: int,
    sources: tuple[IPAddress, ...],
) -> FamilyPlan:
    if redirects is None:
        return FamilyPlan(version, sources, (), None)
    is_four = version == 4
    fallback = redirects.fallback_v4 if is_four else redirects.fallback_v6
    fallback_leaving = redirects.fallback_v4_leaving if is_four else redirects.fallback_v6_leaving
    lines = (
        *(_line(rule, (rule.target,)) for rule in redirects.rules if rule.target.version == version),
        *(
            _line(named, tuple(each for each in resolved.get(named, ()) if each.version == version))
            for named in redirects.names
        ),
    )
    return FamilyPlan(
        version=version,
        sources=sources,
        lines=tuple(line if _leaves(line.leaving, sources) else _nowhere(line) for line in lines),
        fallback=fallback if _leaves(fallback_leaving, sources) else None,
        fallback_leaving=fallback_leaving if _leaves(fallback_leaving, sources) else None,
    )


def _leaves(leaving: Leaving, sources: tuple[IPAddress, ...]) -> bool:
    """Say whether the router has the source address that a line asks for."""
    return leaving is None or leaving is Spread.ALL or leaving in sources


def _nowhere(line: PlannedLine) -> PlannedLine:
    """Return the line without addresses, while another station has its source: connections are rejected."""
    return replace(line, addresses=(), leaving=None)


def _line(rule: Redirect | NamedRedirect, addresses: tuple[IPAddress, ...]) -> PlannedLine:
    return PlannedLine(rule.protocol, rule.first, rule.last, rule.target_port, addresses, rule.leaving)
