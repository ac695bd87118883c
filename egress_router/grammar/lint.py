"""Rules that are well formed and yet do nothing, or not what they seem to. Pure.

Findings are values like errors, but no errors: the rules work without the lines that are found.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router.errors import Problem
from egress_router.grammar.acl import Domain, Everything
from egress_router.grammar.address import parse_address
from egress_router.grammar.egress_policy import DnsName, PolicyEntry

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from egress_router.grammar.acl import AccessList, Rule
    from egress_router.grammar.address import IPNetwork
    from egress_router.grammar.egress_policy import EgressPolicy

_NOTHING_IS_ALLOWED = (
    "no line allows anything, so every request is denied; end the list with `*` to allow what is not denied"
)
_EVERYTHING = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
Item = TypeVar("Item")


def access_list(source: str, rules: AccessList) -> list[Problem]:
    """Return what in an allow/deny list can never act, in the order of its lines; `source` names the list.

    A line is compared with each earlier one by itself: two networks that only together cover a third are not
    found.
    """
    found = [_problem(source, rule, reason) for rule, reason in _findings(rules.rules)]
    if not any(rule.allows for rule in rules.rules):
        found.append(Problem(source, None, None, _NOTHING_IS_ALLOWED))
    return found


def _problem(source: str, rule: Rule, reason: str) -> Problem:
    return Problem(source, rule.line, rule.text, reason)


def egress_policy(source: str, policy: EgressPolicy) -> list[Problem]:
    """Return the entries of an egress policy that can never act; `source` names the policy."""
    networks: _Networks[PolicyEntry] = _Networks()
    names: dict[str, _Earlier[PolicyEntry]] = {}
    found = []
    for entry in policy.entries:
        reason = _policy_reason(entry, networks, names)
        if reason is not None:
            found.append(
                Problem(source, entry.line or None, None, f"entry {entry.number} ({entry}) {reason}")
            )
        for port in entry.ports or (None,):
            if isinstance(entry.selector, DnsName):
                names.setdefault(entry.selector.name, _Earlier()).add(entry, port)
            else:
                networks.add(entry, entry.selector, port)
    return found


def _policy_reason(
    entry: PolicyEntry, networks: _Networks[PolicyEntry], names: dict[str, _Earlier[PolicyEntry]]
) -> str | None:
    """Say why an entry can never act, or only in part; None where it can."""
    ports = entry.ports or (None,)
    if not isinstance(entry.selector, DnsName):
        covering = [networks.covering(entry.selector, port) for port in ports]
        return _covered(covering)
    same = names.get(entry.selector.name, _Earlier[PolicyEntry]())
    if (reason := _covered([same.covering(port) for port in ports])) is not None:
        return reason
    whole = [[networks.covering(everything, port) for port in ports] for everything in _EVERYTHING]
    told = [_covered(each) for each in whole]
    if all(told):
        return told[0]
    for reason, version, other in zip(told, (4, 6), (6, 4), strict=True):
        if reason is not None:
            return f"acts for IPv{other} addresses only, if the name has any; of IPv{version} it {reason}"
    return None


def _covered(covering: list[PolicyEntry | None]) -> str | None:
    """Say what covers an entry, if each of its ports is covered."""
    if not covering or any(each is None for each in covering):
        return None
    earlier = list(dict.fromkeys(f"entry {each.number} ({each})" for each in covering if each is not None))
    return f"never acts: {', '.join(earlier)} comes first and matches all that it does"


def _findings(rules: tuple[Rule, ...]) -> Iterator[tuple[Rule, str]]:
    domains, networks = _Domains(), _Networks["Rule"]()
    for rule in rules:
        match rule.subject:
            case Everything():
                continue
            case Domain():
                earlier = domains.covering(rule.subject, rule.port)
                domains.add(rule, rule.subject)
            case _:
                meant = _host_bits(rule, rule.subject)
                if meant is not None:
                    yield rule, meant
                earlier = networks.covering(rule.subject, rule.port)
                networks.add(rule, rule.subject, rule.port)
        if earlier is not None:
            yield rule, _never_acts(rule, earlier)


def _never_acts(rule: Rule, earlier: Rule) -> str:
    is_same = (rule.subject, rule.port, rule.allows) == (earlier.subject, earlier.port, earlier.allows)
    why = "says the same" if is_same else "covers it, and the first line that matches decides"
    return f"never acts: line {earlier.line} ({earlier.text}) {why}"


def _host_bits(rule: Rule, network: IPNetwork) -> str | None:
    """Say what a network whose text has bits behind its length means; None where it has none."""
    address_text, slash, _ = rule.text.removeprefix("!").partition("/")
    if not slash:
        return None
    address = parse_address(address_text.strip("[]"))
    if address == network.network_address:
        return None
    meaning = f"it means {network}; for one address leave the length out"
    return f"has bits set behind its length, which do not count: {meaning}"


class _Earlier(Generic[Item]):
    """Of one subject, the first line that has no port, and the first for each port."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, Item] = {}

    def add(self, item: Item, port: Hashable) -> None:
        self._lines.setdefault(port, item)

    def covering(self, port: Hashable) -> Item | None:
        """Return the earlier line that covers a port (None: every port)."""
        return self._lines.get(None) or self._lines.get(port)


class _Domains:
    """Lines by name, with what each of them covers."""

    def __init__(self) -> None:
        self._exact: dict[str, _Earlier[Rule]] = {}
        self._below: dict[str, _Earlier[Rule]] = {}

    def add(self, rule: Rule, domain: Domain) -> None:
        table = self._below if domain.below else self._exact
        table.setdefault(domain.name, _Earlier()).add(rule, rule.port)

    def covering(self, domain: Domain, port: int | None) -> Rule | None:
        """Return an earlier line that matches whatever this one would. `*.a.example` covers a.example."""
        if not domain.below and domain.name in self._exact:
            found = self._exact[domain.name].covering(port)
            if found is not None:
                return found
        name = domain.name
        while name:
            if name in self._below and (found := self._below[name].covering(port)) is not None:
                return found
            name = name.partition(".")[2]
        return None


class _Networks(Generic[Item]):
    """Lines by network, looked up by each length that there is: at most 33, or 129 of IPv6."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], dict[int, _Earlier[Item]]] = {}

    def add(self, item: Item, network: IPNetwork, port: Hashable) -> None:
        table = self._lines.setdefault((network.version, network.prefixlen), {})
        table.setdefault(int(network.network_address), _Earlier()).add(item, port)

    def covering(self, network: IPNetwork, port: Hashable) -> Item | None:
        """Return an earlier line that matches every address of this network."""
        start, bits = int(network.network_address), network.max_prefixlen
        for (version, length), table in self._lines.items():
            if version == network.version and length <= network.prefixlen:
                lines = table.get(start >> (bits - length) << (bits - length))
                if lines is not None and (found := lines.covering(port)) is not None:
                    return found
        return None
