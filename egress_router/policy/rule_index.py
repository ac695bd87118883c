"""Finds the first rule of a list that matches, with dictionaries, not by a walk over 50,000 rules.

Every look-up returns a position in the list, so that the smallest one is the rule that comes first.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from egress_router.grammar.acl import Domain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.acl import Rule
    from egress_router.grammar.address import IPAddress

NONE = sys.maxsize  # greater than every position

_Positions = dict[int | None, int]  # port of the rules (None: any) to the position of the first of them


def _first(positions: _Positions, port: int) -> int:
    return min(positions.get(None, NONE), positions.get(port, NONE))


class Domains:
    """Rules by name: an exact name is one look-up, `*.domain` one for each label of the name."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._exact: dict[str, _Positions] = {}
        self._below: dict[str, _Positions] = {}
        for position, rule in enumerate(rules):
            if isinstance(rule.subject, Domain):
                index = self._below if rule.subject.below else self._exact
                index.setdefault(rule.subject.name, {}).setdefault(rule.port, position)

    def first(self, name: str, port: int) -> int:
        """Return the position of the first rule that matches the name and the port."""
        exact = self._exact.get(name)
        position = NONE if exact is None else _first(exact, port)
        below = self._below
        suffix = name
        while below and suffix:
            found = below.get(suffix)
            if found is not None:
                position = min(position, _first(found, port))
            suffix = suffix.partition(".")[2]
        return position


class Networks:
    """Rules by address that allow, or those that deny: one look-up for each prefix length in use."""

    def __init__(self, rules: Sequence[Rule], *, allows: bool) -> None:
        # Type of the address to (bits to shift out, prefixes) for each prefix length.
        self._lengths: dict[type[IPAddress], list[tuple[int, dict[int, _Positions]]]] = {
            IPv4Address: [],
            IPv6Address: [],
        }
        self._earliest: _Positions = {}
        by_shift: dict[tuple[type[IPAddress], int], dict[int, _Positions]] = {}
        for position, rule in enumerate(rules):
            network = rule.subject
            if rule.allows is not allows or not isinstance(network, IPv4Network | IPv6Network):
                continue
            shift = network.max_prefixlen - network.prefixlen
            first = network.network_address
            prefixes = by_shift.setdefault((type(first), shift), {})
            prefixes.setdefault(int(first) >> shift, {}).setdefault(rule.port, position)
            self._earliest.setdefault(rule.port, position)
        for (kind, shift), prefixes in by_shift.items():
            self._lengths[kind].append((shift, prefixes))

    def first(self, address: IPAddress, port: int) -> int:
        """Return the position of the first rule that matches the address and the port."""
        lengths = self._lengths[type(address)]
        position = NONE
        if lengths:
            number = int(address)
            for shift, prefixes in lengths:
                found = prefixes.get(number >> shift)
                if found is not None:
                    position = min(position, _first(found, port))
        return position

    def earliest(self, port: int) -> int:
        """Return the position of the first rule that covers this port, whatever its addresses."""
        return _first(self._earliest, port)
