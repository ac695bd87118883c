"""How many connections may be open: in all, and for one client address."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from egress_router.relay.dataplane import Limits
from egress_router.service.shared_memory import SharedMemory, unshared

if TYPE_CHECKING:
    from egress_router.metrics import Registry


class ConnectionLimit(enum.Enum):
    """A limit that turns connections away; the value is its name in `limit_hits_total`."""

    TOTAL = "connections"
    PER_CLIENT = "connections_per_client"


# By the reasons of plane.h.
LIMITS: Final = {12: ConnectionLimit.TOTAL, 13: ConnectionLimit.PER_CLIENT}


class ConnectionLimiter:
    """The limits by which the data plane admits, and how many connections met each.

    `maximum` may be open in all workers of `shared` together (none: this process is the only one), `possible`
    in this one. All connections of one client must come to the same worker.
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
        meaning = "Connections that reached a limit."
        self._hits = {
            limit: registry.counter("limit_hits_total", meaning, limit=limit.value)
            for limit in ConnectionLimit
        }

    def refused(self, limit: ConnectionLimit) -> None:
        """Count a connection that met a limit."""
        self._hits[limit].value += 1
