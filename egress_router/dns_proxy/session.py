"""One client connection: waits for a name where it has to, connects, is relayed, ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.dns_proxy import journal
from egress_router.relay.dial import Dial, DialError, DialFailure, Dialled, DialReason

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from egress_router.dns_proxy.journal import Journal
    from egress_router.grammar.forward import Forward
    from egress_router.relay.dataplane import DataPlane
    from egress_router.relay.deadlines import Deadline, Deadlines
    from egress_router.relay.tunnel import Closing, Relay, Tunnel
    from egress_router.upstreams.destination import Destination
    from egress_router.upstreams.health import Checks
    from egress_router.upstreams.pool import Target


@dataclass(slots=True)
class Line:
    """One line of the rules in force."""

    forward: Forward
    destination: Destination
    hits: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sessions of a server have in common; `on_end` takes a session out of its books."""

    plane: DataPlane
    deadlines: Deadlines
    relay: Relay
    checks: Checks
    journal: Journal
    connect_seconds: float
    idle_seconds: float
    on_end: Callable[[Session], None]


class Session:
    """Owns the client's socket until the relay does. `doom` ends it when its line is gone."""

    __slots__ = ("_deadline", "_dial", "_shared", "_sock", "_target", "_tunnel", "_until", "client", "doom",
                 "line")  # fmt: skip

    def __init__(self, shared: Shared, sock: socket.socket, client: str, line: Line) -> None:
        self._shared = shared
        self._sock: socket.socket | None = sock
        self.client = client
        self.line = line
        self.doom: Deadline | None = None
        self._until = time.monotonic() + shared.connect_seconds
        self._deadline: Deadline | None = None
        self._dial: Dial | None = None
        self._tunnel: Tunnel | None = None
        self._target: Target | None = None

    def begin(self) -> None:
        """Connect, or wait for the name's first addresses; all of it within the time to connect."""
        targets = self.line.destination.next()
        if targets:
            self._connect(targets)
        elif self.line.destination.left_out is not None:
            self._unresolved()
        else:
            self._deadline = self._shared.deadlines.add(self._shared.connect_seconds, self._unresolved)
            self.line.destination.wait(self._resolved)

    def close(self) -> None:
        """End the connection now."""
        if self._tunnel is not None:
            self._tunnel.close()
        elif self._sock is not None:
            self._refuse(journal.CLOSED)

    def _resolved(self) -> None:
        targets = self.line.destination.next()
        if targets:
            self._stop_waiting()
            self._connect(targets)
        else:
            self._unresolved()

    def _unresolved(self) -> None:
        place = self.line.destination.left_out
        self._refuse(journal.NO_ADDRESS if place is None else place.value)

    def _connect(self, targets: tuple[Target, ...]) -> None:
        shared = self._shared
        seconds = max(self._until - time.monotonic(), 0.0)
        self._dial = Dial(shared.plane, targets, seconds, self._dialled)

    def _dialled(self, result: Dialled | DialError) -> None:
        self._dial = None
        self._observe(result.failures)
        if isinstance(result, DialError):
            self._refuse(result.reason.value)
            return
        client, self._sock = self._sock, None
        assert client is not None  # noqa: S101 - a session without its socket has cancelled the dial
        shared, line = self._shared, self.line
        self._target = target = (result.address, result.port)
        shared.checks.observe(target, answered=True)
        shared.journal.connected(
            self.client, line.forward.port, line.destination.text, target, result.seconds
        )
        self._tunnel = shared.relay.start(client, result.sock, shared.idle_seconds, self._closed)

    def _observe(self, failures: tuple[DialFailure, ...]) -> None:
        for failure in failures:
            if failure.reason is not DialReason.NO_DESCRIPTOR:  # which says nothing of the address
                self._shared.checks.observe((failure.address, failure.port), answered=False)

    def _refuse(self, result: str) -> None:
        """Close the client, as HAProxy does, with an orderly end rather than a reset."""
        self._stop_waiting()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        line = self.line
        self._shared.journal.refused(self.client, line.forward.port, line.destination.text, result)
        self._shared.on_end(self)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self.line.destination.leave(self._resolved)

    def _closed(self, closing: Closing) -> None:
        self._tunnel = None
        assert self._target is not None  # noqa: S101 - only a connected session has a tunnel
        line = self.line
        self._shared.journal.closed(
            self.client, line.forward.port, line.destination.text, self._target, closing
        )
        self._shared.on_end(self)
