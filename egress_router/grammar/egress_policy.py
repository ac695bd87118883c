"""An egress policy as values: what EgressNetworkPolicy and EgressFirewall say about external hosts."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.address import IPNetwork
    from egress_router.grammar.redirect import Protocol


class Effect(enum.Enum):
    """What an entry does with the destinations that it matches."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class DnsName:
    """A selector by name: it means the addresses that the name has at the moment."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """A port of a destination; an entry without any means all ports and protocols."""

    protocol: Protocol
    port: int

    def __str__(self) -> str:
        return f"{self.protocol.value.upper()} {self.port}"


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One entry: its number in the list, from 1, and the line on which it begins in the text."""

    number: int
    effect: Effect
    selector: IPNetwork | DnsName
    ports: tuple[PolicyPort, ...] = ()
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        ports = f" on {', '.join(map(str, self.ports))}" if self.ports else ""
        return f"{self.effect.value} {self.selector}{ports}"

    @property
    def described(self) -> str:
        """The entry with its number, as records name the one that decided."""
        return f"policy entry {self.number}: {self}"


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Entries in their order: the first that matches decides, and what none matches is allowed."""

    kind: str
    name: str
    entries: tuple[PolicyEntry, ...]

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The names whose addresses this policy needs at any time, each once."""
        names = (each.selector.name for each in self.entries if isinstance(each.selector, DnsName))
        return tuple(dict.fromkeys(names))
