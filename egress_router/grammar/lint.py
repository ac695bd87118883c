"""Rules that are well formed and yet do nothing, or not what they seem to. Pure.

Findings are values like errors, but no errors: the rules work without the lines that are found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.errors import Problem
from egress_router.grammar.acl import Domain, Everything
from egress_router.grammar.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.acl import AccessList, Rule
    from egress_router.grammar.address import IPNetwork

_NOTHING_IS_ALLOWED = (
    "no line allows anything, so every request is denied; end the list with `*` to allow what is not denied"
)
# Of a subject, the first line without a port, and the first line for each port.
_Lines = dict[int | None, "Rule"]


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


def _findings(rules: tuple[Rule, ...]) -> Iterator[tuple[Rule, str]]:
    domains, networks = _Domains(), _Networks()
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
                networks.add(rule, rule.subject)
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


def _add(lines: _Lines, rule: Rule) -> None:
    lines.setdefault(rule.port, rule)


def _first(lines: _Lines | None, port: int | None) -> Rule | None:
    """Return the earlier line that covers a port (None: every port)."""
    if lines is None:
        return None
    return lines.get(None) or (None if port is None else lines.get(port))


class _Domains:
    """Lines by name, with what each of them covers."""

    def __init__(self) -> None:
        self._exact: dict[str, _Lines] = {}
        self._below: dict[str, _Lines] = {}

    def add(self, rule: Rule, domain: Domain) -> None:
        _add((self._below if domain.below else self._exact).setdefault(domain.name, {}), rule)

    def covering(self, domain: Domain, port: int | None) -> Rule | None:
        """Return an earlier line that matches whatever this one would. `*.a.example` covers a.example."""
        if not domain.below and (found := _first(self._exact.get(domain.name), port)) is not None:
            return found
        name = domain.name
        while name:
            if (found := _first(self._below.get(name), port)) is not None:
                return found
            name = name.partition(".")[2]
        return None


class _Networks:
    """Lines by network, looked up by each length that there is: at most 33, or 129 of IPv6."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], dict[int, _Lines]] = {}

    def add(self, rule: Rule, network: IPNetwork) -> None:
        lines = self._lines.setdefault((network.version, network.prefixlen), {})
        _add(lines.setdefault(int(network.network_address), {}), rule)

    def covering(self, network: IPNetwork, port: int | None) -> Rule | None:
        """Return an earlier line that matches every address of this network."""
        start, bits = int(network.network_address), network.max_prefixlen
        for (version, length), lines in self._lines.items():
            if version == network.version and length <= network.prefixlen:
                wider = start >> (bits - length) << (bits - length)
                if (found := _first(lines.get(wider), port)) is not None:
                    return found
        return None
