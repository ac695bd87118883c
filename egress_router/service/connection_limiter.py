"""How many connections may be open: in all, and for one client address."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from egress_router.relay.dataplane import Limits
from egress_router.service.shared_memory import SharedMemory, unshared

if TYPE_CHECKING:
    from egress_router.metrics import Registry


class ConnectionLimit(enum.Enum):
    """A limit that refuses connections; the value is its name in `limit_hits_total`."""

    TOTAL = "connections"
    PER_CLIENT = "connections_per_client"


# By the reason numbers of plane.h.
LIMITS: Final = {12: ConnectionLimit.TOTAL, 13: ConnectionLimit.PER_CLIENT}


class ConnectionLimiter:
    """The limits that the data plane enforces, and how many connections hit each.

    `maximum` connections may be open in all workers of `shared` together (None: this process is the only
    one), `possible` in this process. All connections of one client must come to the same worker.
    """

    def __init__(
        self,
        registry: Registry,
        maximum: int,
        maximum_per_client: int | None,
        shared: SharedMemory | None = None,
        possible: int | None = None,
    ) -> None:
        shared = shared or unshared()
        possible = maximum if possible is None else possible
        self.limits = Limits(maximum, possible, maximum_per_client, shared.counts, shared.slot)
        meaning = "Connections that met a limit."
        self._hits = {
            limit: registry.counter("limit_hits_total", meaning, limit=limit.value)
            for limit in ConnectionLimit
        }

    def refused(self, limit: ConnectionLimit) -> None:
        """Count a connection that hit a limit."""
        self._hits[limit].value += 1
