"""The NAT rules as data: what is redirected where, which source everything gets, and what stays closed.

Both backends put the same plan in force. Nothing in here knows a kernel, so rule sets are tested as text.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.redirect import Protocol, Redirects

# The bit of the connection mark that says: came in through the pod's first interface, so replies leave by it.
# One bit under a mask, because network plug-ins use others (Calico and Cilium the upper and lower ones).
REPLY_MARK = 0x00100000


class Every(enum.Enum):
    """In the place of one source address: all of the family's, in turn."""

    SOURCE = "*"


SourceChoice: TypeAlias = "IPAddress | Every | None"


@dataclass(frozen=True, slots=True)
class Line:
    """Local ports `first` to `last` of one protocol and family, and where their connections go now.

    `target_port` is None where the port stays the same. New connections are spread evenly over `addresses`;
    without any they are rejected at once. `source` is the address that they leave with: one of the family's,
    all of them in turn, or None for the family's first.
    """

    protocol: Protocol
    first: int
    last: int
    target_port: int | None
    addresses: tuple[IPAddress, ...]
    source: SourceChoice = None

    @property
    def is_range(self) -> bool:
        """Whether it covers more than one port."""
        return self.first != self.last


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """The rules of one address family; `sources` are the router's addresses, the usual one first."""

    version: int
    sources: tuple[IPAddress, ...]
    lines: tuple[Line, ...]
    fallback: IPAddress | None
    fallback_source: SourceChoice = None

    @property
    def source(self) -> IPAddress:
        """The address that everything leaves with that asks for no other."""
        return self.sources[0]


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

    def family(self, version: int) -> FamilyPlan | None:
        """Return the rules of one family; None where the router has no source address in it."""
        return next((family for family in self.families if family.version == version), None)


def with_addresses(plan: NatPlan, addresses: Mapping[tuple[int, int], tuple[IPAddress, ...]]) -> NatPlan:
    """Return the plan with other addresses for some lines, each named by its family's version and its index.

    A line that goes to a name has one `Line` in each family that the router has a source in, with the
    addresses of that family. The others keep what they have.
    """
    return replace(
        plan,
        families=tuple(
            replace(
                family,
                lines=tuple(
                    replace(line, addresses=addresses[family.version, index])
                    if (family.version, index) in addresses
                    else line
                    for index, line in enumerate(family.lines)
                ),
            )
            for family in plan.families
        ),
    )


def make_plan(
    redirects: Redirects | None, sources: Sequence[IPAddress], interface: str, admin_port: int
) -> NatPlan:
    """Return the plan for these redirects (None: a proxy's pod redirects nothing) and source addresses."""
    versions = dict.fromkeys(source.version for source in sources)
    families = tuple(
        _family(redirects, version, tuple(each for each in sources if each.version == version))
        for version in versions
    )
    return NatPlan(interface, admin_port, redirects is not None, families)


def _family(redirects: Redirects | None, version: int, sources: tuple[IPAddress, ...]) -> FamilyPlan:
    if redirects is None:
        return FamilyPlan(version, sources, (), None)
    lines = (
        Line(rule.protocol, rule.first, rule.last, rule.target_port, (rule.target,))
        for rule in redirects.rules
        if rule.target.version == version
    )
    fallback = redirects.fallback_v4 if version == 4 else redirects.fallback_v6
    return FamilyPlan(version, sources, tuple(lines), fallback)
