"""Rules that are well formed, but do nothing, or not what they seem to do. Pure.

Findings have the type of errors, but are only warnings: the rules can be used.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.grammar.acl import Domain, Everything
from egress_router.grammar.address import parse_address
from egress_router.grammar.coverage import MAX_NAMED, Earlier, Item, Networks
from egress_router.grammar.egress_policy import DnsName, PolicyEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList, Rule
    from egress_router.grammar.address import IPNetwork
    from egress_router.grammar.egress_policy import EgressPolicy

_NOTHING_IS_ALLOWED = (
    "no line allows anything, so every request is denied; end the list with `*` to allow what is not denied"
)
_EVERYTHING = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


def access_list(source: str, rules: AccessList) -> list[Problem]:
    """Return what to warn of in an allow/deny list, in the order of its lines; `source` names the list."""
    found = [_problem(source, rule, reason) for rule, reason in _findings(rules.rules)]
    if not any(rule.allows for rule in rules.rules):
        found.append(Problem(source, None, None, _NOTHING_IS_ALLOWED))
    return found


def _problem(source: str, rule: Rule, reason: str) -> Problem:
    return Problem(source, rule.line, rule.text, reason)


def egress_policy(source: str, policy: EgressPolicy) -> list[Problem]:
    """Return the entries of an egress policy that can never act; `source` names the policy."""
    networks: Networks[PolicyEntry] = Networks()
    names: dict[str, Earlier[PolicyEntry]] = {}
    found = []
    for entry in policy.entries:
        reason = _policy_reason(entry, networks, names)
        if reason is not None:
            found.append(
                Problem(source, entry.line or None, None, f"entry {entry.number} ({entry}) {reason}")
            )
        for port in entry.ports or (None,):
            if isinstance(entry.selector, DnsName):
                names.setdefault(entry.selector.name, Earlier()).add(entry, port)
            else:
                networks.add(entry, entry.selector, port)
    return found


def _policy_reason(
    entry: PolicyEntry, networks: Networks[PolicyEntry], names: dict[str, Earlier[PolicyEntry]]
) -> str | None:
    """Say why an entry can never act, or only in part; None if it can."""
    ports = entry.ports or (None,)
    if not isinstance(entry.selector, DnsName):
        return _covered([networks.covering(entry.selector, port) for port in ports])
    same = names.get(entry.selector.name, Earlier[PolicyEntry]())
    if (reason := _covered([_alone(same.covering(port)) for port in ports])) is not None:
        return reason
    by_family = [[networks.covering(everything, port) for port in ports] for everything in _EVERYTHING]
    reasons = [_covered(each) for each in by_family]
    if all(reasons):
        return reasons[0]
    for reason, version, other in zip(reasons, (4, 6), (6, 4), strict=True):
        if reason is not None:
            return f"acts for IPv{other} addresses only, if the name has any; of IPv{version} it {reason}"
    return None


def _alone(item: Item | None) -> tuple[Item, ...]:
    return () if item is None else (item,)


def _covered(covering: list[tuple[PolicyEntry, ...]]) -> str | None:
    """Say what covers an entry, if each of its ports is covered."""
    if not all(covering):
        return None
    earlier = dict.fromkeys(f"entry {each.number} ({each})" for entries in covering for each in entries)
    if len(earlier) == 1:
        return f"never acts: {next(iter(earlier))} comes first and matches all that it does"
    return f"never acts: {_listed(list(earlier))} come first and match all that it does"


def _listed(names: list[str]) -> str:
    """Join names for a sentence; after the first `MAX_NAMED` it says `others`."""
    if len(names) > MAX_NAMED:
        names = [*names[:MAX_NAMED], "others"]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _findings(rules: tuple[Rule, ...]) -> Iterator[tuple[Rule, str]]:
    domains, networks = _Domains(), Networks["Rule"]()
    for rule in rules:
        match rule.subject:
            case Everything():
                continue
            case Domain():
                earlier = _alone(domains.covering(rule.subject, rule.port))
                domains.add(rule, rule.subject)
            case _:
                meant = _host_bits(rule, rule.subject)
                if meant is not None:
                    yield rule, meant
                earlier = networks.covering(rule.subject, rule.port)
                networks.add(rule, rule.subject, rule.port)
        if earlier:
            yield rule, _never_acts(rule, *earlier)


def _never_acts(rule: Rule, earlier: Rule, *others: Rule) -> str:
    if others:
        names = [f"line {each.line} ({each.text})" for each in (earlier, *others)]
        return f"never acts: {_listed(names)} together cover it, and the first line that matches decides"
    is_same = (rule.subject, rule.port, rule.allows) == (earlier.subject, earlier.port, earlier.allows)
    why = "says the same" if is_same else "covers it, and the first line that matches decides"
    return f"never acts: line {earlier.line} ({earlier.text}) {why}"


def _host_bits(rule: Rule, network: IPNetwork) -> str | None:
    """Say what a network means whose text has bits set after its prefix length; None if it has none."""
    address_text, slash, _ = rule.text.removeprefix("!").partition("/")
    if not slash:
        return None
    address = parse_address(address_text.strip("[]"))
    if address == network.network_address:
        return None
    meaning = f"it means {network}; for one address leave the length out"
    return f"has bits set after its prefix length, which are ignored: {meaning}"


class _Domains:
    """Lines by name: those for exactly this name, and those for all names below it."""

    def __init__(self) -> None:
        self._exact: dict[str, Earlier[Rule]] = {}
        self._below: dict[str, Earlier[Rule]] = {}

    def add(self, rule: Rule, domain: Domain) -> None:
        table = self._below if domain.below else self._exact
        table.setdefault(domain.name, Earlier()).add(rule, rule.port)

    def covering(self, domain: Domain, port: int | None) -> Rule | None:
        """Return an earlier line that matches all that this one would. `*.a.example` covers a.example."""
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
