"""The NAT rules as data: what is redirected where, which source everything gets, and what stays closed.

Both backends put the same plan in force. Nothing in here knows a kernel, so rule sets are tested as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egress_router.grammar.address import IPAddress, IPNetwork
    from egress_router.grammar.redirect import NamedRedirect, Redirect, Redirects

# The bit of the connection mark that says: came in through the pod's first interface, so replies leave by it.
# One bit under a mask, because network plug-ins use others (Calico and Cilium the upper and lower ones).
REPLY_MARK = 0x00100000


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """The rules of one address family; `source` is the address that everything leaves with.

    `named` are the lines with names, each with the addresses of this family that its new connections are
    spread over; without any they are rejected.
    """

    version: int
    source: IPAddress
    single: tuple[Redirect, ...]
    ranges: tuple[Redirect, ...]
    fallback: IPAddress | None
    named: tuple[tuple[NamedRedirect, tuple[IPAddress, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else there is in the pod.

    `parent` is the macvlan's parent where it is in the pod's own namespace, so on the outside network, too.
    `cluster` are the networks that the pod itself may reach by its other interfaces. `standby_port` (UDP, 0:
    none) is where another router of the group speaks to this one: it is never redirected, either.
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
    the pod's ports are redirected at all: where they are, a port without a rule is rejected.
    """

    interface: str
    admin_port: int
    redirects: bool
    families: tuple[FamilyPlan, ...]
    surroundings: Surroundings = Surroundings()

    @property
    def outside(self) -> tuple[str, ...]:
        """The interfaces on the outside network."""
        parent = self.surroundings.parent
        return (self.interface,) if parent is None else (self.interface, parent)

    def family(self, version: int) -> FamilyPlan | None:
        """Return the rules of one family; None where the router has no source address in it."""
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

    `resolved` says what the names of lines lead to at the moment; a line that is not in it leads nowhere.
    """
    first = {source.version: source for source in reversed(sources)}
    families = tuple(
        _family(redirects, resolved or {}, first[each])
        for each in dict.fromkeys(source.version for source in sources)
    )
    return NatPlan(interface, admin_port, redirects is not None, families, surroundings)


def _family(
    redirects: Redirects | None, resolved: Mapping[NamedRedirect, tuple[IPAddress, ...]], source: IPAddress
) -> FamilyPlan:
    if redirects is None:
        return FamilyPlan(source.version, source, (), (), None)
    rules = [rule for rule in redirects.rules if rule.target.version == source.version]
    return FamilyPlan(
        version=source.version,
        source=source,
        single=tuple(rule for rule in rules if not rule.is_range),
        ranges=tuple(rule for rule in rules if rule.is_range),
        fallback=redirects.fallback_v4 if source.version == 4 else redirects.fallback_v6,
        named=tuple(
            (line, tuple(each for each in resolved.get(line, ()) if each.version == source.version))
            for line in redirects.names
        ),
    )
