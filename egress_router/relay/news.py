"""The news of the data plane (plane/news.c), and the objects that are told them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.grammar.address import Target
    from egress_router.relay._plane import (
        Accepted,
        Answered,
        Closed,
        Connected,
        Failures,
        Pair,
        Summed,
        Times,
        Wanted,
    )

    News = Accepted | Answered | Closed | Connected | Summed | Wanted


class Identity(NamedTuple):
    """What identifies an accepted connection, and our address and port towards the upstream.

    `source` is empty if there was no connection, or if the line does not tell each one.
    """

    number: int
    client_port: int
    source: str
    source_port: int


UNKNOWN: Final = Identity(0, 0, "", 0)


class End(NamedTuple):
    """How a connection ended: `reason` is a number of plane.h, `given` a socket for Python or -1.

    `first_byte` is the time from the connection to the upstream's first byte; None: there was none.
    `connect_seconds` is how long it took to connect, for a line's connection.
    """

    client: str
    target: Target | None
    reason: int
    sent: int
    received: int
    seconds: float
    failures: Failures
    given: int
    identity: Identity = UNKNOWN
    first_byte: float | None = None
    connect_seconds: float | None = None


class Sums(NamedTuple):
    """What became of connections of a line that were not told one by one, since the last sums.

    `sent` and `received` are bytes of those that have ended. `refused` are reasons of plane.h, with how many
    clients were closed for each without a connection. The times are counted by LATENCY_BUCKETS and
    DURATION_BUCKETS.
    """

    sent: int
    received: int
    refused: Sequence[tuple[int, int]]
    connects: Times
    lives: Times
    first_bytes: Times


class Known(NamedTuple):
    """The upstream of a known CONNECT that was answered: its line, its socket, how long connecting took."""

    line: object
    descriptor: int
    seconds: float


class Arrival(NamedTuple):
    """A client that Python serves: its address and port, its admission, its socket.

    `early` are the bytes that have come already; with `known`, those after a CONNECT that was answered.
    """

    client: tuple[str, int]
    admission: Pair
    descriptor: int
    early: bytes
    known: Known | None


class Connection(Protocol):
    """A connection in the data plane; a subclass of `Pair`."""

    def ended(self, end: End) -> None:
        """Take note of the end; called once."""


class ForwardingLine(Connection, Protocol):
    """Where the connections of a listening port go; a subclass of `Forwarding`.

    One that does not tell each connection is told of them by `summed` and `answered`. Those that failed to
    reach an address, and the next ones after a failure, it is still told one by one.
    """

    def connected(
        self, client: str, target: Target, seconds: float, failures: Failures, identity: Identity
    ) -> None:
        """Take note that a client is connected; its end will be told, too."""

    def summed(self, sums: Sums) -> None:
        """Take note of many connections at once."""

    def answered(self, target: Target, count: int) -> None:
        """Take note that a target has answered so many of them."""

    def wanted(self) -> None:
        """Take note that a client waits for targets, until the next call of `DataPlane.aim`."""


class Acceptor(Protocol):
    """A listening port whose clients Python serves; a subclass of `Forwarding` that hands over."""

    def accepted(self, arrival: Arrival) -> None:
        """Take over a client's socket; `DataPlane.cut` gives its admission back."""

    def ended(self, end: End) -> None:
        """Take over the socket of a client that met a limit."""


def _tell_beginning(record: Accepted | Connected) -> None:
    if isinstance(record[2], tuple):
        acceptor: Acceptor = record[0]  # type: ignore[assignment]
        known = None if record[6] is None else Known(*record[6])
        acceptor.accepted(Arrival(*record[2:6], known))
    else:
        line: ForwardingLine = record[0]  # type: ignore[assignment]
        line.connected(*record[2:6], Identity(*record[6]))


def tell(record: News) -> None:
    """Tell the object of a record; mypy tells the kinds of records apart by their length."""
    if len(record) == 2:
        waiting: ForwardingLine = record[0]  # type: ignore[assignment] # the object that was given comes back
        waiting.wanted()
    elif len(record) == 3:
        counting: ForwardingLine = record[0]  # type: ignore[assignment]
        counting.summed(Sums(*record[2]))
    elif len(record) == 4:
        serving: ForwardingLine = record[0]  # type: ignore[assignment]
        serving.answered(record[2], record[3])
    elif len(record) == 7:
        _tell_beginning(record)
    else:
        connection: Connection = record[0]  # type: ignore[assignment]
        connection.ended(End(*record[2:10], Identity(*record[10]), *record[11:]))
