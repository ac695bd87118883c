"""May this external address and port be reached, and which entry of the egress policy says so?

The first entry that matches address and port decides; what none matches is allowed. An entry by name matches
the addresses that the name has at the moment; while none is known, it matches nothing. An IPv6 address
that carries an IPv4 address (NAT64, 6to4 and the like) is also denied if the IPv4 address is: a policy can
only deny more.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, TypeAlias

from egress_router.grammar.egress_policy import DnsName, Effect
from egress_router.grammar.locality import embedded
from egress_router.grammar.redirect import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from egress_router.grammar.address import IPAddress
    from egress_router.grammar.egress_policy import EgressPolicy, PolicyEntry


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """Whether a destination may be reached, and the entry that decided; None: no entry matched."""

    is_allowed: bool
    entry: PolicyEntry | None = None

    def __str__(self) -> str:
        if self.entry is None:
            return "no policy entry matches it, so it is allowed"
        verb = "allows" if self.is_allowed else "denies"
        return f"policy entry {self.entry.number} ({self.entry}) {verb} it"


NamesOf: TypeAlias = "Mapping[IPAddress, tuple[str, ...]]"
NO_NAMES: NamesOf = {}
ALLOWED = PolicyDecision(is_allowed=True)


@dataclass(frozen=True, slots=True)
class Sifted:
    """Which of several addresses may be dialled, and why the first of the others may not."""

    allowed: tuple[IPAddress, ...]
    denial: PolicyDecision | None = None


class _Ports:
    """The entries of one selector: the first for every port, and the first for each port that one names."""

    __slots__ = ("_any", "_named")

    def __init__(self) -> None:
        self._any: PolicyEntry | None = None
        self._named: dict[tuple[Protocol, int], PolicyEntry] = {}

    def add(self, entry: PolicyEntry) -> None:
        if not entry.ports and self._any is None:
            self._any = entry
        for each in entry.ports:
            self._named.setdefault((each.protocol, each.port), entry)

    def first(self, port: int, protocol: Protocol) -> PolicyEntry | None:
        return _earlier(self._any, self._named.get((protocol, port)))


class PolicyIndex:
    """An egress policy with an index: a decision costs a look-up for each prefix length that occurs in it.

    It does not hold the names that an address has at the moment: whoever follows `policy.dns_names` passes
    them to each decision, as `names_of` returns them.
    """

    def __init__(self, policy: EgressPolicy) -> None:
        self.policy = policy
        self._networks: dict[tuple[int, int], dict[int, _Ports]] = {}
        self._names: dict[str, _Ports] = {}
        for entry in policy.entries:
            self._ports_of(entry).add(entry)

    @property
    def names(self) -> AbstractSet[str]:
        """The names in entries."""
        return self._names.keys()

    def decide(
        self, address: IPAddress, port: int, names: NamesOf = NO_NAMES, protocol: Protocol = Protocol.TCP
    ) -> PolicyDecision:
        """Decide on the address that is to be dialled."""
        decision = self._decide(address, port, names, protocol)
        if decision.is_allowed and isinstance(address, IPv6Address):
            for inner in embedded(address):
                of_inner = self._decide(inner, port, names, protocol)
                if not of_inner.is_allowed:
                    return of_inner
        return decision

    def sift(self, addresses: Sequence[IPAddress], port: int, names: NamesOf = NO_NAMES) -> Sifted:
        """Decide on all addresses of a name; if some are denied, the others may still be dialled."""
        allowed, denial = [], None
        for address in addresses:
            decision = self.decide(address, port, names)
            if decision.is_allowed:
                allowed.append(address)
            elif denial is None:
                denial = decision
        return Sifted(tuple(allowed), denial)

    def _ports_of(self, entry: PolicyEntry) -> _Ports:
        selector = entry.selector
        if isinstance(selector, DnsName):
            return self._names.setdefault(selector.name, _Ports())
        table = self._networks.setdefault((selector.version, selector.prefixlen), {})
        return table.setdefault(int(selector.network_address), _Ports())

    def _decide(self, address: IPAddress, port: int, names: NamesOf, protocol: Protocol) -> PolicyDecision:
        found: PolicyEntry | None = None
        number, bits = int(address), address.max_prefixlen
        for (version, length), table in self._networks.items():
            if version == address.version:
                ports = table.get(number >> (bits - length) << (bits - length))
                if ports is not None:
                    found = _earlier(found, ports.first(port, protocol))
        for name in names.get(address, ()):
            ports = self._names.get(name)
            if ports is not None:
                found = _earlier(found, ports.first(port, protocol))
        return ALLOWED if found is None else PolicyDecision(found.effect is Effect.ALLOW, found)


def _earlier(one: PolicyEntry | None, other: PolicyEntry | None) -> PolicyEntry | None:
    if one is None or other is None:
        return one or other
    return one if one.number < other.number else other


def names_of(addresses: Mapping[str, Iterable[IPAddress]]) -> NamesOf:
    """Return the names of each address, made from the addresses of each name."""
    found: dict[IPAddress, tuple[str, ...]] = {}
    for name, of_name in addresses.items():
        for address in of_name:
            found[address] = (*found.get(address, ()), name)
    return found
