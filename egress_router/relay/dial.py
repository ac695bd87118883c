"""Connects to the first of several addresses that answers.

The attempts are staggered as RFC 8305 5 describes: the next address is tried at once after a failure,
otherwise after a short silence, while earlier attempts go on.
"""

from __future__ import annotations

import enum
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, NamedTuple

from egress_router.errors import EgressRouterError
from egress_router.relay.dataplane import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from egress_router.grammar.address import IPAddress
    from egress_router.relay.dataplane import DataPlane
    from egress_router.relay.news import End

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
STAGGER: Final = 0.25  # seconds; RFC 8305 5, "Connection Attempt Delay"


class DialReason(enum.Enum):
    """Why an attempt, or all of them together, failed."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    NO_DESCRIPTOR = "no_descriptor"
    SOURCE_NOT_HELD = "source_not_held"


# The numbers of plane.h.
_CUT: Final = 4
REASONS: Final = {
    6: DialReason.REFUSED,
    7: DialReason.UNREACHABLE,
    8: DialReason.TIMEOUT,
    9: DialReason.NO_DESCRIPTOR,
    14: DialReason.SOURCE_NOT_HELD,
}


@dataclass(frozen=True, slots=True)
class DialFailure:
    """One attempt that failed."""

    address: IPAddress
    port: int
    reason: DialReason


class Dialled(NamedTuple):
    """A connected socket, non-blocking and without Nagle's delay.

    `seconds` is the time from the start of the dial, `failures` the attempts that failed before.
    """

    sock: socket.socket
    address: IPAddress
    port: int
    seconds: float
    failures: tuple[DialFailure, ...]


class DialError(EgressRouterError):
    """No address answered; `failures` gives the reason of each, `reason` the one that counts."""

    def __init__(self, reason: DialReason, failures: tuple[DialFailure, ...]) -> None:
        self.reason = reason
        self.failures = failures
        tried = ", ".join(f"{each.address} port {each.port} {each.reason.value}" for each in failures)
        super().__init__(f"no connection: {tried or 'no address to try'}")


class Dial(Pair):
    """One connection that is being made.

    Calls `on_done` exactly once unless it is cancelled, never from inside `__init__`.
    """

    __slots__ = ("_on_done", "_plane")

    def __init__(  # noqa: PLR0913 (what to dial, for how long, and two special cases)
        self,
        plane: DataPlane,
        targets: Sequence[tuple[IPAddress, int]],
        seconds: float,
        on_done: Callable[[Dialled | DialError], None],
        stagger: float = STAGGER,
        sources: Sequence[IPAddress | None] = (),
        *,
        turns: int | None = None,
    ) -> None:
        """Begin to connect to `targets`, in their order, for at most `seconds` in all.

        `sources` are the addresses that the connections leave with, as in `DataPlane.aim`; `turns` is as in
        `DataPlane.dial`.
        """
        self._plane = plane
        self._on_done: Callable[[Dialled | DialError], None] | None = on_done
        plane.dial(self, targets, seconds, stagger, sources, turns)

    def cancel(self) -> None:
        """Give up without calling back; does nothing after the callback."""
        if self._on_done is not None:
            self._on_done = None
            self._plane.cut(self)

    def ended(self, end: End) -> None:
        """Pass the connection on, or say why there is none."""
        on_done, self._on_done = self._on_done, None
        if on_done is None or end.reason == _CUT:
            if end.given >= 0:
                os.close(end.given)
            return
        failures = tuple(DialFailure(*target, REASONS[reason]) for target, reason in end.failures)
        if end.target is None:
            on_done(DialError(REASONS[end.reason], failures))
            return
        address, port = end.target
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        sock = socket.socket(family, _STREAM, 0, end.given)
        on_done(Dialled(sock, address, port, end.seconds, failures))
