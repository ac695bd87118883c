"""How many connections may be open: in all, and for one client address."""

from __future__ import annotations

import enum
from array import array
from typing import TYPE_CHECKING

from egress_router.relay.dataplane import Limits
from egress_router.service.connection_counts import ConnectionCounts

if TYPE_CHECKING:
    from egress_router.metrics import Registry


class ConnectionLimit(enum.Enum):
    """A limit that turns connections away; the value is its name in `limit_hits_total`."""

    TOTAL = "connections"
    PER_CLIENT = "connections_per_client"


class ConnectionLimiter:
    """Counts open connections; every one that `enter` let in must be given back with `leave`.

    `maximum` may be open in all workers of `counts` together (none: this process is the only one), `possible`
    in this one. All connections of one client must come to the same worker.
    """

    def __init__(
        self,
        registry: Registry,
        maximum: int,
        maximum_per_client: int | None,
        counts: ConnectionCounts | None = None,
        possible: int | None = None,
    ) -> None:
        self._maximum = maximum
        self._maximum_per_client = maximum_per_client
        self._possible = maximum if possible is None else possible
        counts = counts or ConnectionCounts([0], 0)
        self._counts, self._slot = counts.numbers, counts.slot
        self._open = 0
        self._by_client: dict[str, int] = {}
        meaning = "Connections that met a limit."
        self._hits = {
            limit: registry.counter("limit_hits_total", meaning, limit=limit.value)
            for limit in ConnectionLimit
        }

    @property
    def limits(self) -> Limits:
        """What holds, for a data plane that counts by itself."""
        counts = self._counts
        if not isinstance(counts, memoryview):
            counts = memoryview(array("i", counts))
        return Limits(self._maximum, self._possible, self._maximum_per_client, counts, self._slot)

    def refused(self, limit: ConnectionLimit) -> None:
        """Count a connection that met a limit elsewhere."""
        self._hits[limit].value += 1

    def enter(self, client: str) -> ConnectionLimit | None:
        """Let in a connection of this client address and return None, or the limit that it meets."""
        if self._open >= self._possible:
            return self._refuse(ConnectionLimit.TOTAL)
        if self._maximum_per_client is not None:
            count = self._by_client.get(client, 0)
            if count >= self._maximum_per_client:
                return self._refuse(ConnectionLimit.PER_CLIENT)
            self._by_client[client] = count + 1
        self._open += 1
        self._counts[self._slot] = self._open
        if sum(self._counts) > self._maximum:
            # Taken first and counted then: of two workers that take the last place in the same microsecond
            # at worst both give way, and the limit is never exceeded.
            self.leave(client)
            return self._refuse(ConnectionLimit.TOTAL)
        return None

    def leave(self, client: str) -> None:
        """Give back a connection that was let in."""
        self._open -= 1
        self._counts[self._slot] = self._open
        if self._maximum_per_client is not None:
            left = self._by_client[client] - 1
            if left:
                self._by_client[client] = left
            else:
                del self._by_client[client]

    def _refuse(self, limit: ConnectionLimit) -> ConnectionLimit:
        self.refused(limit)
        return limit
