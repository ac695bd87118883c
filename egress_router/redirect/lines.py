"""Where a line with a name leads at a given moment. Pure: addresses, health and the time are parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from egress_router.grammar.address import IPAddress, printed
from egress_router.grammar.redirect import NamedRedirect, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from egress_router.grammar.address import Target

# The addresses over which connections are spread, for each line with a name.
Resolved: TypeAlias = Mapping[NamedRedirect, tuple[IPAddress, ...]]

# How long UDP flows have to end after their address has left the answer. With the time that it takes to move
# them, they are at a current address within 30 s.
UDP_GRACE_SECONDS = 25.0


def destination(line: NamedRedirect) -> str:
    """Return where a line leads, as metrics and the status name it."""
    port = f"{line.first}-{line.last}" if line.is_range else str(line.target_port or line.first)
    return f"{line.name}:{port}/{line.protocol.value}"


def target_port(line: NamedRedirect) -> int | None:
    """Return the one port at the destination; None: the line is a range."""
    return None if line.is_range else line.target_port or line.first


def checked_port(line: NamedRedirect) -> int | None:
    """Return the port at which a line's addresses are checked; None: it cannot be known whether they serve.

    A UDP server need not answer, and any port of a range may be without a server for a moment.
    """
    return target_port(line) if line.protocol is Protocol.TCP else None


def in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """Return addresses in a fixed order: name servers vary the order, which must not count as a change."""
    return tuple(sorted(addresses, key=lambda address: (address.version, int(address))))


def serving(
    line: NamedRedirect, addresses: tuple[IPAddress, ...], is_up: Callable[[Target], bool]
) -> tuple[IPAddress, ...]:
    """Return the addresses that new connections of a line go to: those that are up, or all if none is.

    Each family is judged by itself: a client cannot choose the family here, so one family that is down is not
    replaced by the other.
    """
    port = checked_port(line)
    if port is None:
        return addresses
    chosen: tuple[IPAddress, ...] = ()
    for version in (4, 6):
        family = tuple(address for address in addresses if address.version == version)
        chosen += tuple(address for address in family if is_up((address, port))) or family
    return chosen


def shown_address(line: NamedRedirect, address: IPAddress) -> str:
    """Return an address of a line as text, with its port if there is one."""
    return printed(address, target_port(line))


@dataclass(frozen=True, slots=True)
class Departure:
    """An address that the name of a UDP line no longer has."""

    line: NamedRedirect
    address: IPAddress


class Departures:
    """Addresses that left the answer of a UDP line's name, until their flows are moved."""

    def __init__(self) -> None:
        self._due: dict[Departure, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def note(
        self, line: NamedRedirect, before: Iterable[IPAddress], after: Iterable[IPAddress], now: float
    ) -> None:
        """Note that a line's name had the addresses `before` and has those `after`."""
        if line.protocol is not Protocol.UDP:
            return
        current = set(after)
        for address in current:
            self._due.pop(Departure(line, address), None)
        for address in set(before) - current:
            self._due.setdefault(Departure(line, address), now + UDP_GRACE_SECONDS)

    def due(self, now: float, resolved: Resolved) -> list[Departure]:
        """Return whose flows are to be moved now; the same ones again until `forget` is called.

        While a line has no address of that family, its flows cannot be moved, and stay. Lines that are gone
        are forgotten.
        """
        for gone in [each for each in self._due if each.line not in resolved]:
            del self._due[gone]
        return [
            each
            for each, when in self._due.items()
            if now >= when and any(address.version == each.address.version for address in resolved[each.line])
        ]

    def forget(self, departed: Iterable[Departure]) -> None:
        """Note that the flows of these were moved."""
        for each in departed:
            self._due.pop(each, None)
