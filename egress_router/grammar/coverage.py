"""Which earlier lines match all that a later line would match: one, or several together. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from egress_router.grammar.address import IPNetwork

Item = TypeVar("Item")
MAX_NAMED = 3  # if several lines together cover another one, the first ones are named


class Earlier(Generic[Item]):
    """The first line of one subject that has no port, and the first for each port."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, Item] = {}

    def add(self, item: Item, port: Hashable) -> None:
        """Add a line; None as its port: every port."""
        self._lines.setdefault(port, item)

    def covering(self, port: Hashable) -> Item | None:
        """Return the earlier line that covers a port (None: every port)."""
        return self._lines.get(None) or self._lines.get(port)


class Union:
    """Numbers, kept as ranges that neither overlap nor touch: they are merged as others are added."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add a range; those that it overlaps or touches are merged with it."""
        low, high = bisect_left(self._lasts, first - 1), bisect_right(self._firsts, last + 1)
        if low < high:
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def last_from(self, number: int) -> int | None:
        """Return the last number of the range that contains this one; None if no range does."""
        place = bisect_left(self._lasts, number)
        return self._lasts[place] if place < len(self._firsts) and self._firsts[place] <= number else None


class Networks(Generic[Item]):
    """Lines by network.

    A line that covers another is found by a look-up for each prefix length in use: at most 33, or 129 of
    IPv6. What several cover together is kept as ranges: of the lines without a port, and of each port.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[int, int], dict[int, Earlier[Item]]] = {}
        self._unions: dict[tuple[int, Hashable], Union] = {}

    def add(self, item: Item, network: IPNetwork, port: Hashable) -> None:
        """Add a line; None as its port: every port."""
        table = self._lines.setdefault((network.version, network.prefixlen), {})
        table.setdefault(int(network.network_address), Earlier()).add(item, port)
        self._unions.setdefault((network.version, port), Union()).add(*_range(network))

    def covering(self, network: IPNetwork, port: Hashable) -> tuple[Item, ...]:
        """Return the earlier lines that together match every address of this network; empty if they do not.

        One line if one is enough; of several, `MAX_NAMED` + 1 at most.
        """
        first, last = _range(network)
        for length, item in self._holding(network.version, first, network.max_prefixlen, port):
            if length <= network.prefixlen:
                return (item,)
        if not self._is_covered(network.version, first, last, port):
            return ()
        return tuple(self._pieces(network, port))

    def _is_covered(self, version: int, first: int, last: int, port: Hashable) -> bool:
        """Say whether the lines without a port and those of this port cover all these addresses."""
        unions = [
            union for each in dict.fromkeys((None, port)) if (union := self._unions.get((version, each)))
        ]
        while first <= last:
            ends = [end for union in unions if (end := union.last_from(first)) is not None]
            if not ends:
                return False
            first = max(ends) + 1
        return True

    def _pieces(self, network: IPNetwork, port: Hashable) -> Iterator[Item]:
        """Yield the first of the lines that together cover a network, in the order of their addresses."""
        first, last = _range(network)
        bits = network.max_prefixlen
        for _ in range(MAX_NAMED + 1):
            length, item = min(self._holding(network.version, first, bits, port), key=lambda each: each[0])
            yield item
            first = (first >> (bits - length) << (bits - length)) + (1 << (bits - length))
            if first > last:
                return

    def _holding(self, version: int, address: int, bits: int, port: Hashable) -> Iterator[tuple[int, Item]]:
        """Yield the lines whose network contains an address, each with its prefix length."""
        for (table_version, length), table in self._lines.items():
            if table_version == version:
                lines = table.get(address >> (bits - length) << (bits - length))
                if lines is not None and (found := lines.covering(port)) is not None:
                    yield length, found


def _range(network: IPNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)
