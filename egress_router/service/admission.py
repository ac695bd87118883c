"""How many connections may be open: in all, and for one client address."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from egress_router.service.seats import Seats

if TYPE_CHECKING:
    from egress_router.metrics import Registry


class Verdict(enum.Enum):
    """What admission says of a new connection."""

    ADMITTED = "admitted"
    FULL = "connections"
    CLIENT_FULL = "connections_per_client"


# Bound once: in CPython 3.11 an enum's member costs as much as two calls.
ADMITTED: Final = Verdict.ADMITTED


class Admission:
    """Counts open connections; every admitted one must be given back with `leave`.

    `most` may be open in all workers of `seats` together (none: this process is the only one), `possible` in
    this one. All connections of one client must come to the same worker.
    """

    def __init__(
        self,
        registry: Registry,
        most: int,
        most_per_client: int | None,
        seats: Seats | None = None,
        possible: int | None = None,
    ) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._possible = most if possible is None else possible
        seats = seats or Seats([0], 0)
        self._counts, self._place = seats.counts, seats.place
        self._open = 0
        self._by_client: dict[str, int] = {}
        meaning = "Connections that met a limit."
        self._hits = {
            verdict: registry.counter("limit_hits_total", meaning, limit=verdict.value)
            for verdict in (Verdict.FULL, Verdict.CLIENT_FULL)
        }

    def enter(self, client: str) -> Verdict:
        """Admit a connection of this client address, or say which limit it meets."""
        if self._open >= self._possible:
            return self._refuse(Verdict.FULL)
        if self._most_per_client is not None:
            count = self._by_client.get(client, 0)
            if count >= self._most_per_client:
                return self._refuse(Verdict.CLIENT_FULL)
            self._by_client[client] = count + 1
        self._open += 1
        self._counts[self._place] = self._open
        if sum(self._counts) > self._most:
            # Taken first and counted then: of two workers that take the last place in the same microsecond
            # at worst both give way, and the limit is never exceeded.
            self.leave(client)
            return self._refuse(Verdict.FULL)
        return ADMITTED

    def leave(self, client: str) -> None:
        """Give back an admitted connection."""
        self._open -= 1
        self._counts[self._place] = self._open
        if self._most_per_client is not None:
            left = self._by_client[client] - 1
            if left:
                self._by_client[client] = left
            else:
                del self._by_client[client]

    def _refuse(self, verdict: Verdict) -> Verdict:
        self._hits[verdict].value += 1
        return verdict
