"""Notices clients that close while their connection to the origin is still being made.

Their sockets are not watched at first: most connects take less than a millisecond, and watching a client
costs a wake-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from egress_router.relay.deadlines import Deadline, Deadlines

_SECONDS = 0.25


class Waiting(Protocol):
    """A client's connection that waits for one to the origin."""

    def still_waiting(self) -> None:
        """Watch the client from now on, unless the wait is over."""


class ClientWatch:
    """Watches each client that has waited for up to a quarter of a second; one timer for all of them."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._waiting: list[Waiting] = []
        self._look: Deadline | None = None

    def __len__(self) -> int:
        """How many clients are on the list."""
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Watch this client a little later, if it still waits then."""
        self._waiting.append(waiting)
        if self._look is None:
            self._look = self._deadlines.add(_SECONDS, self._looked)

    def _looked(self) -> None:
        self._look = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.still_waiting()
